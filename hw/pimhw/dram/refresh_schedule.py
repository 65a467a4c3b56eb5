"""Refresh schedule of a rank, and the commands that may still issue before a refresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.params.command_engine import BUS_COMMANDS, MOST_OWED, CommandEngineParams, owed_refresh_clocks

__all__ = ["RefreshSchedule"]


class RefreshSchedule(wiring.Component):
    """Refresh schedule: the time of REFab, and the commands that may still issue before it.

    The first REFab issues in the first clock of `enable`, the next ones every ``params.refresh_interval(rate)``
    exactly, and PREab just in time before it. The rate is 2 if `twice` was set in the clock of the REFab before, else
    1. Each other command stops at its own margin before, so neither REFab nor PREab is ever held up.

    Refreshes of the host are not lost. The schedule counts those of the host minus its own, from `enable` on, within
    -8 to 8. While some are owed, the next REFab issues
    :func:`~pimspec.params.command_engine.owed_refresh_clocks` later, the time that anything under way may need, unless
    it is due earlier.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    params : CommandEngineParams
    margins : mapping of Command to int
        See :func:`pimspec.params.command_engine.refresh_margins`.

    Members
    -------
    enable : In(1)
        While it is low, nothing may issue and the schedule starts anew.
    twice : In(1)
        Refresh at twice the rate, from the next REFab on.
    request : In(1)
        A pulse for each REFab of the host.
    all_closed, ready_PREab, ready_REFab : In(1)
        No row is open; the rules allow the command in this clock.
    may_<command> : Out(1)
        There is time for the command; for each command of `stopped`: ACT, PREpb, RD, WR and bus commands with a margin.
    fit : Out
        Number of accesses that a PIM_MAC of this clock may make.
    PREab, REFab : Out(1)
        The command issues in this clock; no other command of its phase may.
    quiet : Out(1)
        No refresh is due, nor are rows being closed for it, in this clock and the next.
    """

    def __init__(self, *, params: CommandEngineParams, margins: Mapping[Command, int]) -> None:
        self.params, self.margins = params, dict(margins)
        self.stopped = tuple(c for c in margins if c not in (Command.PREab, Command.PIM_MAC))
        self._fit_at_start = self._fit_at(params.refresh_clocks)
        self._soon = owed_refresh_clocks(params, margins)
        super().__init__(
            {
                "enable": In(1),
                "twice": In(1),
                "request": In(1),
                "all_closed": In(1),
                "ready_PREab": In(1),
                "ready_REFab": In(1),
                **{f"may_{c.name}": Out(1) for c in self.stopped},
                "fit": Out(range(self._fit_at_start[0] + 2)),
                "PREab": Out(1),
                "REFab": Out(1),
                "quiet": Out(1),
            }
        )

    def _fit_at(self, clocks: int) -> tuple[int, int]:
        """Intervals that a PIM_MAC of the next clock may take, and the clocks beyond, if REFab is that far away."""
        return divmod(clocks - 1 - self.margins[Command.PIM_MAC], self.params.mac_interval_clocks)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        period, interval = self.params.refresh_clocks, self.params.mac_interval_clocks
        left = Signal(range(period))  # clocks to the due time; stays at 0 until REFab issues
        fit = Signal.like(self.fit)
        rest = Signal(range(interval))
        closing, due = Signal(init=1, name="closing"), Signal(init=1, name="due")
        start_closing = Signal()
        m.d.comb += [
            start_closing.eq(left == self.margins[Command.PREab] + 1),
            self.PREab.eq(self.enable & closing & ~self.all_closed & self.ready_PREab),
            self.REFab.eq(self.enable & closing & due & self.all_closed & self.ready_REFab),
            self.fit.eq(Mux(closing, 0, fit)),
            self.quiet.eq(~closing & ~start_closing),
        ]
        for command in self.stopped:
            in_time = Signal(name=f"in_time_{command.name}")
            m.d.sync += in_time.eq((left == 0) | (left > self.margins[command]))
            stop_early = closing if command not in BUS_COMMANDS else 0
            m.d.comb += getattr(self, f"may_{command.name}").eq(self.enable & in_time & ~stop_early)
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.Elif(fit != 0):
            m.d.sync += [fit.eq(fit - 1), rest.eq(interval - 1)]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(start_closing):
            m.d.sync += closing.eq(1)
        with m.If(left == 1):
            m.d.sync += due.eq(1)

        def refresh_in(clocks: int) -> list[Any]:
            whole, beyond = self._fit_at(clocks)
            return [left.eq(clocks - 1), fit.eq(whole + 1), rest.eq(beyond)]

        owed = Signal(signed(5))
        with m.If(self.request & ~self.REFab & (owed != MOST_OWED)):
            m.d.sync += owed.eq(owed + 1)
        with m.If(self.REFab & ~self.request & (owed != -MOST_OWED)):
            m.d.sync += owed.eq(owed - 1)
        with m.If(self.REFab):
            m.d.sync += [closing.eq(0), due.eq(0)]
            with m.If(self.twice):
                m.d.sync += refresh_in(self.params.refresh_interval(2))
            with m.Else():
                m.d.sync += refresh_in(period)
        with m.Elif((owed > 0) & (left > self._soon)):
            m.d.sync += refresh_in(self._soon)
        with m.If(~self.enable):
            m.d.sync += [closing.eq(1), due.eq(1), left.eq(0), owed.eq(0)]
        return m
