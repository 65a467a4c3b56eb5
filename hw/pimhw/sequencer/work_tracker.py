"""Counts of the kv_heads and items that are under way, and the static order."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

__all__ = ["WorkTracker"]


class WorkTracker(wiring.Component):
    """Counter of what has begun and not finished.

    An item in static order (for comparison) runs alone: it starts when no other is under way, and none starts until it
    is merged. Counts change in the clock after their events; they wrap.

    Timing model: ``struct WorkTracker`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    accepted : In(1)
        The host has handed in a descriptor.
    begun, of_program : In(1)
        The first micro-op of a kv_head reaches the issuer; it is one of a program.
    next_static_order : In(1)
        The item that would start is to run in static order.
    started : In(1)
        That item starts.
    merged, finished : In(1)
        An item is merged; it was the last one of its kv_head.
    busy : Out(8); done : Out(16)
        Descriptors and kv_heads of programs that are not finished, and those that are: see
        :attr:`pimspec.hostif.window.Window.status`.
    issuer_idle : Out(1)
        No kv_head has begun that is not finished.
    may_start : Out(1)
        The order of items lets the next one start.
    static_order : Out(1)
        An item is under way in static order.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        inputs = ("accepted", "begun", "of_program", "next_static_order", "started", "merged", "finished")
        super().__init__(
            {
                **{name: In(1) for name in inputs},
                "busy": Out(8),
                "done": Out(16),
                "issuer_idle": Out(1),
                "may_start": Out(1),
                "static_order": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        heads, items = Signal(8), Signal(range(self.params.SEGMENTS_AHEAD * 2 + 1))
        alone = Signal()  # the item that started last runs in static order
        m.d.sync += [
            self.busy.eq(self.busy + self.accepted + (self.begun & self.of_program) - self.finished),
            heads.eq(heads + self.begun - self.finished),
            items.eq(items + self.started - self.merged),
            self.done.eq(self.done + self.finished),
        ]
        with m.If(self.started):
            m.d.sync += alone.eq(self.next_static_order)
        m.d.comb += [
            self.issuer_idle.eq(heads == 0),
            self.may_start.eq(~(self.next_static_order | alone) | (items == 0)),
            self.static_order.eq(alone & (items != 0)),
        ]
        return m
