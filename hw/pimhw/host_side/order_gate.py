"""Order between data accesses of the host and what it asks for after them."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["OrderGate"]


class OrderGate(wiring.Component):
    """Gate of a queue of items: an item passes when all data accesses that were accepted before it are done.

    Items are numbered as they are accepted. Each access keeps the count of items that were accepted before it; so the
    oldest access that is not done says which items may pass. Counts wrap; they differ by `depth` at most. Once open for
    an item, the gate stays open until that item is released.

    Timing model: ``struct OrderGate`` of ``host_side.h``.

    Parameters
    ----------
    depth : int
        Items that can wait.

    Members
    -------
    accepted, released : In(1)
        An item enters the queue, or leaves it; only while `open`.
    count : Out
        Items accepted; an access that is accepted in this clock keeps it.
    waiting : In(1); mark : In
        Accesses are not done; what the oldest of them keeps.
    cleared : In
        Items that no vector of the append buffer keeps waiting.
    open : Out(1)
        The oldest item may pass, if there is one.
    """

    def __init__(self, *, depth: int) -> None:
        self.depth = depth
        bits = depth.bit_length()
        super().__init__(
            {
                "accepted": In(1),
                "released": In(1),
                "count": Out(bits),
                "waiting": In(1),
                "mark": In(bits),
                "cleared": In(bits),
                "open": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        passed = Signal.like(self.count)
        m.d.sync += [self.count.eq(self.count + self.accepted), passed.eq(passed + self.released)]
        m.d.comb += self.open.eq((Mux(self.waiting, self.mark, self.count) != passed) & (self.cleared != passed))
        return m
