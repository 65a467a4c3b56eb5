"""Proof of the issuer: each micro-op reaches its queues once, in order, and no full queue is pushed."""

from __future__ import annotations

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal, Value

from pimspec.fields import index_bits
from pimspec.isa import MicroKind
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of
from ..sequencer.issuer import Issuer
from .opened import Opened

__all__ = ["IssuerProof"]

FEEDS = {
    "k": MicroKind.SOFTMAX,
    "v": MicroKind.SOFTMAX,
    "fold": MicroKind.MERGE,
    "k_row": MicroKind.MAC_K,
    "v_row": MicroKind.MAC_V,
}
"""Micro-op kind that each output of the issuer hands out."""


class IssuerProof(Elaboratable):
    """Queues of the issuer, for any micro-ops at any time and stages that take at any time. Nothing is assumed.

    Any one accepted micro-op of each queue is tracked, and any one bit of its expected form. Proved of each queue:

    - it holds as many entries as were accepted and not taken, and takes none without space;
    - it takes an entry in the clock in which a micro-op of its kind is accepted, and at no other;
    - the tracked micro-op comes out when those before it are out, in its expected form;
    - an output that is offered stays until it is taken.

    Proved of BARRIER: it passes only when all is idle.

    Parameters
    ----------
    params : PimRankParams
    """

    def __init__(self, params: PimRankParams) -> None:
        self.params = params

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        dut = Issuer(params=p)
        opened = Opened(dut)
        m.submodules.dut = opened.fragment
        op = dut.i.payload
        taken = dut.i.valid & dut.i.ready
        m.d.comb += [
            Assume(~ResetSignal()),
            dut.i.valid.eq(AnySeq(1)),
            op.eq(AnySeq(len(op.as_value()))),
            dut.idle.eq(AnySeq(1)),
            *(getattr(dut, name).ready.eq(AnySeq(1)) for name in FEEDS),
        ]
        with m.If(taken & (op.kind == MicroKind.BARRIER)):
            m.d.comb += Assert(dut.idle)
        place = Signal.like(op.buffer_entry)
        with m.If(taken & (op.kind == MicroKind.WR_QUERIES)):
            m.d.sync += place.eq(op.buffer_entry)
        m.d.comb += Assert(opened.signal("place") == place)
        item = Signal(layout_of(p.item))
        m.d.comb += [
            item.query.eq(place),
            item.output.eq(op.buffer_entry),
            item.static_order.eq(op.static_order),
            item.last_group_line.eq(op.last_query >> (p.queries_per_line.bit_length() - 1)),
        ]
        for field in ("lines", "last_keep", "last_query", "scale", "first", "final", "normalise"):
            m.d.comb += item[field].eq(op[field])
        for name, kind in FEEDS.items():
            rows = name.endswith("_row")
            depth = p.SEGMENTS_AHEAD * (p.segment_rows if rows else 1)
            given = Signal()
            m.d.comb += given.eq(taken & (op.kind == kind))
            self._queue(m, dut, opened, name, depth, given, op.row if rows else item.as_value())
        return m

    def _queue(
        self, m: Module, dut: Issuer, opened: Opened, name: str, depth: int, given: Signal, value: Value
    ) -> None:  # fmt: skip
        port = getattr(dut, name)
        payload = Value.cast(port.payload)
        chosen = Signal(index_bits(len(payload)))
        out, count = Signal(), Signal(range(depth + 1))
        push, space = opened.signal(f"push_{name}"), opened.signal(name, "w_rdy")
        m.d.comb += [
            chosen.eq(AnyConst(len(chosen))),
            out.eq(port.valid & port.ready),
            Assert((push & space) == given),
            Assert(~given | space),
            Assert(~port.valid | (count != 0)),
            Cover(given & (count == depth - 1)),
        ]
        m.d.sync += count.eq(count + given - out)

        held, before = Signal(), Signal()
        shown = payload.bit_select(chosen, 1)
        m.d.sync += [held.eq(port.valid & ~port.ready), before.eq(shown)]
        with m.If(held):
            m.d.comb += Assert(port.valid & (shown == before))

        tracking, wanted, ahead = Signal(), Signal(), Signal(range(depth + 1))
        with m.If(~tracking & given & AnySeq(1)):
            m.d.sync += [tracking.eq(1), wanted.eq(value.bit_select(chosen, 1)), ahead.eq(count - out)]
        with m.If(tracking & out):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += tracking.eq(0)
                m.d.comb += [Assert(shown == wanted), Cover(1)]
        self._invariants(m, opened, name, depth, count, chosen, shown, tracking, ahead, wanted)

    def _invariants(
        self, m: Module, opened: Opened, name: str, depth: int, count: Signal, chosen: Signal, shown_bit: Value,
        tracking: Signal, ahead: Signal, wanted: Signal,
    ) -> None:  # fmt: skip
        """Locations of the queue's entries: the output register, then a ring of ``depth - 1``."""
        ring = depth - 1
        produce, consume, inner, shown = (
            opened.signal(name, signal) for signal in ("produce", "consume", "inner_level", "r_rdy")
        )
        end, at = Signal(range(2 * ring + 1)), Signal(range(2 * depth))
        m.d.comb += [
            Assert((produce < ring) & (consume < ring) & (inner <= ring)),
            Assert(count == inner + shown),
            end.eq(consume + inner),
            Assert(produce == Mux(end >= ring, end - ring, end)),
            at.eq(consume + ahead - shown),
        ]
        cell = opened.cell(m, name, "storage", address=Mux(at >= ring, at - ring, at))
        with m.If(tracking):
            m.d.comb += Assert(ahead < count)
            m.d.comb += Assert(Mux(shown & (ahead == 0), shown_bit, cell.bit_select(chosen, 1)) == wanted)
