"""Rule checker of a DRAM command stream, derived from the table of :mod:`pimspec.dram.constraints`.

The file is long because rules of rows, bursts, refresh and distances share the state of one stream.

:class:`RuleChecker` is given commands in the order of issue. It raises :class:`RuleViolationError` with the name of the
first rule that a command breaks. The rules are

* every :class:`~pimspec.dram.constraints.TimingConstraint` of the table, by its name. The CA rules among them keep one
  command at a time on the CA bus. Bursts on the DQ bus cannot overlap if the table is kept (a test checks the table for
  that), so there is no rule for them;
* the row rules :data:`ROW_OPEN`, :data:`ROW_CLOSED`, :data:`BURST_ROW` and :data:`BURST_COLUMNS`, from
  :data:`~pimspec.dram.commands.COMMANDS`. PRE of a bank without open row is legal;
* the refresh rules :data:`REFRESH_INTERVAL` and :data:`REFRESH_COUNT`, which are maxima;
* :data:`STREAMING_BANKS`, if there is such a limit. A bank streams from the CK of a PIM_MAC to nCCD_MAC after the last
  access.

PIM_MAC is a counted burst: one command, then `count` column accesses in each addressed bank, nCCD_MAC apart, the first
in the cycle of the command. The accesses use neither CA nor DQ. A rule (but a CA rule) that counts *to* PIM_MAC holds
for each access: a command that must keep away from PIM_MAC may not issue too shortly before the next access of a
running burst. A rule that counts *from* PIM_MAC counts from the last access, also while the burst runs. That equals the
expansion of a burst into accesses, with one exception. Where nCCD_MAC is above nCCD_L (HBM3), a column command between
two accesses breaks pim_MAC_column too, instead of pim_RD_MAC or pim_WR_MAC alone. A command in the cycle of an access
counts as the later of the two.

Refresh is accounted for each bank: REFab refreshes all of its rank, REFsb one of each bank_group. With p =
`max_postponed` and i = ``nREFI / refresh_rate``, two refreshes of a bank are at most ``(1 + p) * i`` apart, and the
k-th one comes by ``(k + p) * i``; refreshes ahead of time count for at most p. A bank counts as refreshed at
`start_ck`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pimspec.dram.command_trace import TracedCommand, TraceStatistics
from pimspec.dram.commands import COMMANDS, Bus, Command, CommandInfo, Scope, supported_commands
from pimspec.dram.constraints import Level, TimingConstraint, timing_constraints
from pimspec.dram.organization import DramOrganization, DramPreset
from pimspec.dram.timing import DramStandard, DramTiming
from pimspec.errors import PimError, require

__all__ = [
    "BURST_COLUMNS",
    "BURST_ROW",
    "REFRESH_COUNT",
    "REFRESH_INTERVAL",
    "ROW_CLOSED",
    "ROW_OPEN",
    "STREAMING_BANKS",
    "RuleChecker",
    "RuleViolationError",
]

ROW_OPEN = "row_open"
"""Rule: a column command needs an open row in every bank that it addresses."""
ROW_CLOSED = "row_closed"
"""Rule: ACT, REFab, REFsb and MRS need every bank that they act on without an open row."""
BURST_ROW = "burst_row"
"""Rule: no row may be closed before the last access of the burst that uses it."""
BURST_COLUMNS = "burst_columns"
"""Rule: a burst starts at a whole column access and ends within the row."""
REFRESH_INTERVAL = "tREFI"
"""Rule: greatest distance of two refreshes of a bank."""
REFRESH_COUNT = "tREFI_average"
"""Rule: latest cycle of the k-th refresh of a bank."""

STREAMING_BANKS = "streaming_banks"
"""Rule: most banks of a rank that stream at once, if there is a limit."""

_MAX_POSTPONED = 8
_NEVER = -(1 << 62)
_Stamp = tuple[int, int, TracedCommand | None]  # (cycle that rules count from, number of the command, command)


class RuleViolationError(PimError):
    """Violation of a rule by a command stream.

    Parameters
    ----------
    rule : str
        Name of the constraint, or one of the constants of this module.
    earlier, later : TracedCommand or None
        Command that the rule counts from, and the one that breaks it (None: the end of the trace).
    needed, found : int or None
        CK, for a rule about a distance. `found` is below `needed`, or above it for a refresh rule.
    reason : str
        Description, for a rule about something else.
    """

    def __init__(
        self,
        rule: str,
        earlier: TracedCommand | None,
        later: TracedCommand | None,
        needed: int | None = None,
        found: int | None = None,
        reason: str = "",
    ) -> None:
        self.rule, self.earlier, self.later, self.needed, self.found = rule, earlier, later, needed, found
        if needed is not None and found is not None:
            bound = "at least" if found < needed else "at most"
            reason = f"{found} CK after {earlier or 'the start'}, must be {bound} {needed}{reason and ', ' + reason}"
        elif earlier is not None:
            reason = f"{reason} since {earlier}"
        super().__init__(f"{rule}: {later or 'end of the trace'}: {reason}")


class _History:
    """Last commands of one set, for each node of a level."""

    def __init__(self, num_nodes: int, window: int) -> None:
        self.last: list[_Stamp] = [(_NEVER, -1, None)] * num_nodes
        self.recent: list[deque[_Stamp]] = [deque(maxlen=window) for _ in range(num_nodes if window > 1 else 0)]


_Nodes = tuple[int, ...]


@dataclass(slots=True)
class _Plan:
    """Checks and records of one command at one address."""

    info: CommandInfo
    banks: _Nodes
    bank_mask: int
    reads: list[tuple[list[_Stamp], _Nodes, int, TimingConstraint]] = field(default_factory=list)
    window_reads: list[tuple[_History, _Nodes, TimingConstraint]] = field(default_factory=list)
    writes: list[tuple[list[_Stamp], _Nodes]] = field(default_factory=list)
    end_writes: list[tuple[list[_Stamp], _Nodes]] = field(default_factory=list)
    window_writes: list[tuple[_History, _Nodes]] = field(default_factory=list)
    next_access: list[tuple[int, TimingConstraint]] = field(default_factory=list)


class RuleChecker:
    """Checker of a command stream, command by command as it is issued.

    Parameters
    ----------
    part : DramPreset or tuple of (DramTiming, DramOrganization)
    constraints : sequence of TimingConstraint, optional
        Rules to keep; by default the table of the part.
    max_postponed : int or None
        Refreshes that may be late at any time, 0 to 8; None leaves refresh unchecked.
    refresh_rate : int
        1, or 2 for twice the rate, as above 85 degC: the interval is ``nREFI / refresh_rate``, rounded down.
    max_streaming_banks : int
        Most banks of a rank with a PIM_MAC in flight at any CK; 0: no limit.
    start_ck : int
        Start of the trace, with every bank precharged and refreshed.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    def __init__(
        self,
        part: DramPreset | tuple[DramTiming, DramOrganization],
        constraints: Sequence[TimingConstraint] | None = None,
        *,
        max_postponed: int | None = 0,
        refresh_rate: int = 1,
        max_streaming_banks: int = 0,
        start_ck: int = 0,
    ) -> None:
        timing, organization = (part.timing, part.organization) if isinstance(part, DramPreset) else part
        if constraints is None:
            constraints = timing_constraints(timing, organization)
        if max_postponed is not None:
            require(0 <= max_postponed <= _MAX_POSTPONED, "max_postponed", max_postponed, f"0 to {_MAX_POSTPONED}")
        require(refresh_rate in (1, 2), "refresh_rate", refresh_rate, "1 or 2")
        require(max_streaming_banks >= 0, "max_streaming_banks", max_streaming_banks, "0 (no limit) or more")
        require(start_ck >= 0, "start_ck", start_ck, "0 or more")
        for rule in constraints:
            plain = rule.window == 1 or Command.PIM_MAC not in (*rule.preceding, *rule.following)
            require(plain, f"window of {rule.name}", rule.window, "1, as it names PIM_MAC")
        self.timing, self.organization, self.constraints = timing, organization, tuple(constraints)
        self._supported = frozenset(supported_commands(organization.standard))
        self._ck = self._start_ck = start_ck
        self._banks = organization.ranks * organization.banks_per_chip
        self._plans: dict[tuple[Command, int, int | None, int | None], _Plan] = {}
        shared: dict[object, _History] = {}  # rules that count from the same commands share a history
        self._rules = []
        for rule in self.constraints:
            key = (rule.level, rule.sibling, rule.preceding, rule.window)
            self._rules.append((rule, shared.setdefault(key, _History(self._banks, rule.window))))
        self._row_open = [False] * self._banks
        self._row_by: list[TracedCommand | None] = [None] * self._banks  # the command that opened or closed the row
        self._bursts: list[tuple[int, int, TracedCommand]] = []  # (last access, bank mask, PIM_MAC), not yet over
        self._max_streaming = max_streaming_banks
        self._in_flight: list[tuple[int, TracedCommand, int]] = []  # (CK after its last access, PIM_MAC, bank mask)
        self._counts = [0] * (max(Command) + 1)
        self._number = self._mac_accesses = 0
        self._used = [False] * self._banks
        self._interval = timing.nREFI // refresh_rate
        self._allowance = None if max_postponed is None else max_postponed * self._interval
        self._paid = [start_ck] * self._banks  # refreshed in the long run until
        self._refreshed: list[tuple[int, TracedCommand | None]] = [(start_ck, None)] * self._banks
        self._deadline = 1 << 62
        self._set_deadline()

    def issue(self, traced: TracedCommand) -> None:
        """Check one command and take it as issued.

        Raises
        ------
        RuleViolationError
            If the command breaks a rule; it then counts as not issued.
        ParameterError
            If `ck` decreases, or the part does not have the command or the address.
        """
        ck, command = traced.ck, traced.command
        if ck < self._ck:
            require(False, "ck", ck, f"at least that of the command before, {self._ck}")
        plan = self._plans.get((command, traced.rank, traced.bank_group, traced.bank))
        if plan is None:
            plan = self._make_plan(traced)
        if traced.row is not None or traced.column is not None:
            self._check_range(traced)
        if ck > self._deadline:
            self._raise_late(ck, traced)
        info = plan.info
        if info.needs_open_row or info.needs_idle:
            self._check_rows(traced, plan.banks, info.needs_open_row)
        for last, nodes, latency, rule in plan.reads:
            latest = ck - latency
            for node in nodes:
                if last[node][0] > latest:
                    stamp = last[node]
                    reason = "counted from its last access" if stamp[2] and stamp[2].count > 1 else ""
                    raise RuleViolationError(rule.name, stamp[2], traced, latency, ck - stamp[0], reason)
        for history, nodes, rule in plan.window_reads:
            self._check_window(traced, history, nodes, rule)
        if self._bursts:
            self._check_bursts(traced, plan)
        if self._max_streaming and command is Command.PIM_MAC:
            self._check_streaming(traced, plan)
        self._record(traced, plan)

    def finish(self, ck: int | None = None) -> TraceStatistics:
        """Statistics of the trace, after a check that no refresh is late at `ck` (by default the last command).

        Raises
        ------
        RuleViolationError, ParameterError
            As for :meth:`issue`.
        """
        end = self._ck if ck is None else ck
        require(end >= self._ck, "ck", end, f"at least that of the last command, {self._ck}")
        if end > self._deadline:
            self._raise_late(end, None)
        counts = {command: self._counts[command] for command in Command if self._counts[command]}
        single = sum(n for c, n in counts.items() if COMMANDS[c].scope is Scope.BANK and COMMANDS[c].needs_open_row)
        bursts = sum(n for c, n in counts.items() if COMMANDS[c].bus is not Bus.NONE)
        return TraceStatistics(
            counts=counts,
            elapsed_cycles=end - self._start_ck,
            column_accesses=single + self._mac_accesses,
            banks_used=sum(self._used),
            column_cycles=self.timing.nCCD_MAC,
            data_bus_cycles=bursts * self.timing.nBL,
        )

    def check_trace(self, trace: Iterable[TracedCommand], end_ck: int | None = None) -> TraceStatistics:
        """Statistics of a trace: :meth:`issue` of every command, then :meth:`finish`."""
        for traced in trace:
            self.issue(traced)
        return self.finish(end_ck)

    def _check_range(self, traced: TracedCommand) -> None:
        org = self.organization
        for what, given, bound in (("row", traced.row, org.rows), ("column", traced.column, org.columns)):
            if given is not None and given >= bound:
                require(False, f"{what} of {traced}", given, f"below {bound}")
        if traced.count > 1 and traced.column is not None:
            first, inside = divmod(traced.column, org.burst_length)
            if inside or first + traced.count > org.column_accesses_per_row:
                reason = f"accesses {org.burst_length} columns apart do not all fit a row of {org.columns}"
                raise RuleViolationError(BURST_COLUMNS, None, traced, reason=reason)

    def _check_rows(self, traced: TracedCommand, banks: _Nodes, wanted: bool) -> None:
        is_open = self._row_open
        for bank in banks:
            if is_open[bank] is not wanted:
                group, index = divmod(bank % self.organization.banks_per_chip, self.organization.banks_per_group)
                where = f"bank_group {group} bank {index} has {'no' if wanted else 'an'} open row"
                raise RuleViolationError(ROW_OPEN if wanted else ROW_CLOSED, self._row_by[bank], traced, reason=where)

    def _check_window(self, traced: TracedCommand, history: _History, nodes: _Nodes, rule: TimingConstraint) -> None:
        related: Sequence[_Stamp] = history.recent[nodes[0]]
        if len(nodes) > 1:
            related = sorted({stamp for node in nodes for stamp in history.recent[node]})
        if len(related) >= rule.window and related[-rule.window][0] + rule.latency_cycles > traced.ck:
            cycle, _, earlier = related[-rule.window]
            raise RuleViolationError(rule.name, earlier, traced, rule.latency_cycles, traced.ck - cycle)

    def _check_bursts(self, traced: TracedCommand, plan: _Plan) -> None:
        ck, interval = traced.ck, self.timing.nCCD_MAC
        self._bursts = [burst for burst in self._bursts if burst[0] > ck]
        for end, mask, burst in self._bursts:
            for region, rule in plan.next_access:
                ahead = interval - (ck - burst.ck) % interval
                if region & mask and ahead < rule.latency_cycles:
                    reason = f"counted from the command to the next access of {burst}"
                    raise RuleViolationError(rule.name, traced, burst, rule.latency_cycles, ahead, reason)
            if plan.info.closes_row and plan.bank_mask & mask:
                reason = f"its accesses last until CK {end}"
                raise RuleViolationError(BURST_ROW, burst, traced, reason=f"closes a row of a burst, {reason},")

    def _check_streaming(self, traced: TracedCommand, plan: _Plan) -> None:
        interval = self.timing.nCCD_MAC
        self._in_flight = [burst for burst in self._in_flight if burst[0] > traced.ck]
        mine = (traced.ck + traced.count * interval, traced, plan.bank_mask)
        streaming = 0
        for _, burst, mask in (*self._in_flight, mine):
            streaming |= mask if burst.rank == traced.rank else 0
        if streaming.bit_count() > self._max_streaming:
            reason = f"{streaming.bit_count()} banks stream, more than {self._max_streaming},"
            earlier = self._in_flight[0][1] if self._in_flight else None
            raise RuleViolationError(STREAMING_BANKS, earlier, traced, reason=reason)
        self._in_flight.append(mine)

    def _record(self, traced: TracedCommand, plan: _Plan) -> None:
        self._ck, command = traced.ck, traced.command
        self._number += 1
        self._counts[command] += 1
        stamp = (traced.ck, self._number, traced)
        for last, nodes in plan.writes:
            for node in nodes:
                last[node] = stamp
        for history, nodes in plan.window_writes:
            for node in nodes:
                history.recent[node].append(stamp)
        if command is Command.PIM_MAC:
            self._mac_accesses += traced.count * len(plan.banks)
            end = traced.ck + (traced.count - 1) * self.timing.nCCD_MAC
            if end > traced.ck:
                self._bursts.append((end, plan.bank_mask, traced))
            stamp = (end, self._number, traced)
        for last, nodes in plan.end_writes:
            for node in nodes:  # a burst may last longer than what was issued after it
                last[node] = max(last[node], stamp)
        if plan.info.opens_row or plan.info.closes_row or plan.info.refreshes:
            self._change_rows(traced, plan.banks, plan.info)

    def _change_rows(self, traced: TracedCommand, banks: _Nodes, info: CommandInfo) -> None:
        for bank in banks:
            if info.refreshes:
                self._refreshed[bank] = (traced.ck, traced)
                self._paid[bank] = min(self._paid[bank] + self._interval, traced.ck + (self._allowance or 0))
            else:
                self._row_open[bank] = info.opens_row
                self._row_by[bank] = traced
                self._used[bank] |= info.opens_row
        if info.refreshes:
            self._set_deadline()

    def _set_deadline(self) -> None:
        if self._allowance is not None:
            since = min(*self._paid, *(ck for ck, _ in self._refreshed))
            self._deadline = since + self._interval + self._allowance

    def _raise_late(self, ck: int, traced: TracedCommand | None) -> None:
        limit = self._interval + (self._allowance or 0)
        last_ck, earlier = min(self._refreshed, key=lambda refreshed: refreshed[0])
        if ck > last_ck + limit:
            raise RuleViolationError(REFRESH_INTERVAL, earlier, traced, limit, ck - last_ck)
        paid = min(self._paid)
        bank = self._paid.index(paid)
        needed = paid + limit - self._refreshed[bank][0]
        raise RuleViolationError(REFRESH_COUNT, self._refreshed[bank][1], traced, needed, ck - self._refreshed[bank][0])

    def _bank_nodes(self, traced: TracedCommand) -> _Nodes:
        org = self.organization
        groups = range(org.bank_groups) if traced.bank_group is None else (traced.bank_group,)
        banks = range(org.banks_per_group) if traced.bank is None else (traced.bank,)
        base = traced.rank * org.bank_groups
        return tuple((base + g) * org.banks_per_group + b for g, b in itertools.product(groups, banks))

    def _nodes(self, level: Level, traced: TracedCommand) -> _Nodes:
        org = self.organization
        if level is Level.CHANNEL:
            return (0,)
        if level is Level.RANK:
            return (traced.rank,)
        if level is Level.BANK:
            return self._bank_nodes(traced)
        base = traced.rank * org.bank_groups
        return tuple(range(base, base + org.bank_groups)) if traced.bank_group is None else (base + traced.bank_group,)

    def _region(self, level: Level, nodes: _Nodes) -> int:
        """Mask of the banks of these nodes."""
        org = self.organization
        size = {Level.RANK: org.banks_per_chip, Level.BANK_GROUP: org.banks_per_group, Level.BANK: 1}[level]
        return sum(((1 << size) - 1) << (node * size) for node in nodes)

    def _make_plan(self, traced: TracedCommand) -> _Plan:
        org, command = self.organization, traced.command
        require(command in self._supported, "command", command.name, f"one that {org.standard.value} has")
        for what, bound in (("rank", org.ranks), ("bank_group", org.bank_groups), ("bank", org.banks_per_group)):
            given = getattr(traced, what)
            require(given is None or given < bound, f"{what} of {traced}", given, f"below {bound}")
        if command is Command.REFsb:
            one, text = org.standard is DramStandard.HBM3, f"bank_group of {traced}"
            require((traced.bank_group is not None) is one, text, traced.bank_group, "given" if one else "empty")
        banks, others = self._bank_nodes(traced), tuple(rank for rank in range(org.ranks) if rank != traced.rank)
        plan = _Plan(COMMANDS[command], banks, self._region(Level.BANK, banks))
        for rule, history in self._rules:
            nodes = self._nodes(rule.level, traced)
            if command in rule.following and rule.window > 1:
                plan.window_reads.append((history, nodes, rule))
            elif command in rule.following:
                plan.reads.append((history.last, nodes, rule.latency_cycles, rule))
            if command not in rule.preceding:
                continue
            # Sibling rules are written to the ranks that they hold, so that a command reads only its own nodes.
            written = others if rule.sibling else nodes
            burst_rule = Command.PIM_MAC in rule.preceding and rule.level is not Level.CHANNEL
            if rule.window > 1:
                if (history, written) not in plan.window_writes:
                    plan.window_writes.append((history, written))
            elif not any(last is history.last for last, _ in (*plan.writes, *plan.end_writes)):
                (plan.end_writes if burst_rule else plan.writes).append((history.last, written))
            if Command.PIM_MAC in rule.following and rule.level is not Level.CHANNEL:
                plan.next_access.append((self._region(rule.level, written), rule))
        self._plans[command, traced.rank, traced.bank_group, traced.bank] = plan
        return plan
