"""Timers for DRAM rules: when a command may follow an event, in controller clocks."""

from __future__ import annotations

from collections.abc import Iterable

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pimspec.errors import require

__all__ = ["IntervalTimer", "WindowTimer"]


class IntervalTimer(wiring.Component):
    """Interval timer: for several latencies, whether they have passed since the last event (tRCD, tRP, tRFC...).

    A latency is L clocks. After an event in clock t, ``ready`` is low in the clocks ``t + 1`` to ``t + L - 1`` and high
    from ``t + L`` on. It is high from reset on. In clock t itself it shows the state before. All outputs are registers.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    latencies : iterable of int
        Latencies in clocks, 2 or more each, all different.

    Members
    -------
    event : In(1)
    ready : Out(StructLayout)
        One bit ``after<L>`` for each latency L.

    Raises
    ------
    ParameterError
    """

    def __init__(self, *, latencies: Iterable[int]) -> None:
        self.latencies = tuple(latencies)
        require(bool(self.latencies) and min(self.latencies) >= 2, "latencies", self.latencies, "2 or more each")
        require(len(set(self.latencies)) == len(self.latencies), "latencies", self.latencies, "all different")
        layout = data.StructLayout({f"after{clocks}": 1 for clocks in self.latencies})
        super().__init__({"event": In(1), "ready": Out(layout, init=dict.fromkeys(layout.members, 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        longest = max(self.latencies)
        left = Signal(range(longest))
        with m.If(self.event):
            m.d.sync += left.eq(longest - 1)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        for clocks in self.latencies:
            passed = left <= longest - clocks + 1 if clocks > 2 else 1
            m.d.sync += self.ready[f"after{clocks}"].eq(~self.event & passed)
        return m


class WindowTimer(wiring.Component):
    """Window timer: whether fewer than `num_events` events lie in the last `clocks` clocks (tFAW: 4 ACTs).

    ``ready`` in clock t is low if, of the events in the clocks before t, the `num_events`-th last is less than `clocks`
    ago. It is a register.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    clocks : int
        2 or more.
    num_events : int
        1 or more.

    Members
    -------
    event : In(1)
    ready : Out(1)

    Raises
    ------
    ParameterError
    """

    def __init__(self, *, clocks: int, num_events: int) -> None:
        require(clocks >= 2, "clocks", clocks, "2 or more")
        require(num_events >= 1, "num_events", num_events, "1 or more")
        self.clocks, self.num_events = clocks, num_events
        super().__init__({"event": In(1), "ready": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        recent = Signal(self.clocks - 1)  # bit k: event k + 1 clocks ago
        inside = Signal(range(self.clocks))  # how many bits of `recent` are set
        after = Signal(range(self.clocks + 1))
        m.d.comb += after.eq(inside + self.event - recent[-1])
        m.d.sync += [
            recent.eq((recent << 1) | self.event),
            inside.eq(after),
            self.ready.eq(after < self.num_events),
        ]
        return m
