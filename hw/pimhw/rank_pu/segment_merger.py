"""Segment merger: merges the results of a context's segments, and keeps the outputs for the host."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.formats import FP32
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of
from .merge import Merge

__all__ = ["SegmentMerger"]


class SegmentMerger(wiring.Component):
    """Segment merger: for each query of an item, merges the partial of earlier segments with that of this one.

    The merge unit is given the partial result so far (unless the item is the first of its kv_head) and the new one; its
    result is kept as the partial result, or, for the last item, normalised if asked and put into the output memory.

    Timing model: ``struct SegmentMerger`` of ``rank_pu.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    item : In(stream.Signature(params.item))
        Taken when all is done.
    stats : In(stream.Signature(params.softmax.stats))
    whole_group_lines, release, query, beat, vector
        The vectors of the item: see :class:`~.reducer.Reducer`.
    finished : Out(1)
        An item with `final` is done.
    read_line : In; line : Out
        The output memory, for the host: `line` shows it in the next clock.
    read_output : In; m, l : Out
        The statistics of an output, likewise.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        self.window = p.window
        super().__init__(
            {
                "item": In(stream.Signature(layout_of(p.item))),
                "stats": In(stream.Signature(layout_of(p.softmax.stats))),
                "whole_group_lines": In(range(p.lines_per_group + 1)),
                "release": Out(1),
                "query": Out(index_bits(p.queries_at_once)),
                "beat": Out(index_bits(p.merge.num_beats)),
                "vector": In(data.ArrayLayout(FP32.width, p.merge.lanes)),
                "finished": Out(1),
                "read_line": In(range(p.queries * self.window.output_lines)),
                "line": Out(p.line_bytes * 8),
                "read_output": In(range(p.queries)),
                "m": Out(FP32.width),
                "l": Out(FP32.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, item = self.params, self.item.payload
        beats = p.merge.num_beats
        m.submodules.merge = merge = Merge(params=p.merge)
        done = Signal()
        have_stats, stats_m, stats_l = self._stats(m, done)

        # What goes in: `old` the partial result so far, then the new one.
        query, beat = Signal(range(p.queries_at_once)), Signal(range(beats))
        old, fetched, feeding = Signal(), Signal(), Signal(init=1)
        step, next_beat = Signal(), Signal.like(beat)
        running = Signal()
        m.d.comb += running.eq(
            self.item.valid & have_stats & ((query >> (p.queries_per_line.bit_length() - 1)) < self.whole_group_lines)
        )
        beat_end = beat == beats - 1
        m.submodules.partials = partials = memory.Memory(
            shape=data.ArrayLayout(FP32.width, p.merge.lanes), depth=p.queries_at_once * beats, init=[]
        )
        m.submodules.partial_stats = partial_stats = memory.Memory(
            shape=2 * FP32.width, depth=p.queries_at_once, init=[]
        )
        read, read_stats = partials.read_port(), partial_stats.read_port()
        m.d.comb += [
            step.eq(merge.i.valid & merge.i.ready),
            next_beat.eq(Mux(step, Mux(beat_end, 0, beat + 1), beat)),
            self.query.eq(query),
            self.beat.eq(next_beat),
            read.en.eq(1),
            read.addr.eq(query * beats + next_beat),
            read_stats.en.eq(1),
            read_stats.addr.eq(query),
            merge.i.valid.eq(running & fetched & feeding),
            merge.i.payload.o.eq(Mux(old, read.data.as_value(), self.vector.as_value())),
            merge.i.payload.m.eq(Mux(old, read_stats.data[: FP32.width], stats_m[query])),
            merge.i.payload.l.eq(Mux(old, read_stats.data[FP32.width :], stats_l[query])),
            merge.i.payload.last.eq(~old),
            merge.i.payload.normalise.eq(item.final & item.normalise),
        ]
        begun = Signal()
        with m.If(running & ~begun):
            m.d.sync += [begun.eq(1), old.eq(~item.first)]
        m.d.sync += fetched.eq(running & begun)
        m.d.sync += beat.eq(next_beat)
        with m.If(step & beat_end):
            with m.If(old):
                m.d.sync += old.eq(0)
            with m.Else():
                m.d.sync += feeding.eq(0)  # until the result is out

        # What comes out.
        result = Signal(range(beats))
        out = merge.o
        result_end = out.valid & (result == beats - 1)
        write, write_stats = partials.write_port(), partial_stats.write_port()
        words = Cat(out.payload.o)
        m.d.comb += [
            out.ready.eq(1),
            write.en.eq(out.valid & ~item.final),
            write.addr.eq(query * beats + result),
            write.data.as_value().eq(words),
            write_stats.en.eq(out.valid & ~item.final),
            write_stats.addr.eq(query),
            write_stats.data.eq(Cat(out.payload.m, out.payload.l)),
            done.eq(result_end & (query == item.last_query)),
            self.release.eq(done),
            self.item.ready.eq(done),
            self.finished.eq(done & item.final),
        ]
        with m.If(out.valid):
            m.d.sync += result.eq(Mux(result_end, 0, result + 1))
        with m.If(result_end):
            m.d.sync += [feeding.eq(1), old.eq(~item.first), query.eq(query + 1), fetched.eq(0)]
        with m.If(done):
            m.d.sync += [query.eq(0), begun.eq(0)]
        self._outputs(m, words, out.valid & item.final, item.output + query, result, out.payload.m, out.payload.l)
        return m

    def _stats(self, m: Module, done: Value):  # type: ignore[no-untyped-def]
        """Statistics of the item at hand, by query, until it is `done`; those of the next item wait in a queue."""
        p = self.params
        stats_m = Array(Signal(FP32.width, name=f"m{q}", reset_less=True) for q in range(p.queries_at_once))
        stats_l = Array(Signal(FP32.width, name=f"l{q}", reset_less=True) for q in range(p.queries_at_once))
        have = Signal()
        given = self.stats.payload
        m.d.comb += self.stats.ready.eq(~have)
        with m.If(self.stats.valid & ~have):
            for s in range(p.queries_per_line):
                m.d.sync += [
                    stats_m[given.group_line * p.queries_per_line + s].eq(given.m[s]),
                    stats_l[given.group_line * p.queries_per_line + s].eq(given.l[s]),
                ]
            m.d.sync += have.eq(given.last)
        with m.If(done):
            m.d.sync += have.eq(0)
        return have, stats_m, stats_l

    def _outputs(self, m: Module, words, valid, output, beat, score_max, total) -> None:  # type: ignore[no-untyped-def]
        p = self.params
        beat_bits = p.merge.lanes * FP32.width
        per_line = max(1, p.line_bytes * 8 // beat_bits)
        lines = p.queries * self.window.output_lines
        m.submodules.outputs = outputs = memory.Memory(
            shape=data.ArrayLayout(beat_bits, per_line), depth=lines, init=[]
        )
        write, read = outputs.write_port(granularity=1), outputs.read_port()
        place = Signal(range(lines * per_line))
        part_bits = (per_line - 1).bit_length()
        m.d.comb += [
            place.eq(output * p.merge.num_beats + beat),
            write.addr.eq(place >> part_bits),
            write.data.as_value().eq(words.replicate(per_line)),
            write.en.eq(Cat(valid & ((place[:part_bits] if part_bits else 0) == k) for k in range(per_line))),
            read.en.eq(1),
            read.addr.eq(self.read_line),
            self.line.eq(read.data),
        ]
        m.submodules.statistics = statistics = memory.Memory(shape=2 * FP32.width, depth=p.queries, init=[])
        write_stats, read_stats = statistics.write_port(), statistics.read_port()
        m.d.comb += [
            write_stats.en.eq(valid),
            write_stats.addr.eq(output),
            write_stats.data.eq(Cat(score_max, total)),
            read_stats.en.eq(1),
            read_stats.addr.eq(self.read_output),
            self.m.eq(read_stats.data[: FP32.width]),
            self.l.eq(read_stats.data[FP32.width :]),
        ]
