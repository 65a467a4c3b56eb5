"""Turns of the host and the row feeder at a bank machine."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["TaskArbiter"]


class TaskArbiter(wiring.Component):
    """Arbiter of the tasks of one bank: one of the host and one of the row feeder in turn, if both wait.

    A task that is offered stays until it is taken. Combinational but for whose turn it is.

    Timing model: ``struct TaskArbiter`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    host, rows : In(stream.Signature(params.engine.task))
    o : Out(stream.Signature(params.engine.task))
    of_host : Out(1)
        What `o` offers is the host's.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        task = stream.Signature(layout_of(params.engine.task))
        super().__init__({"host": In(task), "rows": In(task), "o": Out(task), "of_host": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        host, rows = self.host, self.rows
        offered, before = Signal(), Signal()  # `o` waits since the last clock; the choice in the last clock with a task
        m.d.comb += [
            self.of_host.eq(Mux(offered, before, host.valid & (~rows.valid | ~before))),
            self.o.valid.eq(host.valid | rows.valid),
            self.o.payload.eq(Mux(self.of_host, host.payload.as_value(), rows.payload.as_value())),
            host.ready.eq(self.o.ready & self.of_host),
            rows.ready.eq(self.o.ready & ~self.of_host),
        ]
        m.d.sync += offered.eq(self.o.valid & ~self.o.ready)
        with m.If(self.o.valid):
            m.d.sync += before.eq(self.of_host)
        return m
