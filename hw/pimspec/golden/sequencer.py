"""Micro-ops on the rows of a rank, bit for bit. Hardware: ``pimhw.sequencer`` and the units that it drives.

:class:`Cells` are the DRAM rows of a rank as vectors lie in them; :func:`run_micro_ops` does what the micro-ops of one
program say, with the operations of :mod:`pimspec.golden.attention` in their order. Time does not exist here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..attention.placement import KvKind, KvLayout, StackAddress
from ..attention.shape import TOKEN_PER_CHIP, AttentionShape
from ..formats import FP16, FloatFormat
from ..isa import MicroKind, MicroOp
from ..params.pim_rank import PimRankParams
from .attention import segment_partial
from .merge import Partial, merge, normalise
from .rounding import Bits

__all__ = ["Cells", "MergedOutput", "Operands", "run_micro_ops"]

Words = NDArray[np.uint16]


class Cells:
    """The rows of a rank: elements of 16 bits, in every bank of every chip.

    Cells that were not written hold ones, a NaN, as they do in the simulation of the RTL.

    Parameters
    ----------
    params : PimRankParams
    """

    def __init__(self, params: PimRankParams) -> None:
        self._params = params
        self._rows: dict[int, Words] = {}

    @cached_property
    def _places(self) -> Mapping[KvKind, StackAddress]:
        """Of the elements of a row step, shape (tokens, head_dim), by the kind of the vectors."""
        p, shape = self._params, AttentionShape(num_q_heads=1, num_kv_heads=1, head_dim=self._params.head_dim)
        tokens, dims = np.ix_(np.arange(p.row_lines * p.num_chips), np.arange(p.head_dim))
        return {
            kind: KvLayout(
                organization=p.organization, shape=shape, mapping=TOKEN_PER_CHIP, kind=kind
            ).locate(0, tokens, dims)
            for kind in KvKind
        }  # fmt: skip

    def _row(self, row: int) -> Words:
        org = self._params.organization
        shape = (org.chips_per_rank, org.banks_per_chip, org.page_bytes // 2)
        return self._rows.setdefault(row, np.full(shape, 0xFFFF, np.uint16))

    def write(self, row: int, kind: KvKind, first_token: int, vectors: Words) -> None:
        """Store vectors, shape (n, head_dim), as the tokens of a row step from `first_token` on."""
        at, part = self._places[kind], slice(first_token, first_token + len(vectors))
        self._row(row)[at.chip[part], at.bank[part], at.column_byte[part] // 2] = vectors

    def read(self, row: int, kind: KvKind, tokens: int) -> Words:
        """The first `tokens` vectors of a row step, shape (tokens, head_dim), as bank PUs take them."""
        at, part = self._places[kind], slice(0, tokens)
        return self._row(row)[at.chip[part], at.bank[part], at.column_byte[part] // 2]


class Operands(NamedTuple):
    """The bits that one kv_head was computed from: shapes (g, d), (T, d), (T, d)."""

    q: Words
    k: Words
    v: Words


@dataclass(frozen=True, kw_only=True)
class MergedOutput:
    """What a last MERGE leaves in the output buffer: the results of the queries of one kv_head.

    Parameters
    ----------
    entry : int
        First entry of the output buffer.
    output : array of shape (g, head_dim)
        Bits in the format of the rank if normalised, else FP32 bits of o_partial.
    statistics : array of shape (g, 2)
        FP32 bits of m and l.
    normalised : bool
    operands : Operands
    """

    entry: int
    output: Bits
    statistics: Bits
    normalised: bool
    operands: Operands

    def values(self, format: FloatFormat) -> NDArray[np.float64]:
        """The normalised output as float64, shape (g, head_dim); `format` is that of the rank."""
        if not self.normalised:
            part = Partial(self.output, self.statistics[:, 0], self.statistics[:, 1])
            return normalise(part).astype(np.uint32).view(np.float32).astype(np.float64)
        if format == FP16:
            return self.output.astype(np.uint16).view(np.float16).astype(np.float64)
        return (self.output.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@dataclass
class _KvHead:
    """One kv_head on its way through the segments."""

    q: Words
    scale: int = 0
    tokens: int = 0
    k_rows: list[Words] = field(default_factory=list)
    v_rows: list[Words] = field(default_factory=list)
    result: Partial | None = None
    keys: list[Words] = field(default_factory=list)
    values: list[Words] = field(default_factory=list)


def run_micro_ops(
    params: PimRankParams, micro_ops: Iterable[MicroOp], queries: Words, cells: Cells
) -> list[MergedOutput]:
    """Do the micro-ops of one program.

    Parameters
    ----------
    params : PimRankParams
    micro_ops : iterable of MicroOp
        As :class:`pimspec.golden.dpa_program.Outcome` holds them.
    queries : uint16 array of shape (queries of the rank, head_dim)
        The query buffer.
    cells : Cells

    Returns
    -------
    list of MergedOutput
        One for each last MERGE, in order; a later one overwrites the entries of an earlier one.
    """
    order, outputs = params.attention_order(), []
    head = _KvHead(q=queries[:0])
    for op in micro_ops:
        match op.kind:
            case MicroKind.WR_QUERIES:
                head = _KvHead(q=queries[op.buffer_entry : op.buffer_entry + op.last_query + 1])
            case MicroKind.SOFTMAX:
                head.scale, head.k_rows, head.v_rows = op.scale, [], []
                head.tokens = (op.lines - 1) * params.num_chips + op.last_keep.bit_count()
            case MicroKind.MAC_K:
                head.k_rows.append(cells.read(op.row, KvKind.K, op.lines * params.num_chips))
            case MicroKind.MAC_V:
                head.v_rows.append(cells.read(op.row, KvKind.V, op.lines * params.num_chips))
            case MicroKind.RD_SUMS:
                k, v = (np.concatenate(rows)[: head.tokens] for rows in (head.k_rows, head.v_rows))
                part = segment_partial(head.q, k, v, head.scale, order)
                head.result = part if head.result is None else merge(head.result, part)
                head.keys.append(k)
                head.values.append(v)
            case MicroKind.MERGE if op.final:
                outputs.append(_merged(params, op, head))
            case _:
                pass
    return outputs


def _merged(params: PimRankParams, op: MicroOp, head: _KvHead) -> MergedOutput:
    assert head.result is not None, "a MERGE follows RD_SUMS"
    output = normalise(head.result, params.format) if op.normalise else head.result.o
    return MergedOutput(
        entry=op.buffer_entry,
        output=output,
        statistics=np.stack([head.result.m, head.result.l], axis=1),
        normalised=bool(op.normalise),
        operands=Operands(head.q, np.concatenate(head.keys), np.concatenate(head.values)),
    )
