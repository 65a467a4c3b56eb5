"""Turns of descriptors and programs at the issuer."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.isa import MicroKind
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["MicroOpArbiter"]


class MicroOpArbiter(wiring.Component):
    """Arbiter of two streams of micro-ops: a descriptor's and a program's are never mixed.

    Items are kv_heads of descriptors and whole programs. If both sides offer one, they take turns item by item: the one
    that has just had an item yields. So a program waits for one descriptor at most besides the one that is under way,
    and a descriptor for one program likewise. The turn returns to descriptors in the first clock after an END in which
    the program stream offers nothing. Combinational but for whose turn it is, and whether that side has had an item.

    Timing model: ``struct MicroOpArbiter`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    descriptor, program : In(stream.Signature(params.micro_op))
    begun : In(1)
        A descriptor is under way, whether `descriptor` offers something or not.
    o : Out(stream.Signature(params.micro_op))
    of_program : Out(1)
        It is the turn of `program`.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        micro_op = stream.Signature(layout_of(params.micro_op))
        super().__init__(
            {
                "descriptor": In(micro_op),
                "program": In(micro_op),
                "begun": In(1),
                "o": Out(micro_op),
                "of_program": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ours, theirs, turn = self.descriptor, self.program, self.of_program
        within = Signal()  # the program stream is in the middle of a program
        served = Signal()  # this side has had an item in its turn
        yields = Signal()  # and leaves the next one to the other
        m.d.comb += [
            yields.eq(served & ours.valid & theirs.valid & ~Mux(turn, within, self.begun)),
            self.o.valid.eq(Mux(turn, theirs.valid, ours.valid) & ~yields),
            self.o.payload.eq(Mux(turn, theirs.payload.as_value(), ours.payload.as_value())),
            theirs.ready.eq(turn & self.o.ready & ~yields),
            ours.ready.eq(~turn & self.o.ready & ~yields),
        ]
        with m.If(turn):
            with m.If(theirs.valid & theirs.ready):
                m.d.sync += within.eq(theirs.payload.kind != MicroKind.END)
                with m.If(theirs.payload.kind == MicroKind.END):
                    m.d.sync += served.eq(1)
            with m.If((~within & ~theirs.valid) | yields):
                m.d.sync += [turn.eq(0), served.eq(0)]
        with m.Elif((theirs.valid & ~self.begun & ~ours.valid) | yields):
            m.d.sync += [turn.eq(1), served.eq(0)]
        with m.Elif(ours.valid & ours.ready & (ours.payload.kind == MicroKind.MERGE)):
            m.d.sync += served.eq(1)
        return m
