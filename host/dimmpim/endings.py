"""How a command ends: every exception becomes one line on standard error and an exit status.

======  =====================================================================================
status  meaning
======  =====================================================================================
0       done
1       an external tool, a user's system or hardware failed, or a comparison found a difference
2       wrong input: what was given, and what is allowed
70      a fault of dimmpim itself; ``DIMMPIM_TRACEBACK=1`` shows where
130     interrupted (143 by SIGTERM)
======  =====================================================================================
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback

import click

from pimspec.errors import PimError, ToolError

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "REFUSED",
    "TERMINATED",
    "TRACEBACK_VARIABLE",
    "ending_of",
    "one_line",
    "silence_stdout",
]

FAILED, REFUSED, INTERNAL, INTERRUPTED = 1, 2, 70, 130
TERMINATED = 128 + signal.SIGTERM
TRACEBACK_VARIABLE = "DIMMPIM_TRACEBACK"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def one_line(text: str) -> str:
    """The text with its control characters, line breaks among them, as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text.strip())


def ending_of(error: BaseException, *, terminated: bool = False) -> tuple[str, int]:
    """The line to print (empty for none) and the exit status.

    Parameters
    ----------
    error : BaseException
        What a command raised.
    terminated : bool
        Whether an interrupt came as SIGTERM.
    """
    match error:
        case click.exceptions.NoArgsIsHelpError():
            line, status = error.format_message(), REFUSED
        case click.Abort() | KeyboardInterrupt():
            line, status = "dimmpim: interrupted", TERMINATED if terminated else INTERRUPTED
        case SystemExit():
            line, status = _exit_ending(error)
        case BrokenPipeError():
            line, status = "", FAILED
        case ToolError():  # with the last lines that the tool printed
            line, status = f"dimmpim: error: {error}", FAILED
        case _ if reason := _refusal(error):
            line, status = f"dimmpim: error: {one_line(reason)}", REFUSED
        case _:
            if os.environ.get(TRACEBACK_VARIABLE):
                traceback.print_exception(error)
            what = one_line(f"{type(error).__name__}: {error}")
            line = f"dimmpim: internal error: {what} (set {TRACEBACK_VARIABLE}=1 to see where)"
            status = INTERNAL
    return line, status


def _refusal(error: BaseException) -> str | None:
    """The reason why the input cannot be worked on; None for an error that is none of the input's."""
    reason: str | None = None
    match error:
        case PimError():
            reason = str(error)
        case click.ClickException():
            reason = error.format_message()
        case RecursionError():
            reason = "the input is nested too deeply"
        case MemoryError():
            reason = "not enough memory" + (f": {error}" if str(error) else "; smaller sizes need less")
        case UnicodeError():
            reason = f"text that is not UTF-8: {error}"
        case OSError() if error.filename is not None:
            name = error.filename
            reason = f"{error.strerror}: {os.fsdecode(name) if isinstance(name, bytes) else name}"
        case OSError() if error.errno == errno.ENOSPC:
            reason = f"{error.strerror}: standard output"
        case OSError():
            reason = error.strerror or str(error)
    return reason


def _exit_ending(error: SystemExit) -> tuple[str, int]:
    """Commands end through click: an exit with status 0 in the middle of one is nobody's success."""
    if not error.code:
        return "dimmpim: error: the command was ended by sys.exit() before its work was done", FAILED
    if isinstance(error.code, int):
        return "", error.code
    return f"dimmpim: error: {one_line(str(error.code))}", FAILED


def silence_stdout() -> None:
    """Standard output goes nowhere from now on: its reader has gone, and Python would complain at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
