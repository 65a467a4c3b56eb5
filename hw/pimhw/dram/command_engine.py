"""DRAM command engine of a rank: row tasks in, JEDEC and PIM commands out, under every rule of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add, and_, or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.dram.constraints import Level, TimingConstraint
from pimspec.params.command_engine import (
    BUS_COMMANDS,
    TASK_COMMANDS,
    CommandEngineParams,
    RowTaskKind,
    refresh_margins,
    timer_groups,
)

from ..arith.bits import lowest_set
from ..pipeline import layout_of
from .bank_machine import BankMachine
from .fairness import BusTurn, StarvationGuard
from .refresh_schedule import RefreshSchedule
from .timers import IntervalTimer, WindowTimer

__all__ = ["CommandEngine"]

_BANK_COMMANDS = (Command.ACT, Command.PREpb, *TASK_COMMANDS.values())
_PLACED = (*_BANK_COMMANDS, Command.PIM_RD_RB)
"""Commands at a bank, as far as rules go: a list of signals for them has one for each bank."""
_SHARED = tuple(c for c in _BANK_COMMANDS if c not in (Command.PREpb, Command.PIM_MAC))
"""Commands that may hold up another bank."""


def _any(bits: Sequence[Value]) -> Value:
    return Cat(*bits).any()


def _all(bits: Sequence[Value]) -> Value:
    return Cat(*bits).all()


class CommandEngine(wiring.Component):
    """Command engine: turns row tasks of the banks of a rank, and bus commands, into a legal command stream.

    A task names a row and `count` column accesses from `column` on, ``1 <= count`` and within the row. Its bank opens
    the row, unless it is the open one, and issues a counted PIM_MAC, or `count` RD or WR one by one. The row is closed
    when the next task of the bank names another row, or when no task waits. Tasks of one bank are done in order; banks
    are served in turn. A bank that has waited for `patience_clocks` stops those commands of other banks that could hold
    it up, so none starves.

    A bus command is a PIM_RD_RB or a PIM_WR_SB: it uses DQ and no row, and issues beside the command of a bank, in
    order. Where the two contend (RD and WR of banks), they take turns (:class:`~.fairness.BusTurn`). No rules relate
    them to PIM_MAC, so both go on while all banks stream: PIM_RD_RB every tCCD_S if bank_groups take turns, and
    PIM_WR_SB every tCCD_L (with ``bus_tccd = "short"``, all of them every tCCD_S).

    REFab issues every `refresh_clocks`, or twice as often, and is never late: each command stops in time before it, and
    the remainder of a task goes on after it. A MAC task may thus come out as two PIM_MACs, the second for the columns
    after those of the first (never if `split_bursts` is false). A host that refreshes faster gets a REFab for each of
    its own; see :class:`~.refresh_schedule.RefreshSchedule`.

    With ``params.streaming_limit`` below the number of banks, no more of them have a PIM_MAC in flight at any time.
    Then banks wait for one another there too, under the same guard.

    Commands of banks and of the rank issue at CK phase 0 of a clock, at most one a clock. Bus commands issue at
    `params.bus_phase_ck`, at most one a clock. The timers follow from the rule table alone
    (:func:`pimspec.params.command_engine.timer_groups`); rules that count from PIM_MAC count from its last access.
    There is no data path: the data of a command are due nCL or nCWL CK after it. Power-up (MRS, ZQ calibration) is done
    elsewhere.

    The DRAM has two owners, and the engine has it while `enable` is set. It begins with a REFab in the first clock, on
    the assumption that every bank is precharged and every delay over. `enable` may fall in a clock with `idle`, or in
    the clock after one, if no task and no bus command was taken since. Then too every bank is precharged and every
    delay over, tRFC of the last REFab and the recovery of the bus included. The next refresh is the other owner's. A
    fall at another time is undefined. While `enable` is low nothing issues and nothing is taken.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    params : CommandEngineParams
    constraints : sequence of TimingConstraint, optional
        Rules to keep instead of ``params.constraints``.

    Members
    -------
    tasks : In(stream.Signature(params.task)).array(num_banks)
        Bank `bank_group * banks_per_group + bank`.
    hold : In(num_banks)
        While a bit is set, its bank issues no PIM_MAC; its row is opened all the same.
    command : Out, with valid : 1 and payload : params.command
        A command leaves in each clock with `valid`; there is no `ready`. `row` holds for ACT, `column`, `count` (1 for
        RD and WR), `tag` (of the task) for column commands, `bank_group` and `bank` for all but PREab and REFab. `last`
        marks the last column command of a task, `resume` all but the first. Unused fields are arbitrary.
    bus : In(stream.Signature(params.bus))
        `ready` depends on `read` and `bank_group`. With ``ck_per_clock = 1`` the engine has neither this member nor the
        next.
    bus_command : Out, with valid : 1 and payload : params.bus
        As `command`: the bus command of the same clock, `bus_phase_ck` later.
    enable : In(1)
    refresh_2x : In(1)
        Refresh at twice the rate, from the next REFab on.
    refresh_request : In(1)
        A pulse for each REFab of the host.
    idle : Out(1)
        A register: low in the clock after `enable` rises, after a task or bus command is taken, and when a refresh
        nears.

    Raises
    ------
    ParameterError
        From :func:`~pimspec.params.command_engine.timer_groups`.
    """

    LATENCY = 1
    """Clocks to the output from a bus command, or from the event that a command follows."""

    def __init__(self, *, params: CommandEngineParams, constraints: Sequence[TimingConstraint] | None = None) -> None:
        self.params = params
        table = params.constraints if constraints is None else constraints
        self.groups = timer_groups(table, params.ck_per_clock, params.phases)
        members = {
            "tasks": In(stream.Signature(layout_of(params.task))).array(params.num_banks),
            "hold": In(params.num_banks),
            "command": Out(wiring.Signature({"valid": Out(1), "payload": Out(layout_of(params.command))})),
            "enable": In(1),
            "refresh_2x": In(1),
            "refresh_request": In(1),
            "idle": Out(1),
        }
        if params.has_bus_slot:
            bus = layout_of(params.bus)
            members["bus"] = In(stream.Signature(bus))
            members["bus_command"] = Out(wiring.Signature({"valid": Out(1), "payload": Out(bus)}))
        super().__init__(members)

    def _scopes(self, level: Level) -> list[range]:
        """Banks of each node of a level."""
        total = self.params.num_banks
        size = {Level.BANK: 1, Level.BANK_GROUP: self.params.organization.banks_per_group}.get(level, total)
        return [range(first, first + size) for first in range(0, total, size)]

    def _timers(
        self, m: Module, banks: Sequence[BankMachine], issued: Mapping[Command, Sequence[Value]]
    ) -> tuple[list[dict[Command, Value]], Value]:
        """Instantiate every timer.

        Returns, for each bank and command, that neither a timer nor a command of the rank in this clock forbids it; and
        that no timer forbids anything.
        """
        ready: list[dict[Command, list[Value]]] = [{} for _ in banks]
        over: list[Value] = [Const(1)]
        for index, group in enumerate(self.groups):
            latencies = sorted({clocks for _, clocks in group.ready_clocks if clocks > 1})
            now = _any([issued[c][0] for c in group.events if c not in _BANK_COMMANDS])
            for scope in self._scopes(group.level):
                events: list[Value] = []
                for command in group.events:
                    events += [issued[command][b] for b in scope] if command in _PLACED else issued[command]
                    if command is Command.PIM_MAC and group.level is not Level.CHANNEL:
                        events += [banks[b].streaming for b in scope]
                event = _any(events)
                name = f"timer{index}_{group.level.value}{scope.start}"
                passed: dict[int, Value] = {}
                if group.window == 1 and latencies:
                    m.submodules[name] = timer = IntervalTimer(latencies=latencies)
                    m.d.comb += timer.event.eq(event)
                    passed = {clocks: timer.ready[f"after{clocks}"] for clocks in latencies}
                elif latencies:
                    for clocks in latencies:
                        window = WindowTimer(clocks=clocks, num_events=group.window)
                        m.submodules[f"{name}_{clocks}"] = window
                        m.d.comb += window.event.eq(event)
                        passed[clocks] = window.ready
                over += passed.values()
                for command, clocks in group.ready_clocks:
                    terms = [passed[clocks]] if clocks > 1 else []
                    if command in BUS_COMMANDS and group.events[0] not in BUS_COMMANDS:
                        terms.append(~now)
                    for b in scope:
                        ready[b].setdefault(command, []).extend(terms)
        return [{c: _all(terms) for c, terms in of_bank.items()} for of_bank in ready], _all(over)

    def _contending(self) -> set[Command]:
        """Commands of banks that hold up bus commands, or that bus commands hold up."""
        found = set()
        for group in self.groups:
            following = {command for command, _ in group.ready_clocks}
            if following & set(BUS_COMMANDS):
                found |= set(group.events)
            if set(group.events) & set(BUS_COMMANDS):
                found |= following
        return found & set(_BANK_COMMANDS)

    def _issued(self, refresh: RefreshSchedule) -> dict[Command, list[Value]]:
        """Signals that a command issues in this clock: for those at a bank one for each bank, else one."""
        org = self.params.organization
        issued: dict[Command, list[Value]] = {
            c: [Signal(name=f"issue_{c.name}{b}") for b in range(self.params.num_banks)] for c in _BANK_COMMANDS
        }
        issued |= {Command.PREab: [refresh.PREab], Command.REFab: [refresh.REFab]}
        if self.params.has_bus_slot:
            reads = [Signal(name=f"issue_PIM_RD_RB{g}") for g in range(org.bank_groups)]
            issued |= {Command.PIM_WR_SB: [Signal(name="issue_PIM_WR_SB")]}
            issued |= {Command.PIM_RD_RB: [read for read in reads for _ in range(org.banks_per_group)]}
        return issued

    def elaborate(self, platform: object) -> Module:
        m = Module()
        params = self.params
        total = params.num_banks
        banks = [BankMachine(params=params) for _ in range(total)]
        for b, bank in enumerate(banks):
            m.submodules[f"bank{b}"] = bank
            wiring.connect(m, wiring.flipped(self.tasks[b]), bank.task)
            m.d.comb += bank.enable.eq(self.enable)
        m.submodules.refresh = refresh = RefreshSchedule(params=params, margins=refresh_margins(self.groups))
        m.submodules.guard = guard = StarvationGuard(num_banks=total, patience_clocks=params.patience_clocks)
        m.submodules.turn = turn = BusTurn(patience_clocks=params.patience_clocks)

        issued = self._issued(refresh)
        ready, over = self._timers(m, banks, issued)

        def of_rank(command: Command) -> Value:
            return reduce(and_, (of_bank.get(command, Const(1)) for of_bank in ready))

        # Banks with a command that may issue in this clock, and the one of them that is next.
        eligible, pick, contend = Signal(total), Signal(total), Signal(total)
        count, accesses = Signal(params.count_bits), Signal(params.count_bits)
        lasting = _any(issued[Command.PIM_MAC])  # a burst begins that is in flight in the next clock too
        if params.mac_interval_clocks == 1:
            lasting &= accesses != 1
        room, waits_for_room = self._streaming(m, banks, guard, lasting)
        contending, codes = self._contending(), []
        for b, bank in enumerate(banks):
            wanted = {Command.ACT: bank.want_act, Command.PREpb: bank.want_pre}
            for kind, command in TASK_COMMANDS.items():
                wanted[command] = bank.want_column & (bank.kind == kind)
            wanted[Command.PIM_MAC] &= ~self.hold[b]
            fits = refresh.fit != 0 if params.split_bursts else refresh.fit >= bank.count
            allowed, contends, stalled = [], [Const(0)], [Const(0)]
            for command, want in wanted.items():
                may = fits if command is Command.PIM_MAC else getattr(refresh, f"may_{command.name}")
                free = ~(guard.held_up[b] & ~waits_for_room) if command in _SHARED else Const(1)
                if command is Command.PIM_MAC:
                    free = room & ~(guard.held_up[b] & waits_for_room)
                has_turn = Const(1)
                if command in contending:
                    has_turn = turn.may_banks
                    contends.append(want & may & free)
                    stalled.append(want & ~has_turn)
                allowed.append(want & may & free & has_turn & ready[b].get(command, Const(1)))
                m.d.comb += issued[command][b].eq(pick[b] & want)
            m.d.comb += [
                guard.waits[b].eq(_any(list(wanted.values()))),
                guard.stalled[b].eq(_any(stalled)),
                contend[b].eq(_any(contends)),
                eligible[b].eq(self.enable & _any(allowed)),
            ]
            column_code = Array(int(TASK_COMMANDS[RowTaskKind(k)]) for k in (0, 1, 2, 2))[bank.kind]
            codes.append(Mux(bank.want_act, Command.ACT, Mux(bank.want_pre, Command.PREpb, column_code)))
        above = Signal(total)  # the banks after the one served last
        m.d.comb += pick.eq(Mux((eligible & above).any(), lowest_set(eligible & above), lowest_set(eligible)))
        with m.If(pick.any()):
            m.d.sync += above.eq(~(pick | (pick - 1))[:total])
        m.d.comb += [
            guard.picked.eq(pick),
            turn.banks_wait.eq(contend.any()),
            turn.banks_issue.eq((contend & pick).any()),
        ]

        m.d.comb += [
            count.eq(_picked(pick, [bank.count for bank in banks])),
            accesses.eq(Mux(_any(issued[Command.PIM_MAC]), Mux(refresh.fit < count, refresh.fit, count), 1)),
            refresh.enable.eq(self.enable),
            refresh.twice.eq(self.refresh_2x),
            refresh.request.eq(self.refresh_request),
            refresh.all_closed.eq(~_any([bank.is_open for bank in banks])),
            refresh.ready_PREab.eq(~_any([bank.streaming for bank in banks]) & of_rank(Command.PREab)),
            refresh.ready_REFab.eq(of_rank(Command.REFab)),
        ]
        for b, bank in enumerate(banks):
            m.d.comb += [
                bank.act.eq(issued[Command.ACT][b]),
                bank.pre.eq(issued[Command.PREpb][b] | refresh.PREab),
                bank.issue.eq(_any([issued[c][b] for c in TASK_COMMANDS.values()])),
                bank.issue_count.eq(accesses),
            ]

        taken = self._bus(m, turn, refresh, ready, issued) if params.has_bus_slot else Const(0)
        quiet = _all([bank.idle for bank in banks]) & (refresh.quiet | ~self.enable)
        m.d.sync += self.idle.eq(quiet & over & ~taken)
        self._output(m, banks, pick, codes, refresh, accesses, count == accesses)
        return m

    def _streaming(
        self, m: Module, banks: Sequence[BankMachine], guard: StarvationGuard, begins: Value
    ) -> tuple[Value, Value]:
        """Flags: another bank may stream; the bank that others are held up for wants to."""
        limit, total = self.params.streaming_limit, len(banks)
        if limit >= total:
            return Const(1), Const(0)
        in_flight = Signal(range(total + 1))  # but for a PIM_MAC of this clock
        at_most, one_less, issued = Signal(init=1), Signal(init=limit > 1), Signal()
        mac_waits = Signal(total)
        m.d.comb += in_flight.eq(reduce(add, (bank.in_flight_next for bank in banks)))
        m.d.sync += [at_most.eq(in_flight < limit), one_less.eq(in_flight < limit - 1), issued.eq(begins)]
        for b, bank in enumerate(banks):
            m.d.comb += mac_waits[b].eq(bank.want_column & (bank.kind == RowTaskKind.MAC) & ~self.hold[b])
        urgent = guard.held_up.any() & (~guard.held_up & mac_waits).any()
        return Mux(issued, one_less, at_most), urgent

    def _bus(
        self,
        m: Module,
        turn: BusTurn,
        refresh: RefreshSchedule,
        ready: Sequence[Mapping[Command, Value]],
        issued: Mapping[Command, Sequence[Value]],
    ) -> Value:
        """The second slot; returns a flag: a bus command is taken, and so issues."""
        bus, command = self.bus, self.bus_command
        payload = Signal.like(command.payload, reset_less=True)
        taken = Signal()
        in_time = [getattr(refresh, f"may_{c.name}", Const(1)) for c in BUS_COMMANDS]
        write = _all([of_bank.get(Command.PIM_WR_SB, Const(1)) for of_bank in ready])
        groups = [ready[scope[0]].get(Command.PIM_RD_RB, Const(1)) for scope in self._scopes(Level.BANK_GROUP)]
        may = Mux(bus.payload.read, in_time[1] & Array(groups)[bus.payload.bank_group], in_time[0] & write)
        m.d.comb += [
            bus.ready.eq(self.enable & turn.may_bus & may),
            taken.eq(bus.valid & bus.ready),
            turn.bus_waits.eq(bus.valid),
            turn.bus_issues.eq(taken),
            command.payload.eq(payload),
        ]
        m.d.comb += issued[Command.PIM_WR_SB][0].eq(taken & ~bus.payload.read)
        for group, scope in enumerate(self._scopes(Level.BANK_GROUP)):
            here = bus.payload.read & (bus.payload.bank_group == group)
            m.d.comb += issued[Command.PIM_RD_RB][scope[0]].eq(taken & here)
        m.d.sync += [command.valid.eq(taken), payload.eq(bus.payload)]
        return taken

    def _output(
        self,
        m: Module,
        banks: Sequence[BankMachine],
        pick: Value,
        codes: Sequence[Value],
        refresh: RefreshSchedule,
        accesses: Value,
        last: Value,
    ) -> None:
        """The output register; PREab and REFab issue in clocks without a pick."""
        org = self.params.organization
        places = [divmod(b, org.banks_per_group) for b in range(len(banks))]
        payload = Signal.like(self.command.payload, reset_less=True)
        rank_code = Mux(refresh.PREab, Command.PREab, Mux(refresh.REFab, Command.REFab, Command.DES))
        m.d.comb += self.command.payload.eq(payload)
        m.d.sync += [
            self.command.valid.eq(pick.any() | refresh.PREab | refresh.REFab),
            payload.code.eq(_picked(pick, codes) | rank_code),
            payload.bank_group.eq(_picked(pick, [Const(g, len(payload.bank_group)) for g, _ in places])),
            payload.bank.eq(_picked(pick, [Const(b, len(payload.bank)) for _, b in places])),
            payload.row.eq(_picked(pick, [bank.row for bank in banks])),
            payload.column.eq(_picked(pick, [bank.column for bank in banks]) * org.burst_length),
            payload.count.eq(accesses),
            payload.last.eq(last),
            payload.resume.eq(_picked(pick, [bank.resume for bank in banks])),
            payload.tag.eq(_picked(pick, [bank.tag for bank in banks])),
        ]


def _picked(pick: Value, values: Sequence[Value]) -> Value:
    """Value of the picked bank; 0 if none is picked."""
    width = max(len(v) for v in values)
    return reduce(or_, (v & pick[b].replicate(width) for b, v in enumerate(values)))
