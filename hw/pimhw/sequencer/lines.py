"""Probability lines on their way to the operand buffers."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["ProbLines", "line_layout"]


def line_layout(params: PimRankParams) -> data.StructLayout:
    """Layout of a PIM_WR_SB: data of each chip, absent elements, destination, and end marks."""
    return data.StructLayout(
        {
            "data": params.line_bytes * 8,
            "absent": params.num_chips * params.lanes,
            "address": index_bits(params.operand_words),
            "row": index_bits(params.queries_at_once),
            "queries_end": 1,
            "row_end": 1,
        }
    )


class ProbLines(wiring.Component):
    """Converter of softmax beats into lines, one for each query.

    A V row's probabilities go into one of ``params.prob_slots`` places of the operand buffers; its first line waits for
    a place that all banks have left. The last line of a row is marked `row_end`.

    Timing model: ``struct ProbLines`` of ``bus.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i : In(stream.Signature(params.softmax.outputs))
    row_done : In(num_banks)
        The bank has used a row's probabilities; `done_slot` (an array of a bank each) says which.
    o : Out(stream.Signature(line_layout(params)))
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(params.softmax.outputs))),
                "row_done": In(params.num_banks),
                "done_slot": In(index_bits(params.prob_slots)).array(params.num_banks),
                "o": Out(stream.Signature(line_layout(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, line = self.params, self.o.payload
        # A beat waits here for its lines to go, so that the softmax does not stand still for them.
        layout = layout_of(p.softmax.outputs)
        full, beat, beat_taken = Signal(), Signal(layout, reset_less=True), Signal()
        m.d.comb += self.i.ready.eq(~full | beat_taken)
        with m.If(self.i.ready):
            m.d.sync += [full.eq(self.i.valid), beat.eq(self.i.payload)]
        row_start, row_end, beat_end = Signal(), Signal(), Signal()
        held, place = Signal(), Signal(range(p.prob_slots))  # the row at hand has its place
        used = Signal(range(p.prob_slots + 1))
        stream_number, part = Signal(range(p.queries_per_line)), Signal(p.line_bytes * 8)
        word = beat.word[: index_bits(p.row_words)] if p.row_words > 1 else 0
        lines = [beat.probs.as_value().word_select(s, p.line_bytes * 8) for s in range(p.queries_per_line)]
        last_stream = stream_number == p.queries_per_line - 1 if p.queries_per_line > 1 else 1
        m.d.comb += [
            part.eq(Array(lines)[stream_number]),
            row_end.eq(beat.last | ((word == p.row_words - 1) & beat.group_end)),
            beat_end.eq(last_stream),
            self.o.valid.eq(full & held),
            line.data.eq(part),
            line.absent.eq(~beat.keep.as_value()),
            line.address.eq(p.operand_words // 2 + place * p.row_words + word),
            line.row.eq(beat.group_line * p.queries_per_line + stream_number),
            line.queries_end.eq(0),
            line.row_end.eq(row_end & beat_end),
            beat_taken.eq(self.o.valid & self.o.ready & beat_end),
            row_start.eq(full & ~held & (used != p.prob_slots)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += stream_number.eq(Mux(beat_end, 0, stream_number + 1))
            with m.If(line.row_end):
                m.d.sync += [held.eq(0), place.eq(Mux(place == p.prob_slots - 1, 0, place + 1))]
        with m.If(row_start):
            m.d.sync += held.eq(1)
        freed = []
        for slot in range(p.prob_slots):
            done, after = Signal(p.num_banks, name=f"done{slot}"), Signal(p.num_banks, name=f"after{slot}")
            here = Cat(self.row_done[b] & (self.done_slot[b] == slot) for b in range(p.num_banks))
            m.d.comb += after.eq(done | here)
            m.d.sync += done.eq(Mux(after.all(), 0, after))
            freed.append(after.all())
        m.d.sync += used.eq(used + row_start - Cat(freed).any())
        return m
