"""Readers of serving traces.

========  ==========================================================================  ==================================
format    columns or keys                                                             origin
========  ==========================================================================  ==================================
azure     TIMESTAMP, ContextTokens, GeneratedTokens                                   Azure LLM inference trace 2023
mooncake  timestamp (ms), input_length, output_length, a JSON object a line           Mooncake traces
vidur     num_prefill_tokens, num_decode_tokens, and if recorded arrived_at (or _s)   processed traces of vidur
dimmpim   arrival_ns, prompt_tokens, output_tokens                                    ``dimmpim workload --out``
========  ==========================================================================  ==================================

Further columns and keys are ignored, also the prefix hashes of Mooncake: no prompt is taken from a cache. Arrivals
count from the first request. Lengths without arrivals all arrive at 0. The file is read line by line; the first fault
ends it. A first line ``# synthetic: SOURCE`` or ``# recorded: SOURCE`` says where the requests come from.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pimspec.errors import UnknownNameError, require

from .lines import TraceError, read_lines
from .workload import MOST_NS, MOST_TOKENS, Workload

__all__ = ["FORMATS", "TraceFormat", "read_trace"]

_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?\d{1,20}(\.\d{1,30})?([eE][+-]?\d{1,2})?", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:Z|\+00:?00)?", re.ASCII)
_ORIGIN = re.compile(r"# (synthetic|recorded): (.*)")
_EPOCH = datetime(1970, 1, 1)


def _tokens(value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"must be an integer, not {_shown(value)}")
    if not 1 <= value <= MOST_TOKENS:
        raise ValueError(f"must be 1..{MOST_TOKENS}, not {value}")
    return value


def _scaled_ns(value: object, ns: int) -> int:
    """A number, as text or from JSON, times `ns`; exact."""
    text = str(value)
    if isinstance(value, bool) or not _DECIMAL.fullmatch(text):
        raise ValueError(f"must be a number, not {_shown(value)}")
    return _bounded(int((Decimal(text) * ns).to_integral_value()))


def _bounded(ns: int) -> int:
    if not 0 <= ns <= MOST_NS:
        raise ValueError(f"must be a time from 0 on, not {ns} ns")
    return ns


def _timestamp_ns(value: object) -> int:
    match = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a date and time, not {_shown(value)}")
    since = datetime.fromisoformat(match[1]) - _EPOCH
    return _bounded((since.days * 86_400 + since.seconds) * 10**9 + int((match[2] or "0").ljust(9, "0")))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass(frozen=True, kw_only=True)
class TraceFormat:
    """How a trace names its columns.

    Parameters
    ----------
    source : str
        What to cite.
    prompt, output : str
        Columns of the lengths.
    arrivals : tuple of str
        Columns of which the first that exists is the arrival.
    arrival_ns : callable
        From a value of that column to ns.
    arrival_required : bool
    json_lines : bool
        A JSON object a line rather than CSV with a header.
    """

    source: str
    prompt: str
    output: str
    arrivals: tuple[str, ...]
    arrival_ns: Callable[[object], int]
    arrival_required: bool = True
    json_lines: bool = False


FORMATS: Mapping[str, TraceFormat] = MappingProxyType(
    {
        "azure": TraceFormat(
            source="Azure LLM inference trace 2023 (CC-BY-4.0); Splitwise, ISCA 2024",
            prompt="ContextTokens",
            output="GeneratedTokens",
            arrivals=("TIMESTAMP",),
            arrival_ns=_timestamp_ns,
        ),
        "mooncake": TraceFormat(
            source="Mooncake trace (Apache-2.0); Mooncake, FAST 2025",
            prompt="input_length",
            output="output_length",
            arrivals=("timestamp",),
            arrival_ns=lambda value: _scaled_ns(value, 10**6),
            json_lines=True,
        ),
        "vidur": TraceFormat(
            source="lengths in the form of vidur (MIT)",
            prompt="num_prefill_tokens",
            output="num_decode_tokens",
            arrivals=("arrived_at", "arrived_at_s"),
            arrival_ns=lambda value: _scaled_ns(value, 10**9),
            arrival_required=False,
        ),
        "dimmpim": TraceFormat(
            source="written by dimmpim workload",
            prompt="prompt_tokens",
            output="output_tokens",
            arrivals=("arrival_ns",),
            arrival_ns=lambda value: _scaled_ns(value, 1),
        ),
    }
)


def read_trace(path: Path, trace_format: str | None = None, *, most_requests: int | None = None) -> Workload:
    """Read a trace, plain or gzip.

    Parameters
    ----------
    path : Path
    trace_format : str, optional
        A key of `FORMATS`; by default what the first line looks like.
    most_requests : int, optional
        Read no further than so many requests.

    Raises
    ------
    TraceError
        With file, line and reason.
    UnknownNameError
    OSError
    """
    if trace_format is not None and trace_format not in FORMATS:
        raise UnknownNameError("trace format", trace_format, FORMATS)
    require(most_requests is None or most_requests >= 1, "most_requests", most_requests, "1 or more")
    lines = read_lines(path)
    first = next(lines, None)
    if first is None:
        raise TraceError(path, None, "empty")
    synthetic, source = False, ""
    if origin := _ORIGIN.fullmatch(first[1]):
        synthetic, source = origin[1] == "synthetic", origin[2]
        first = next(lines, None)
        if first is None:
            raise TraceError(path, None, "empty")
    kind = FORMATS[trace_format or _recognised(path, *first)]
    rows = _json_rows(path, first, lines) if kind.json_lines else _csv_rows(path, kind, first, lines)
    arrival_ns: list[int] = []
    prompt_tokens: list[int] = []
    output_tokens: list[int] = []
    begin = 0
    for line, row in rows:
        prompt_tokens.append(_value(path, line, row, kind.prompt, _tokens))
        output_tokens.append(_value(path, line, row, kind.output, _tokens))
        column = next((name for name in kind.arrivals if name in row), None)
        if column is None and kind.arrival_required:
            raise TraceError(path, line, f"no {kind.arrivals[0]}")
        arrival = 0 if column is None else _value(path, line, row, column, kind.arrival_ns)
        begin = begin if arrival_ns else arrival
        arrival_ns.append(arrival - begin)
        if len(arrival_ns) > 1 and arrival_ns[-1] < arrival_ns[-2]:
            raise TraceError(path, line, f"unsorted: {column} is before that of the request above")
        if len(arrival_ns) == most_requests:
            break
    if not arrival_ns:
        raise TraceError(path, None, "no requests after the header")
    return Workload.of(
        path.name,
        source or kind.source,
        synthetic=synthetic,
        arrival_ns=arrival_ns,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


def _recognised(path: Path, line: int, text: str) -> str:
    if text.startswith("{"):
        return next(name for name, kind in FORMATS.items() if kind.json_lines)
    columns = {column.strip() for column in text.split(",")}
    tables = {name: kind for name, kind in FORMATS.items() if not kind.json_lines}
    for name, kind in tables.items():
        if columns & {kind.prompt, kind.output}:
            return name
    wanted = "; ".join(f"{kind.prompt},{kind.output} ({name})" for name, kind in tables.items())
    raise TraceError(path, line, f"no known format: neither JSON nor a header with {wanted}")


def _csv_rows(
    path: Path, kind: TraceFormat, first: tuple[int, str], lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    line, text = first
    header = [column.strip() for column in _cells(path, line, text)]
    needed = [kind.prompt, kind.output, *(kind.arrivals[:1] if kind.arrival_required else ())]
    if missing := [column for column in needed if column not in header]:
        raise TraceError(path, line, f"missing column {', '.join(missing)}")
    if len(set(header)) < len(header):
        raise TraceError(path, line, "two columns have the same name")
    for line, text in lines:
        cells = _cells(path, line, text)
        if len(cells) != len(header):
            raise TraceError(path, line, f"{len(cells)} columns, but the header has {len(header)}")
        yield line, dict(zip(header, cells, strict=True))


def _cells(path: Path, line: int, text: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except csv.Error as error:
        raise TraceError(path, line, f"not CSV: {error}") from None


def _json_rows(
    path: Path, first: tuple[int, str], lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in chain((first,), lines):
        yield line, _json_object(path, line, text)


def _json_object(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(path, line, f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise TraceError(path, line, "not a JSON object")
    return row


def _value(path: Path, line: int, row: Mapping[str, Any], column: str, convert: Callable[[object], int]) -> int:
    if column not in row:
        raise TraceError(path, line, f"no {column}")
    try:
        return convert(row[column])
    except ValueError as error:
        raise TraceError(path, line, f"{column} {error}") from None
