"""Proof of the refresh schedule: no REFab is late, whatever banks and bus do, and those of the host are not lost."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal, Value, signed

from pimspec.dram.commands import Command
from pimspec.params.command_engine import (
    BUS_COMMANDS,
    MOST_OWED,
    CommandEngineParams,
    owed_refresh_clocks,
    refresh_margins,
    timer_groups,
)

from ..dram.refresh_schedule import RefreshSchedule
from .opened import Opened

__all__ = ["RefreshParams", "RefreshProof"]


@dataclass(frozen=True, kw_only=True)
class RefreshParams(CommandEngineParams):
    """Parameters of an engine with a short refresh interval, so that the solver has few bits."""

    def refresh_interval(self, rate: int) -> int:
        return {1: 470, 2: 230}[rate]


class RefreshProof(Elaboratable):
    """The refresh schedule among banks and a bus that issue whatever it lets them, at any time.

    The surroundings are those of an engine. Each command may issue while its `may` is set, and a PIM_MAC with as many
    accesses as `fit`. Until its margin is over REFab is not ready, nor PREab until the margin of PREab before that.
    While PIM owns the DRAM anything may come in any clock; rate and requests of the host too.

    Proved, while `enable` stays set:

    - REFab issues at most an interval after the one before, that of the rate set in the clock of that one;
    - refreshes of the host minus the engine's are counted, within -8 to 8;
    - while some are owed, REFab issues within the time that anything under way may need.

    Parameters
    ----------
    params : CommandEngineParams
    """

    def __init__(self, params: CommandEngineParams) -> None:
        self.params = params

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        margins = refresh_margins(timer_groups(p.constraints, p.ck_per_clock, p.phases))
        dut = RefreshSchedule(params=p, margins=margins)
        opened = Opened(dut)
        m.submodules.dut = opened.fragment
        closing_margin, mac_margin, interval = margins[Command.PREab], margins[Command.PIM_MAC], p.mac_interval_clocks
        soon = owed_refresh_clocks(p, margins)
        is_open, refreshing = Signal(), Signal()
        busy = Signal(range(soon + 1))  # clocks until REFab is allowed
        age, bound = Signal(range(1024)), Signal(range(1024))
        left, rest = opened.signal("left"), opened.signal("rest")

        m.d.comb += [
            Assume(~ResetSignal()),
            dut.enable.eq(AnySeq(1)),
            dut.twice.eq(AnySeq(1)),
            dut.request.eq(AnySeq(1)),
            dut.all_closed.eq(~is_open),
            dut.ready_PREab.eq(busy <= closing_margin),
            dut.ready_REFab.eq(busy == 0),
        ]
        rank = dut.PREab | dut.REFab
        after = Signal.like(busy)
        m.d.comb += after.eq(Mux(busy == 0, 0, busy - 1))
        waits: list[Value] = [after]
        acts = Signal()
        for command in dut.stopped:
            issues = Signal(name=f"issues_{command.name}")
            may = getattr(dut, f"may_{command.name}") & ~(dut.REFab if command in BUS_COMMANDS else rank)
            m.d.comb += issues.eq(AnySeq(1) & may)
            waits.append(Mux(issues, margins[command] - 1, 0))
            if command is Command.ACT:
                m.d.comb += acts.eq(issues)
        mac, count = Signal(), Signal(range(p.column_accesses + 1))
        m.d.comb += [
            count.eq(AnySeq(len(count))),
            mac.eq(AnySeq(1) & dut.enable & ~rank & (count != 0) & (count <= p.column_accesses) & (count <= dut.fit)),
        ]
        waits += [Mux(mac, (count - 1) * interval + mac_margin - 1, 0), Mux(dut.PREab, closing_margin - 1, 0)]
        longest: Value = waits[0]
        for wait in waits[1:]:
            longest = Mux(wait > longest, wait, longest)
        m.d.sync += [busy.eq(longest), is_open.eq((is_open | acts) & ~dut.PREab)]
        with m.If(~dut.enable):
            m.d.comb += Assume(~is_open & (busy == 0))
        self._properties(m, dut, opened, refreshing, age, bound)

        # What the solver has to know of a clock to go on from it.
        closing, due = opened.signal("closing"), opened.signal("due")
        with m.If(refreshing):
            m.d.comb += [
                Assert(age + left <= bound),
                Assert(left < bound),
                Assert(closing == (left <= closing_margin)),
                Assert(due == (left == 0)),
                Assert(busy <= left),
                Assert(~is_open | (left >= closing_margin)),
                Assert(closing | ((dut.fit == 0) == (left < mac_margin))),
                Assert((dut.fit == 0) | ((dut.fit - 1) * interval + rest + mac_margin == left)),
                Assert((rest < interval) & (busy < soon) & (age >= 1)),
                *(Assert(~opened.signal(f"in_time_{c.name}") | (left >= margins[c])) for c in dut.stopped),
            ]
        with m.Else():
            m.d.comb += Assert(closing & due & (left == 0) & ~is_open & (busy == 0))
        return m

    def _properties(
        self, m: Module, dut: RefreshSchedule, opened: Opened, refreshing: Signal, age: Signal, bound: Signal
    ) -> None:
        p = self.params
        m.d.sync += age.eq(age + 1)
        with m.If(dut.REFab):
            m.d.sync += [refreshing.eq(1), age.eq(1)]
            m.d.sync += bound.eq(Mux(dut.twice, p.refresh_interval(2), p.refresh_interval(1)))
        with m.If(~dut.enable):
            m.d.sync += refreshing.eq(0)
        with m.If(refreshing & dut.enable):
            m.d.comb += [Assert(age <= bound), Assert(dut.REFab | (age < bound))]
        owed, counted = opened.signal("owed"), Signal(signed(6))
        step = counted + dut.request - dut.REFab
        m.d.sync += counted.eq(
            Mux(~dut.enable, 0, Mux(step > MOST_OWED, MOST_OWED, Mux(step < -MOST_OWED, -MOST_OWED, step)))
        )
        waiting = Signal()  # some were owed in the clock before, and no REFab came
        m.d.sync += waiting.eq(refreshing & dut.enable & (counted > 0) & ~dut.REFab)
        m.d.comb += [
            Assert(owed == counted),
            Assert((counted <= MOST_OWED) & (counted >= -MOST_OWED)),
            Assert(~waiting | ~refreshing | (opened.signal("left") <= dut._soon)),
            Cover(dut.REFab & refreshing & (age < bound)),
            Cover(dut.PREab & waiting),
        ]
