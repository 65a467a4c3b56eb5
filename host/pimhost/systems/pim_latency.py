"""Attention latency of a rank for one layer: an interface, clocks measured on RTL, and a plain stream.

The unit is one request on one rank, of which it holds some kv_heads of a layer. Requests on a rank follow one another,
so their times add up. The possible overlap of the next request's first K row with this one's last V row is left out.
Times are integers, so that sums are exact in any order.

The shipped table, ``pim_latency.json``, was measured by ``dimmpim pim-latency`` on the RTL of a rank; a file
``pim_latency_*.json`` beside it adds another preset. Any other :class:`AttentionLatency`, such as the rank's
cycle-exact timing model, can replace it in ``L3.attention_latency``, which is one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.attention.shape import ELEMENT_BYTES, MAX_GQA_GROUP_SIZE
from pimspec.errors import ParameterError, require
from pimspec.params.presets import preset_named

__all__ = [
    "TABLE_FILE",
    "AttentionLatency",
    "LatencyTable",
    "MeasuredLatency",
    "StreamLatency",
    "latency_document",
    "layer_ps",
    "measured_latency",
]

TABLE_FILE = Path(__file__).with_name("pim_latency.json")
HEAD_DIM = 128
JSON_VERSION = 1

IntArray = NDArray[np.int64]


class AttentionLatency(Protocol):
    """Interface of a device that computes attention, as a system sees it."""

    def request_ps(self, kv_heads: int, tokens: IntArray) -> IntArray:
        """Times of one rank for one layer of a request with `kv_heads` of its kv_heads there, for each of `tokens`."""


def layer_ps(latency: AttentionLatency, kv_heads: int, lengths_per_rank: Iterable[Sequence[int]]) -> int:
    """Time of one layer: that of the slowest rank; each rank has requests of the given lengths."""
    ranks = [latency.request_ps(kv_heads, np.asarray(lengths, np.int64)) for lengths in lengths_per_rank]
    return max((int(times.sum()) for times in ranks), default=0)


@dataclass(frozen=True, kw_only=True)
class StreamLatency:
    """Latency of a rank that streams K and V at a fixed rate; its arithmetic keeps up.

    Parameters
    ----------
    bytes_per_s : float
        Rate of one rank.
    head_dim : int
    """

    bytes_per_s: float
    head_dim: int = HEAD_DIM

    def __post_init__(self) -> None:
        require(self.bytes_per_s > 0, "bytes_per_s", self.bytes_per_s, "above 0")

    def request_ps(self, kv_heads: int, tokens: IntArray) -> IntArray:
        ps_per_token = kv_heads * 2 * self.head_dim * ELEMENT_BYTES / self.bytes_per_s * 1e12
        return np.rint(tokens * ps_per_token).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Controller clocks measured on one rank, with head_dim 128.

    Parameters
    ----------
    preset : str
    gqa_group_size : int
    tokens : tuple of int
        Lengths, ascending.
    first : tuple of int
        Clocks of one kv_head, for each count of tokens.
    further : tuple of float
        Clocks that each further kv_head of the request adds.

    Raises
    ------
    ParameterError
    """

    preset: str
    gqa_group_size: int
    tokens: tuple[int, ...]
    first: tuple[int, ...]
    further: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.tokens) >= 2, "tokens of a latency table", self.tokens, "two or more")
        ascending = all(a < b for a, b in pairwise(self.tokens)) and self.tokens[0] >= 1
        require(ascending, "tokens of a latency table", self.tokens, "ascending, from 1 on")
        for name in ("first", "further"):
            clocks = getattr(self, name)
            require(len(clocks) == len(self.tokens), f"{name} clocks", clocks, f"{len(self.tokens)} of them")
            rising = all(0 < a <= b for a, b in pairwise(clocks))
            require(rising, f"{name} clocks", clocks, "above 0, and not falling with tokens")

    @classmethod
    def of(
        cls, *, preset: str, gqa_group_size: int, tokens: Sequence[int], first: ArrayLike, further: ArrayLike
    ) -> Self:
        """Table from anything that NumPy converts to an array; clocks of further kv_heads are rounded to a tenth."""
        return cls(
            preset=preset,
            gqa_group_size=gqa_group_size,
            tokens=tuple(tokens),
            first=tuple(np.asarray(first, np.int64).tolist()),
            further=tuple(np.round(np.asarray(further, float), 1).tolist()),
        )

    def clocks(self, kv_heads: int, tokens: IntArray) -> IntArray:
        """Clocks, piecewise linear in tokens; a request below the shortest one measured takes as long as that one.

        Beyond the longest one measured, the last slope continues: segments of 8,192 tokens follow one another there.
        """
        require(kv_heads >= 1, "kv_heads", kv_heads, "1 or more")
        knots, first, further = self._arrays
        at_knots = first + (kv_heads - 1) * further
        slope = (at_knots[-1] - at_knots[-2]) / (knots[-1] - knots[-2])
        beyond = np.maximum(tokens - knots[-1], 0)
        return np.rint(np.interp(tokens, knots, at_knots) + beyond * slope).astype(np.int64)

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(np.array(values, float) for values in (self.tokens, self.first, self.further))


@dataclass(frozen=True, kw_only=True)
class MeasuredLatency:
    """Latency from a table of clocks, on a rank of its preset.

    A kv_head with more queries than a bank PU has lanes takes several passes.

    Parameters
    ----------
    table : LatencyTable
    gqa_group_size : int
        Group size of the model; one pass takes at most that of the table.
    """

    table: LatencyTable
    gqa_group_size: int

    @property
    def clock_ps(self) -> int:
        rank = preset_named(self.table.preset).rank
        return int(rank.timing.time_ps(rank.ck_per_clock))

    def request_ps(self, kv_heads: int, tokens: IntArray) -> IntArray:
        passes = -(-self.gqa_group_size // self.table.gqa_group_size)
        return self.table.clocks(kv_heads, np.asarray(tokens, np.int64)) * (passes * self.clock_ps)


def latency_document(
    tables: Sequence[LatencyTable], checks: Sequence[tuple[int, int, int, int]], *, backend: str = "rtl"
) -> dict[str, Any]:
    """Content of ``pim_latency.json``.

    Parameters
    ----------
    tables : sequence of LatencyTable
        Tables of one preset, one for each number of queries.
    checks : sequence of (gqa_group_size, kv_heads, tokens, clocks)
        Measurements that are not in the tables.
    backend : str
        Measured backend: ``rtl`` or ``timing``.
    """
    by_group = {table.gqa_group_size: table for table in tables}
    preset = tables[0].preset
    rows, worst = [], 0.0
    for group, kv_heads, tokens, clocks in checks:
        predicted = int(by_group[group].clocks(kv_heads, np.array([tokens]))[0])
        error = round(predicted / clocks - 1, 5)
        worst = max(worst, abs(error))
        rows.append(
            {
                "gqa_group_size": group, "kv_heads": kv_heads, "tokens": tokens,
                "clocks": clocks, "predicted": predicted, "relative_error": error,
            }
        )  # fmt: skip
    return {
        "version": JSON_VERSION,
        "made_by": f"dimmpim pim-latency --preset {preset} --backend {backend}",
        "what": "controller clocks from the first descriptor to the last result, strict tFAW, refresh on",
        "preset": preset,
        "head_dim": HEAD_DIM,
        "greatest_interpolation_error": worst,
        "tables": [
            {
                "gqa_group_size": t.gqa_group_size, "tokens": list(t.tokens),
                "first_kv_head": list(t.first), "further_kv_head": list(t.further),
            }
            for t in tables
        ],
        "checks": rows,
    }  # fmt: skip


def load_tables(path: Path) -> dict[tuple[str, int], LatencyTable]:
    """Tables by preset and gqa_group_size, from a file written by ``dimmpim pim-latency``.

    Raises
    ------
    ParameterError
        If the file is malformed.
    OSError
    """
    try:
        document = json.loads(path.read_text())
        tables = [
            LatencyTable.of(
                preset=document["preset"],
                gqa_group_size=entry["gqa_group_size"],
                tokens=entry["tokens"],
                first=entry["first_kv_head"],
                further=entry["further_kv_head"],
            )
            for entry in document["tables"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ParameterError(f"{path}: not written by `dimmpim pim-latency`: {error!r}") from None
    return {(table.preset, table.gqa_group_size): table for table in tables}


@cache
def _shipped() -> dict[tuple[str, int], LatencyTable]:
    found: dict[tuple[str, int], LatencyTable] = {}
    for path in sorted(TABLE_FILE.parent.glob(f"{TABLE_FILE.stem}*.json")):
        found |= load_tables(path)
    return found


def measured_latency(preset: str, gqa_group_size: int, *, head_dim: int, file: Path | None = None) -> AttentionLatency:
    """Latency of a rank of this preset, for a model with `gqa_group_size` queries for each kv_head.

    The table is that of the least measured number of queries that suffices: a bank PU with more lanes takes no longer.
    If the model has more queries than any table, the greatest table is passed through several times.

    Raises
    ------
    ParameterError
        If the preset or the head_dim has not been measured.
    """
    require(head_dim == HEAD_DIM, "head_dim", head_dim, f"{HEAD_DIM}, which the latency of a rank was measured with")
    measured = load_tables(file) if file else _shipped()
    tables = {group: table for (name, group), table in measured.items() if name == preset}
    names = ", ".join(sorted({name for name, _ in measured}))
    require(bool(tables), "preset", preset, f"one whose latency was measured: {names}")
    enough = [group for group in tables if group >= min(gqa_group_size, MAX_GQA_GROUP_SIZE)]
    table = tables[min(enough) if enough else max(tables)]
    return MeasuredLatency(table=table, gqa_group_size=gqa_group_size)
