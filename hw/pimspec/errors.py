"""Typed errors for faulty input. The command line turns each into one line and exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PimError(Exception):
    """Base of every error that dimmpim raises about its input."""


class ParameterError(PimError, ValueError):
    """Parameter outside what the hardware supports; the text gives the value and what is allowed."""


class UnsupportedFormatError(ParameterError):
    """A number format, or a pair of formats, that a unit does not implement."""


class UnknownNameError(PimError, LookupError):
    """Unknown name of a preset, unit or other named thing; the text lists the known ones.

    Parameters
    ----------
    kind : str
        Kind of thing that was looked up, such as ``"preset"``.
    given : str
        Name as the user gave it.
    allowed : iterable of str
        Names that exist.
    """

    def __init__(self, kind: str, given: str, allowed: Iterable[str]) -> None:
        self.kind, self.given, self.allowed = kind, given, tuple(sorted(allowed))
        close = difflib.get_close_matches(given, self.allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"unknown {kind} {given!r}{hint}; allowed: {', '.join(self.allowed)}")


class OutOfMemoryError(PimError, MemoryError):
    """Too little device memory for a request; the device's state has not changed."""


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
    """True if `n` is 1, 2, 4, ...: a condition on many parameters."""
    return n >= 1 and n & (n - 1) == 0
