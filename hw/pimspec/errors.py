"""Typed errors for what a user can get wrong. The command line turns each into one line and exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PimError(Exception):
    """Base of every error that dimmpim raises about its input."""


class ParameterError(PimError, ValueError):
    """A parameter is outside what the hardware supports. The text says what was given and what is allowed."""


class UnsupportedFormatError(ParameterError):
    """A number format, or a pair of formats, that a unit does not implement."""


class UnknownNameError(PimError, LookupError):
    """A preset, unit or other named thing does not exist. The text lists what does.

    Parameters
    ----------
    kind : str
        What was looked up, such as ``"preset"``.
    given : str
        The name as the user gave it.
    allowed : iterable of str
        The names that exist.
    """

    def __init__(self, kind: str, given: str, allowed: Iterable[str]) -> None:
        self.kind, self.given, self.allowed = kind, given, tuple(sorted(allowed))
        close = difflib.get_close_matches(given, self.allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"unknown {kind} {given!r}{hint}; allowed: {', '.join(self.allowed)}")


class OutOfMemoryError(PimError, MemoryError):
    """A device has not the memory that a request needs. Nothing has changed."""


class RankError(PimError):
    """A rank that did not do what it was asked, or not in the time given."""


class ToolError(PimError, RuntimeError):
    """An external tool (simulator, compiler, Yosys) is missing or failed."""


def require(condition: bool, what: str, given: object, allowed: str) -> None:
    """Raise :class:`ParameterError` unless `condition` holds.

    The text is ``"{what} must be {allowed}, not {given!r}"``.
    """
    if not condition:
        raise ParameterError(f"{what} must be {allowed}, not {given!r}")


def is_power_of_two(n: int) -> bool:
    """Whether `n` is 1, 2, 4, ...: a condition that many parameters have."""
    return n >= 1 and n & (n - 1) == 0
