"""Proof of the turns of descriptors and programs: neither side waits for more than one item of the other."""

from __future__ import annotations

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal

from pimspec.isa import MicroKind
from pimspec.params.pim_rank import PimRankParams

from ..sequencer.micro_op_arbiter import MicroOpArbiter
from .opened import Opened

__all__ = ["MicroOpArbiterProof"]


class MicroOpArbiterProof(Elaboratable):
    """Turns at the issuer, for any micro-ops of both sides and an issuer that takes them at any time.

    Assumed: an offered micro-op stays until it is taken; a descriptor is under way from its first micro-op to its last
    MERGE (that of :class:`~pimhw.sequencer.descriptor_expander.DescriptorExpander`). Proved:

    - micro-ops of an item follow one another: none of the other side is between them;
    - a side that offers the first micro-op of an item waits for the item under way and at most one more of the other;
    - a side that yields gives its turn away at once: nobody is offered nothing for two clocks in a row.

    Parameters
    ----------
    params : PimRankParams
    """

    def __init__(self, params: PimRankParams) -> None:
        self.params = params

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dut = MicroOpArbiter(params=self.params)
        opened = Opened(dut)
        m.submodules.dut = opened.fragment
        turn, within, served = dut.of_program, opened.signal("within"), opened.signal("served")
        m.d.comb += [Assume(~ResetSignal()), dut.o.ready.eq(AnySeq(1)), dut.begun.eq(opened_begun := Signal())]
        sides = {"descriptor": dut.descriptor, "program": dut.program}
        begun, ends, takes, starts = {}, {}, {}, {}
        for name, side in sides.items():
            op = side.payload
            m.d.comb += [side.valid.eq(AnySeq(1)), op.eq(AnySeq(len(op.as_value())))]
            held, before = Signal(name=f"{name}_held"), Signal(len(op.as_value()), name=f"{name}_before")
            m.d.sync += [held.eq(side.valid & ~side.ready), before.eq(op.as_value())]
            with m.If(held):
                m.d.comb += Assume(side.valid & (op.as_value() == before))
            begun[name] = Signal(name=f"{name}_begun")
            takes[name] = side.valid & side.ready
            last = (op.kind == MicroKind.MERGE) & op.final if name == "descriptor" else op.kind == MicroKind.END
            ends[name] = takes[name] & last
            starts[name] = takes[name] & ~begun[name]
            with m.If(takes[name]):
                m.d.sync += begun[name].eq(~last)
        m.d.comb += [
            opened_begun.eq(begun["descriptor"]),
            Assume(~(starts["descriptor"] & ends["descriptor"])),
            Assert(within == begun["program"]),
            Assert(~begun["program"] | turn),
            Assert(~begun["descriptor"] | ~turn),
            Assert(~(takes["program"] & begun["descriptor"]) & ~(takes["descriptor"] & begun["program"])),
        ]
        for name, other, theirs in (("program", "descriptor", ~turn), ("descriptor", "program", turn)):
            waits, overtaken = Signal(name=f"{name}_waits"), Signal(3, name=f"{name}_overtaken")
            m.d.comb += waits.eq(sides[name].valid & ~begun[name])
            with m.If(~waits | takes[name]):
                m.d.sync += overtaken.eq(0)
            with m.Elif(starts[other]):
                m.d.sync += overtaken.eq(overtaken + 1)
            m.d.comb += [
                Assert(overtaken <= 1),
                Assert((overtaken == 0) | Mux(theirs, begun[other] | served, ~served)),
                Cover(takes[name] & (overtaken == 1)),
            ]
        both, nothing = Signal(), Signal()
        m.d.comb += both.eq(dut.descriptor.valid & dut.program.valid)
        m.d.sync += nothing.eq(both & ~dut.o.valid)
        m.d.comb += Assert(~nothing | ~both | dut.o.valid)
        m.d.comb += Assert(~nothing | ~served)
        m.d.comb += Assert(dut.o.valid | ~Mux(turn, dut.program.valid & within, dut.descriptor.valid & dut.begun))
        return m
