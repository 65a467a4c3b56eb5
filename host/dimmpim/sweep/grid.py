"""Configurations of a sweep: lists and ranges of values, and all their combinations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pimspec.errors import ParameterError, require

__all__ = ["MOST_CONFIGURATIONS", "grid", "numbers"]

MOST_CONFIGURATIONS = 1_000_000
"""Most configurations; more are a slip of a range."""
_LARGEST = 1e15
_DIGITS = 12
"""Significant digits of the numbers of a range, so that 0.1:0.3:0.1 has 0.3."""


def numbers(
    option: str, texts: Sequence[str], kind: type[int] | type[float], *, least: float, most: float = math.inf
) -> list[Any]:
    """Values of an option that was given several times: numbers and ranges, with commas between them.

    Parameters
    ----------
    option : str
    texts : sequence of str
        ``8``, ``1,2,4``, ``1:9:2`` (1, 3, 5, 7, 9), ``1024:8192:x2`` (1024, 2048, 4096, 8192).
    kind : type
    least, most : float

    Returns
    -------
    list of int or float
        Values in the order given, each once.

    Raises
    ------
    ParameterError
    """
    values: dict[Any, None] = {}
    for text in texts:
        for part in text.split(","):
            values |= dict.fromkeys(_range(option, part.strip(), kind))
    allowed = f"at least {least:g}" if math.isinf(most) else f"{least:g}..{most:g}"
    for value in values:
        require(least <= value <= most, option, value, allowed)
    return list(values)


def _range(option: str, text: str, kind: type[int] | type[float]) -> Iterator[Any]:
    parts = text.split(":")
    if len(parts) == 1:
        yield _number(option, text, text, kind)
        return
    require(len(parts) == 3, option, text, "FIRST:LAST:STEP or FIRST:LAST:xFACTOR")
    first, last = (_number(option, text, part, kind) for part in parts[:2])
    times = parts[2].startswith("x")
    step = _number(option, text, parts[2].removeprefix("x"), kind)
    ok = first <= last and (first > 0 and step > 1 if times else step > 0)
    require(ok, option, text, "a range that grows from FIRST to LAST")
    count = math.log(last / first) / math.log(step) if times else (last - first) / step
    require(count < MOST_CONFIGURATIONS, option, text, f"a range of fewer than {MOST_CONFIGURATIONS:,} numbers")
    for n in range(int(count + 1e-9) + 1):
        value = first * step**n if times else first + n * step
        yield value if kind is int else float(f"{value:.{_DIGITS}g}")


def _number(option: str, text: str, part: str, kind: type[int] | type[float]) -> Any:
    try:
        value = kind(part)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ParameterError(f"{option} must be {what} or ranges FIRST:LAST:STEP, not {text!r}") from None
    require(abs(value) <= _LARGEST, option, text, f"at most {_LARGEST:g}")
    return value


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values; the last axis changes fastest.

    Raises
    ------
    ParameterError
        If there are too many combinations.
    """
    count = math.prod(len(values) for values in axes.values())
    require(count <= MOST_CONFIGURATIONS, "number of configurations", count, f"at most {MOST_CONFIGURATIONS:,}")
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
