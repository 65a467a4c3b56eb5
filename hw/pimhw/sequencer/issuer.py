"""Issuer: deals micro-ops out to the stages."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.isa import MicroKind
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["Issuer"]


class Issuer(wiring.Component):
    """Issuer: takes micro-ops in order, with a queue for the work of each stage; stages go on by themselves.

    SOFTMAX makes an item for the K stages and for the V stage, MERGE one for the segment merger; MAC_K and MAC_V hand
    rows to their stage. RD_SCORES, WR_PROBS and RD_SUMS say what the stages do anyway. BARRIER waits until `idle`.

    Timing model: ``struct Issuer`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i : In(stream.Signature(params.micro_op))
    k, v, fold : Out(stream.Signature(params.item))
    k_row, v_row : Out(stream.Signature(row_bits))
    idle : In(1)
        All that was handed out is done.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        item, row = layout_of(params.item), params.organization.row_bits
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(params.micro_op))),
                "k": Out(stream.Signature(item)),
                "v": Out(stream.Signature(item)),
                "fold": Out(stream.Signature(item)),
                "k_row": Out(stream.Signature(row)),
                "v_row": Out(stream.Signature(row)),
                "idle": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, op = self.params, self.i.payload
        item = Signal(layout_of(p.item))
        place = Signal.like(op.buffer_entry)
        m.d.comb += [
            item.lines.eq(op.lines),
            item.last_keep.eq(op.last_keep),
            item.last_group_line.eq(op.last_query >> (p.queries_per_line.bit_length() - 1)),
            item.last_query.eq(op.last_query),
            item.query.eq(place),
            item.output.eq(op.buffer_entry),
            item.scale.eq(op.scale),
            item.first.eq(op.first),
            item.final.eq(op.final),
            item.normalise.eq(op.normalise),
            item.static_order.eq(op.static_order),
        ]
        space, push = {}, {}
        rows = p.SEGMENTS_AHEAD * p.segment_rows
        for name, depth, value in (
            ("k", p.SEGMENTS_AHEAD, item.as_value()),
            ("v", p.SEGMENTS_AHEAD, item.as_value()),
            ("fold", p.SEGMENTS_AHEAD, item.as_value()),
            ("k_row", rows, op.row),
            ("v_row", rows, op.row),
        ):
            m.submodules[name] = queue = fifo.SyncFIFOBuffered(width=len(value), depth=depth)
            port, push[name] = getattr(self, name), Signal(name=f"push_{name}")
            space[name] = queue.w_rdy
            m.d.comb += [
                queue.w_data.eq(value),
                queue.w_en.eq(push[name]),
                port.payload.eq(queue.r_data),
                port.valid.eq(queue.r_rdy),
                queue.r_en.eq(port.ready),
            ]
        with m.Switch(op.kind):
            with m.Case(MicroKind.WR_QUERIES):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += place.eq(op.buffer_entry)
            with m.Case(MicroKind.SOFTMAX):
                m.d.comb += self.i.ready.eq(space["k"] & space["v"])
                for name in ("k", "v"):
                    m.d.comb += push[name].eq(self.i.valid & self.i.ready)
            for kind, name in ((MicroKind.MAC_K, "k_row"), (MicroKind.MAC_V, "v_row"), (MicroKind.MERGE, "fold")):
                with m.Case(kind):
                    m.d.comb += [self.i.ready.eq(space[name]), push[name].eq(self.i.valid)]
            with m.Case(MicroKind.BARRIER):
                m.d.comb += self.i.ready.eq(self.idle)
            with m.Default():
                m.d.comb += self.i.ready.eq(1)
        return m
