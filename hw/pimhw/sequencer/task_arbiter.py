"""Turns of the host and the row feeder at a bank machine."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["TaskArbiter"]


class TaskArbiter(wiring.Component):
    """Arbiter of the tasks of one bank: the host's and the row feeder's in turn, if both wait.

    The turn of the row feeder is one task. That of the host lasts for up to :attr:`RUN` tasks of one row, so that the
    row need not be opened for each line. A task that is offered stays until it is taken. Combinational but for whose
    turn it is.

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

    RUN = 16
    """Most tasks of the host in a row while one of the row feeder waits."""

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        task = stream.Signature(layout_of(params.engine.task))
        super().__init__({"host": In(task), "rows": In(task), "o": Out(task), "of_host": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        host, rows = self.host, self.rows
        offered, before = Signal(), Signal()  # `o` waits since the last clock; the choice in the last clock with a task
        last_row = Signal.like(host.payload.row, reset_less=True)
        run, keeps = Signal(range(self.RUN + 1)), Signal()
        m.d.comb += [
            keeps.eq(before & (host.payload.row == last_row) & (run != self.RUN)),
            self.of_host.eq(Mux(offered, before, host.valid & (~rows.valid | ~before | keeps))),
            self.o.valid.eq(host.valid | rows.valid),
            self.o.payload.eq(Mux(self.of_host, host.payload.as_value(), rows.payload.as_value())),
            host.ready.eq(self.o.ready & self.of_host),
            rows.ready.eq(self.o.ready & ~self.of_host),
        ]
        m.d.sync += offered.eq(self.o.valid & ~self.o.ready)
        with m.If(self.o.valid):
            m.d.sync += before.eq(self.of_host)
        with m.If(host.valid & host.ready):
            m.d.sync += [last_row.eq(host.payload.row), run.eq(Mux(keeps, run + 1, 1))]
        return m
