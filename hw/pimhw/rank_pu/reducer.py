"""Reducer: adds the sums of the chips, and collects the vectors of an item."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.formats import FP32
from pimspec.params.arith import FpAddParams
from pimspec.params.pim_rank import PimRankParams

from ..arith.fp_add import FpAddCore

__all__ = ["Reducer"]


class Reducer(wiring.Component):
    """Reducer: turns each line of sums into one element of `queries_per_line` output vectors.

    The element is the sum over the chips, pairwise in chip order.

    ``params.merge.lanes`` successive dims make a beat of the vector memory, which holds the `rows` vectors of one item.
    Golden: :func:`pimspec.golden.dot.tree_sum` over the chips, as in :func:`pimspec.golden.attention.weighted_sum`.

    Timing model: ``struct Reducer`` of ``rank_pu.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    valid, sums, dim, group_line : In
        `sums`: for each chip, `queries_per_line` FP32 numbers. The dims of a line of the group come in runs of a beat,
        lowest first.
    whole_group_lines : Out
        Number of lines of the group, from the first on, that are in the memory with all their elements.
    release : In(1)
        The vectors are not needed any more.
    query, beat : In
        Element to read; `vector` shows it in the next clock.
    vector : Out(params.merge.lanes x 32)
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        super().__init__(
            {
                "valid": In(1),
                "sums": In(data.ArrayLayout(p.access_bytes * 8, p.num_chips)),
                "dim": In(index_bits(p.head_dim)),
                "group_line": In(index_bits(p.lines_per_group)),
                "whole_group_lines": Out(range(p.lines_per_group + 1)),
                "release": In(1),
                "query": In(index_bits(p.queries_at_once)),
                "beat": In(index_bits(p.merge.num_beats)),
                "vector": Out(data.ArrayLayout(FP32.width, p.merge.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        lanes, beats = p.merge.lanes, p.merge.num_beats
        lane_bits = (lanes - 1).bit_length()
        valid = Signal(p.reduce_clocks)
        arriving = Cat(self.valid, valid)
        m.d.sync += valid.eq(arriving)
        dim, group_line = self.dim, self.group_line
        for k in range(p.reduce_clocks):
            next_dim, next_group_line = Signal.like(dim, name=f"dim{k}"), Signal.like(group_line, name=f"group_line{k}")
            m.d.sync += [next_dim.eq(dim), next_group_line.eq(group_line)]
            dim, group_line = next_dim, next_group_line
        due = valid[-1]
        stream_bits = (p.queries_per_line - 1).bit_length()
        vectors: list[Value] = []
        read_stream = Signal(max(1, stream_bits))
        m.d.sync += read_stream.eq(self.query[:stream_bits] if stream_bits else 0)
        for s in range(p.queries_per_line):
            total = self._tree(m, s, arriving)
            held = [Signal(FP32.width, name=f"held{s}_{k}", reset_less=True) for k in range(lanes - 1)]
            for k, register in enumerate(held):
                with m.If(due & (dim[:lane_bits] == k)):
                    m.d.sync += register.eq(total)
            m.submodules[f"vectors{s}"] = store = memory.Memory(
                shape=data.ArrayLayout(FP32.width, lanes), depth=p.lines_per_group * beats, init=[]
            )
            write, read = store.write_port(), store.read_port()
            m.d.comb += [
                write.en.eq(due & (dim[:lane_bits] == lanes - 1)),
                write.addr.eq(group_line * beats + dim[lane_bits:]),
                write.data.as_value().eq(Cat(*held, total)),
                read.en.eq(1),
                read.addr.eq((self.query >> stream_bits) * beats + self.beat),
            ]
            vectors.append(read.data.as_value())
        m.d.comb += self.vector.as_value().eq(Array(vectors)[read_stream] if p.queries_per_line > 1 else vectors[0])

        count = Signal(range(p.head_dim))
        with m.If(self.release):
            m.d.sync += self.whole_group_lines.eq(0)
        with m.Elif(due):
            m.d.sync += count.eq(count + 1)
            with m.If(count == p.head_dim - 1):
                m.d.sync += [count.eq(0), self.whole_group_lines.eq(self.whole_group_lines + 1)]
        return m

    def _tree(self, m: Module, stream: int, arriving: Value) -> Value:
        terms: list[Value] = [chip.word_select(stream, FP32.width) for chip in self.sums]
        position = 0
        depth = self.params.REDUCE_ADD_DEPTH
        while len(terms) > 1:
            parents = []
            for left, right in zip(terms[0::2], terms[1::2], strict=True):
                adder = FpAddCore(params=FpAddParams(depth=depth))
                m.submodules[f"add{stream}_{position}_{len(parents)}"] = adder
                m.d.comb += [
                    adder.i.a.eq(left),
                    adder.i.b.eq(right),
                    adder.en.eq(arriving[position : position + depth]),
                ]
                parents.append(adder.o.y)
            terms, position = parents, position + depth
        return terms[0]
