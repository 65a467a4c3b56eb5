"""DPA controller: a dispatcher with a queue for its host, and counts of its programs' outcomes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.hostif.window import DPA_STATE
from pimspec.isa import Fault
from pimspec.params.dpa import ConfigRefusal, DpaParams

from ..pipeline import layout_of
from .dispatcher import Dispatcher

__all__ = ["DpaController"]


class DpaController(wiring.Component):
    """DPA controller: see :class:`~.dispatcher.Dispatcher`.

    Timing model: ``struct Dispatcher`` of ``dpa.h``.

    Parameters
    ----------
    params : DpaParams

    Members
    -------
    config : In(stream.Signature(params.config))
        A few may wait.
    config_open, config_taken : In(1), Out(1)
        The oldest one may be done; it is done or refused in this clock.
    enable : In(1)
    o : Out(stream.Signature(params.micro_op))
    slot : In; status : Out
        Status of a slot, in the next clock.
    state : Out
        See :attr:`pimspec.hostif.window.DPA_STATE`.
    faulted : Out(1)
        For a clock: a program has been stopped.
    """

    def __init__(self, *, params: DpaParams) -> None:
        self.params = p = params
        super().__init__(
            {
                "config": In(stream.Signature(layout_of(p.config))),
                "config_open": In(1),
                "config_taken": Out(1),
                "enable": In(1),
                "o": Out(stream.Signature(layout_of(p.micro_op))),
                "slot": In(p.slot_bits),
                "status": Out(layout_of(p.status)),
                "state": Out(layout_of(DPA_STATE)),
                "faulted": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.dispatcher = dispatcher = Dispatcher(params=p)
        m.submodules.configs = configs = fifo.SyncFIFOBuffered(width=p.config.width, depth=p.host_queue)
        wiring.connect(m, dispatcher.o, wiring.flipped(self.o))
        stopped = Signal()
        state = Signal(layout_of(DPA_STATE))
        m.d.comb += [
            configs.w_data.eq(self.config.payload),
            configs.w_en.eq(self.config.valid),
            self.config.ready.eq(configs.w_rdy),
            dispatcher.config.payload.eq(configs.r_data),
            dispatcher.config.valid.eq(configs.r_rdy & self.config_open),
            self.config_taken.eq(dispatcher.config.valid & dispatcher.config.ready),
            configs.r_en.eq(self.config_taken),
            dispatcher.enable.eq(self.enable),
            dispatcher.status_slot.eq(self.slot),
            self.status.eq(dispatcher.status),
            stopped.eq(dispatcher.outcome_valid & (dispatcher.outcome.fault != Fault.NONE)),
            self.state.eq(state),
            self.state.queued.eq(configs.level),
            self.state.running.eq(~dispatcher.idle | configs.r_rdy),
        ]
        m.d.sync += [
            state.programs.eq(state.programs + (dispatcher.outcome_valid & ~stopped)),
            state.faults.eq(state.faults + stopped),
            self.faulted.eq(stopped),
        ]
        with m.If(dispatcher.answered & (dispatcher.refusal != ConfigRefusal.NONE)):
            m.d.sync += [state.refused.eq(state.refused + 1), state.refusal.eq(dispatcher.refusal)]
        return m
