"""Ownership of the DRAM: the host's, or PIM's."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

__all__ = ["Ownership"]


class Ownership(wiring.Component):
    """Hand-over of the DRAM between the host and the command engine.

    Taking over: the command engine is enabled once ``params.quiet_clocks`` have passed since the host's last command
    that went through. Giving back: when no work is left, no write of the host is on its way, and the engine is idle.

    Timing model: ``struct HostPort`` of ``host_side.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    take, release : In(1)
        The control words, once they have been accepted.
    direct_valid : In(1)
        A command of the host goes through.
    work, writing : In(1)
        Work is not finished; a write of the host is on its way.
    engine_idle : In(1)
        Of the command engine, for the clock before.
    leaving : Out(1)
        The DRAM is to be given back.
    owner : Out(1)
        PIM owns the DRAM.
    enable : Out(1)
        Of the command engine.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        inputs = ("take", "release", "direct_valid", "work", "writing", "engine_idle")
        super().__init__({**{name: In(1) for name in inputs}, "leaving": Out(1), "owner": Out(1), "enable": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clocks = self.params.quiet_clocks
        quiet, leaving = Signal(range(clocks + 1), init=clocks), self.leaving
        with m.If(self.direct_valid):
            m.d.sync += quiet.eq(clocks)
        with m.Elif(quiet != 0):
            m.d.sync += quiet.eq(quiet - 1)
        with m.If(self.take):
            m.d.sync += self.owner.eq(1)
        with m.Elif(self.owner & ~self.enable & (quiet == 0)):
            m.d.sync += self.enable.eq(1)
        enabled, at_rest = Signal(), Signal()
        m.d.sync += enabled.eq(self.enable)
        m.d.comb += at_rest.eq(~self.enable | (enabled & self.engine_idle))
        with m.If(self.release):
            m.d.sync += leaving.eq(1)
        with m.Elif(leaving & ~self.work & ~self.writing & at_rest):
            m.d.sync += [leaving.eq(0), self.owner.eq(0), self.enable.eq(0)]
        return m
