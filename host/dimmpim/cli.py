"""The command `dimmpim`. Each subcommand lives in a module of its own under :mod:`dimmpim.commands`."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from dimmpim.endings import ending_of, silence_stdout

__all__ = ["cli", "main"]


class _Commands(click.Group):
    """Loads the subcommands when they are first asked for: that takes a second, which Ctrl-C may interrupt."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._load()
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # before click prints an empty line for it

    def _load(self) -> None:
        from . import commands  # noqa: PLC0415 - slow to import

        if not self.commands:
            for command in commands.ALL:
                self.add_command(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dimmpim")
def cli() -> None:
    """Open RTL of a DIMM-PIM for long-context LLM decode attention.

    Generated Verilog and compiled simulations are kept in $DIMMPIM_BUILD_DIR, or else in the user's cache folder
    ($XDG_CACHE_HOME/dimmpim, ~/.cache/dimmpim); all of it can be made again.

    \b
    Examples:
      dimmpim presets
      dimmpim verilog --preset ddr4-3200-x8-8gb --out build/rtl
      dimmpim simulate --preset tiny --unit dot --simulator icarus --waves
    """


@contextmanager
def _termination_as_interrupt() -> Iterator[list[int]]:
    """SIGTERM does what Ctrl-C does; the list says whether it came.

    It does so once: a second one, as `timeout` sends, does not cut the ending short. Where it was ignored it stays so.
    """
    came: list[int] = []

    def heed(number: int, frame: object) -> None:
        if not came:
            came.append(number)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # even where it was ignored
            signal.raise_signal(signal.SIGINT)  # waits where that signal is held

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield came
        return
    interrupt = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, heed)
    try:
        yield came
    finally:
        if came:
            signal.signal(signal.SIGINT, interrupt)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: whatever ends a command early becomes one line and an exit status (:mod:`dimmpim.endings`)."""
    with _termination_as_interrupt() as terminated:
        try:
            status = cli.main(args=arguments, prog_name="dimmpim", standalone_mode=False)
        except BaseException as error:  # SystemExit and KeyboardInterrupt, too
            warnings.simplefilter("ignore")  # of what is left half-built
            text, status = ending_of(error, terminated=bool(terminated))
            if isinstance(error, BrokenPipeError):
                silence_stdout()
            if isinstance(error, click.Abort | KeyboardInterrupt) and sys.stderr.isatty():
                click.echo(err=True)  # the terminal has ^C in this line
            if text:
                click.echo(text, err=True)
    if status:
        sys.exit(status)
