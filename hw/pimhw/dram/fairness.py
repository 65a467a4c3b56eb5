"""Fairness units against starvation: among the banks, and between the banks and the bus commands."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BusTurn", "StarvationGuard"]


class StarvationGuard(wiring.Component):
    """Starvation guard: selects the banks that must let another one pass.

    A focus goes round over the banks and stays at one that waits until it is served. Once that bank has waited for
    `patience_clocks`, all others are held up. Clocks in which it waits for the bus do not count.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    num_banks, patience_clocks : int

    Members
    -------
    waits : In(num_banks)
        The bank has a command to issue.
    stalled : In(num_banks)
        The turn of the bus commands keeps the bank from issuing it.
    picked : In(num_banks)
        The bank issues it in this clock.
    held_up : Out(num_banks)
    """

    def __init__(self, *, num_banks: int, patience_clocks: int) -> None:
        self.patience_clocks = patience_clocks
        super().__init__(
            {"waits": In(num_banks), "stalled": In(num_banks), "picked": In(num_banks), "held_up": Out(num_banks)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        focus = Signal(len(self.waits), init=1)
        waited = Signal(range(self.patience_clocks + 1))
        urgent, stalled = waited == self.patience_clocks, (focus & self.stalled).any()
        with m.If((focus & self.waits & ~self.picked).any()):
            m.d.sync += waited.eq(waited + (~urgent & ~stalled))
        with m.Else():
            m.d.sync += [waited.eq(0), focus.eq(focus.rotate_left(1))]
        m.d.comb += self.held_up.eq(~focus & (urgent & ~stalled).replicate(len(focus)))
        return m


class BusTurn(wiring.Component):
    """Turn-taking between bus commands and the bank commands that they contend with (RD, WR).

    While only one side waits, it may issue. If both wait, only the side whose turn it is may issue. Its turn ends when
    the other has waited for `patience_clocks` in total since the first command issued in the turn. So the two never
    issue in one clock, and neither starves.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    patience_clocks : int

    Members
    -------
    bus_waits, banks_wait : In(1)
        The side has a command to issue.
    bus_issues, banks_issue : In(1)
        The side issues a command in this clock.
    may_bus, may_banks : Out(1)
        `may_bus` does not depend on `bus_waits`, nor `may_banks` on `banks_wait`. They are not both set if both sides
        wait.
    """

    def __init__(self, *, patience_clocks: int) -> None:
        self.patience_clocks = patience_clocks
        super().__init__(
            {
                "bus_waits": In(1),
                "banks_wait": In(1),
                "bus_issues": In(1),
                "banks_issue": In(1),
                "may_bus": Out(1),
                "may_banks": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        of_bus, served = Signal(), Signal()
        left = Signal(range(self.patience_clocks), init=self.patience_clocks - 1)
        issues = Mux(of_bus, self.bus_issues, self.banks_issue)
        other_waits = Mux(of_bus, self.banks_wait, self.bus_waits)
        m.d.comb += [self.may_bus.eq(of_bus | ~self.banks_wait), self.may_banks.eq(~of_bus | ~self.bus_waits)]
        m.d.sync += served.eq(served | issues)
        with m.If(other_waits & (served | issues)):
            m.d.sync += left.eq(left - 1)
            with m.If(left == 0):
                m.d.sync += [of_bus.eq(~of_bus), served.eq(0), left.eq(left.init)]
        return m
