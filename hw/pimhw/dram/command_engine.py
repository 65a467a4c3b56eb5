"""The DRAM command engine of a rank: row tasks in, JEDEC and PIM commands out, under every rule of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_, or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimhw.pipeline import layout_of
from pimspec.commands import Command
from pimspec.constraints import Level, TimingConstraint
from pimspec.engine_params import TASK_COMMANDS, CommandEngineParams, RowTaskKind, refresh_margins, timer_groups

from .timers import IntervalTimer, WindowTimer

__all__ = ["BankMachine", "CommandEngine", "RefreshSchedule"]

_BANK_COMMANDS = (Command.ACT, Command.PREpb, *TASK_COMMANDS.values())
_RANK_COMMANDS = (Command.PREab, Command.REFab)
_SHARED = tuple(c for c in _BANK_COMMANDS if c not in (Command.PREpb, Command.PIM_MAC))
"""Commands that may hold up another bank."""


def _any(bits: Sequence[Value]) -> Value:
    return Cat(*bits).any()


def _lowest(bits: Value) -> Value:
    """The lowest set bit alone."""
    return (bits & (~bits + 1))[: len(bits)]


class BankMachine(wiring.Component):
    """What one bank is doing and which command it wants next. At most one `want` is set.

    Parameters
    ----------
    params : CommandEngineParams

    Members
    -------
    task : In(stream.Signature(params.task))
        Taken when the last column command of the task before it has issued, be its burst still running or not.
    act, pre, issue : In(1)
        This clock the ACT, the PREpb or PREab, or the column command of the bank issues.
    issue_count : In(count_bits)
        Column accesses of that column command.
    want_act, want_pre, want_column : Out(1)
    kind : Out(2)
    row, column, count : Out
        What is left of the current task.
    is_open : Out(1)
    streaming : Out(1)
        An access of a burst is in this clock or a later one.
    """

    def __init__(self, *, params: CommandEngineParams) -> None:
        self.params = params
        org = params.organization
        super().__init__(
            {
                "task": In(stream.Signature(layout_of(params.task))),
                "act": In(1),
                "pre": In(1),
                "issue": In(1),
                "issue_count": In(params.count_bits),
                "want_act": Out(1),
                "want_pre": Out(1),
                "want_column": Out(1),
                "kind": Out(2),
                "row": Out(org.row_bits),
                "column": Out(org.column_access_bits),
                "count": Out(params.count_bits),
                "is_open": Out(1),
                "streaming": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        task, interval = self.task.payload, self.params.mac_interval_clocks
        busy, hit = Signal(), Signal()
        current = Signal.like(task, reset_less=True)
        open_row = Signal.like(self.row, reset_less=True)
        stream_left = Signal(range((self.params.column_accesses - 1) * interval + 1))
        m.d.comb += [
            self.task.ready.eq(~busy),
            self.kind.eq(current.kind),
            self.row.eq(current.row),
            self.column.eq(current.column),
            self.count.eq(current.count),
            self.streaming.eq(stream_left != 0),
            self.want_act.eq(busy & ~self.is_open),
            self.want_column.eq(busy & self.is_open & hit & ~self.streaming),
            self.want_pre.eq(self.is_open & ~self.streaming & Mux(busy, ~hit, ~self.task.valid)),
        ]
        with m.If(stream_left != 0):
            m.d.sync += stream_left.eq(stream_left - 1)
        with m.If(self.task.valid & ~busy):
            m.d.sync += [busy.eq(1), current.eq(task), hit.eq(task.row == open_row)]
        with m.If(self.act):
            m.d.sync += [self.is_open.eq(1), open_row.eq(current.row), hit.eq(1)]
        with m.If(self.pre):
            m.d.sync += self.is_open.eq(0)
        with m.If(self.issue):
            m.d.sync += [
                current.column.eq(current.column + self.issue_count),
                current.count.eq(current.count - self.issue_count),
                busy.eq(current.count != self.issue_count),
            ]
            with m.If(current.kind == RowTaskKind.MAC):
                m.d.sync += stream_left.eq((self.issue_count - 1)[: self.params.count_bits] * interval)
        return m


class RefreshSchedule(wiring.Component):
    """When REFab is due, and what may still issue before it.

    REFab issues every `refresh_clocks` exactly, PREab just in time before it; each other command stops at its own
    margin before, so that neither is ever held up.

    Parameters
    ----------
    params : CommandEngineParams
    margins : mapping of Command to int
        See :func:`pimspec.engine_params.refresh_margins`.

    Members
    -------
    all_closed, ready_PREab, ready_REFab : In(1)
        No row is open; the rules allow the command in this clock.
    may_<command> : Out(1)
        For ACT, PREpb, RD and WR: there is time for it.
    fit : Out
        Accesses that a PIM_MAC of this clock may make.
    PREab, REFab : Out(1)
        Issues in this clock; no other command may.
    """

    STOPPED = (Command.ACT, Command.PREpb, Command.RD, Command.WR)

    def __init__(self, *, params: CommandEngineParams, margins: Mapping[Command, int]) -> None:
        self.params, self.margins = params, dict(margins)
        self._fit_at_start = divmod(params.refresh_clocks - 1 - margins[Command.PIM_MAC], params.mac_interval_clocks)
        super().__init__(
            {
                "all_closed": In(1),
                "ready_PREab": In(1),
                "ready_REFab": In(1),
                **{f"may_{c.name}": Out(1) for c in self.STOPPED},
                "fit": Out(range(self._fit_at_start[0] + 2)),
                "PREab": Out(1),
                "REFab": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        period, interval = self.params.refresh_clocks, self.params.mac_interval_clocks
        left = Signal(range(period), init=period - 2)  # clocks to the due time; the output register adds one
        fit_whole, fit_rest = self._fit_at_start
        first_fit, first_rest = divmod(left.init - self.margins[Command.PIM_MAC], interval)
        fit = Signal.like(self.fit, init=first_fit + 1)
        rest = Signal(range(interval), init=first_rest)
        closing, due = Signal(), Signal()
        m.d.comb += [
            self.PREab.eq(closing & ~self.all_closed & self.ready_PREab),
            self.REFab.eq(closing & due & self.all_closed & self.ready_REFab),
            self.fit.eq(Mux(closing, 0, fit)),
        ]
        for command in self.STOPPED:
            in_time = Signal(name=f"in_time_{command.name}")
            m.d.sync += in_time.eq((left == 0) | (left > self.margins[command]))
            m.d.comb += getattr(self, f"may_{command.name}").eq(in_time & ~closing)
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.Elif(fit != 0):
            m.d.sync += [fit.eq(fit - 1), rest.eq(interval - 1)]
        with m.If(left == 0):
            m.d.sync += [left.eq(period - 1), fit.eq(fit_whole + 1), rest.eq(fit_rest)]
        with m.Else():
            m.d.sync += left.eq(left - 1)
        with m.If(self.REFab):
            m.d.sync += [closing.eq(0), due.eq(0)]
        with m.If(left == self.margins[Command.PREab] + 1):
            m.d.sync += closing.eq(1)
        with m.If(left == 1):
            m.d.sync += due.eq(1)
        return m


class CommandEngine(wiring.Component):
    """Turns row tasks of the banks of a rank into a legal command stream.

    A task names a row and `count` column accesses from `column` on, ``1 <= count`` and within the row. Its bank opens
    the row, unless it is the open one, and issues a counted PIM_MAC, or `count` RD or WR one by one. The row is closed
    when the next task of the bank names another row, or when no task waits. Tasks of one bank are done in order; banks
    are served in turn. A bank that has waited for `patience_clocks` stops those commands of other banks that could
    hold it up, so none starves.

    REFab issues every `refresh_clocks`, never late: each command stops in time before it, and what is left of a task
    goes on after it. A MAC task may thus come out as two PIM_MACs, the second for the columns after those of the first
    (never if `split_bursts` is false).

    One command a clock, at CK phase 0. The timers follow from the rule table alone
    (:func:`pimspec.engine_params.timer_groups`); rules that count from PIM_MAC count from its last access. There is no
    data path: the data of a RD or WR are due nCL or nCWL CK after the command. Power-up (MRS, ZQ calibration) is left
    to others.

    Parameters
    ----------
    params : CommandEngineParams
    constraints : sequence of TimingConstraint, optional
        Rules to keep instead of ``params.constraints``.

    Members
    -------
    tasks : In(stream.Signature(params.task)).array(num_banks)
        Bank `bank_group * banks_per_group + bank`.
    command : Out, with valid : 1 and payload : params.command
        A command leaves in each clock with `valid`; there is no `ready`. `row` holds for ACT, `column` and `count` (1
        for RD and WR) for column commands, `bank_group` and `bank` for all but PREab and REFab. `last` marks the last
        column command of a task. Unused fields are arbitrary.

    Raises
    ------
    ParameterError
        From :func:`~pimspec.engine_params.timer_groups`.
    """

    def __init__(self, *, params: CommandEngineParams, constraints: Sequence[TimingConstraint] | None = None) -> None:
        self.params = params
        self.groups = timer_groups(params.constraints if constraints is None else constraints, params.ck_per_clock)
        super().__init__(
            {
                "tasks": In(stream.Signature(layout_of(params.task))).array(params.num_banks),
                "command": Out(wiring.Signature({"valid": Out(1), "payload": Out(layout_of(params.command))})),
            }
        )

    def _scopes(self, level: Level) -> list[range]:
        """The banks of each node of a level."""
        total = self.params.num_banks
        size = {Level.BANK: 1, Level.BANK_GROUP: self.params.organization.banks_per_group}.get(level, total)
        return [range(first, first + size) for first in range(0, total, size)]

    def _timers(
        self, m: Module, banks: Sequence[BankMachine], issued: Mapping[Command, Sequence[Value]]
    ) -> list[dict[Command, Value]]:
        """Instantiate every timer; for each bank and command: no timer forbids it in this clock."""
        ready: list[dict[Command, list[Value]]] = [{} for _ in banks]
        for index, group in enumerate(self.groups):
            for scope in self._scopes(group.level):
                events: list[Value] = []
                for command in group.events:
                    events += issued[command][:1] if command in _RANK_COMMANDS else [issued[command][b] for b in scope]
                    if command is Command.PIM_MAC and group.level is not Level.CHANNEL:
                        events += [banks[b].streaming for b in scope]
                event = _any(events)
                latencies = sorted({clocks for _, clocks in group.ready_clocks})
                name = f"timer{index}_{group.level.value}{scope.start}"
                passed: dict[int, Value] = {}
                if group.window == 1:
                    m.submodules[name] = timer = IntervalTimer(latencies=latencies)
                    m.d.comb += timer.event.eq(event)
                    passed = {clocks: timer.ready[f"after{clocks}"] for clocks in latencies}
                else:
                    for clocks in latencies:
                        window = WindowTimer(clocks=clocks, num_events=group.window)
                        m.submodules[f"{name}_{clocks}"] = window
                        m.d.comb += window.event.eq(event)
                        passed[clocks] = window.ready
                for command, clocks in group.ready_clocks:
                    for b in scope:
                        ready[b].setdefault(command, []).append(passed[clocks])
        return [{c: reduce(and_, terms) for c, terms in of_bank.items()} for of_bank in ready]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        params, org = self.params, self.params.organization
        total = params.num_banks
        banks = [BankMachine(params=params) for _ in range(total)]
        for b, bank in enumerate(banks):
            m.submodules[f"bank{b}"] = bank
            wiring.connect(m, wiring.flipped(self.tasks[b]), bank.task)
        margins = refresh_margins(self.groups)
        m.submodules.refresh = refresh = RefreshSchedule(params=params, margins=margins)

        issued = {c: [Signal(name=f"issue_{c.name}{b}") for b in range(total)] for c in _BANK_COMMANDS}
        issued |= {Command.PREab: [refresh.PREab], Command.REFab: [refresh.REFab]}
        ready = self._timers(m, banks, issued)

        # Which banks have a command that may issue in this clock, and which of them is next.
        wants = Signal(total)
        eligible = Signal(total)
        held_up = self._held_up(m, wants, pick := Signal(total))
        codes = []
        for b, bank in enumerate(banks):
            wanted = {Command.ACT: bank.want_act, Command.PREpb: bank.want_pre}
            for kind, command in TASK_COMMANDS.items():
                wanted[command] = bank.want_column & (bank.kind == kind)
            fits = refresh.fit != 0 if params.split_bursts else refresh.fit >= bank.count
            allowed = []
            for command, want in wanted.items():
                may = fits if command is Command.PIM_MAC else getattr(refresh, f"may_{command.name}")
                free = ~held_up[b] if command in _SHARED else Const(1)
                allowed.append(want & may & free & ready[b].get(command, Const(1)))
                m.d.comb += issued[command][b].eq(pick[b] & want)
            m.d.comb += [wants[b].eq(_any(list(wanted.values()))), eligible[b].eq(_any(allowed))]
            column_code = Array(int(TASK_COMMANDS[RowTaskKind(k)]) for k in (0, 1, 2, 2))[bank.kind]
            codes.append(Mux(bank.want_act, Command.ACT, Mux(bank.want_pre, Command.PREpb, column_code)))
        above = Signal(total)  # the banks after the one served last
        m.d.comb += pick.eq(Mux((eligible & above).any(), _lowest(eligible & above), _lowest(eligible)))
        with m.If(pick.any()):
            m.d.sync += above.eq(~(pick | (pick - 1))[:total])

        def picked(values: Sequence[Value]) -> Value:
            width = max(len(v) for v in values)
            return reduce(or_, (v & pick[b].replicate(width) for b, v in enumerate(values)))

        count, accesses = Signal(params.count_bits), Signal(params.count_bits)
        mac = _any(issued[Command.PIM_MAC])
        m.d.comb += [
            count.eq(picked([bank.count for bank in banks])),
            accesses.eq(Mux(mac, Mux(refresh.fit < count, refresh.fit, count), 1)),
            refresh.all_closed.eq(~_any([bank.is_open for bank in banks])),
            refresh.ready_PREab.eq(
                ~_any([bank.streaming for bank in banks])
                & reduce(and_, (r.get(Command.PREab, Const(1)) for r in ready))
            ),
            refresh.ready_REFab.eq(reduce(and_, (r.get(Command.REFab, Const(1)) for r in ready))),
        ]
        for b, bank in enumerate(banks):
            m.d.comb += [
                bank.act.eq(issued[Command.ACT][b]),
                bank.pre.eq(issued[Command.PREpb][b] | refresh.PREab),
                bank.issue.eq(_any([issued[c][b] for c in TASK_COMMANDS.values()])),
                bank.issue_count.eq(accesses),
            ]

        places = [divmod(b, org.banks_per_group) for b in range(total)]
        # The output register. PREab and REFab issue in clocks without a pick.
        payload = Signal.like(self.command.payload, reset_less=True)
        rank_code = Mux(refresh.PREab, Command.PREab, Mux(refresh.REFab, Command.REFab, Command.DES))
        m.d.comb += self.command.payload.eq(payload)
        m.d.sync += [
            self.command.valid.eq(pick.any() | refresh.PREab | refresh.REFab),
            payload.code.eq(picked(codes) | rank_code),
            payload.bank_group.eq(picked([Const(g, len(payload.bank_group)) for g, _ in places])),
            payload.bank.eq(picked([Const(b, len(payload.bank)) for _, b in places])),
            payload.row.eq(picked([bank.row for bank in banks])),
            payload.column.eq(picked([bank.column for bank in banks]) * org.burst_length),
            payload.count.eq(accesses),
            payload.last.eq(count == accesses),
        ]
        return m

    def _held_up(self, m: Module, wants: Value, pick: Value) -> Value:
        """The banks that must let another one pass: a focus goes round, and stays at a bank until that is served."""
        focus = Signal(self.params.num_banks, init=1)
        waited = Signal(range(self.params.patience_clocks + 1))
        urgent = waited == self.params.patience_clocks
        with m.If((focus & wants & ~pick).any()):
            m.d.sync += waited.eq(waited + ~urgent)
        with m.Else():
            m.d.sync += [waited.eq(0), focus.eq(focus.rotate_left(1))]
        held_up = Signal.like(focus)
        m.d.comb += held_up.eq(~focus & urgent.replicate(len(focus)))
        return held_up
