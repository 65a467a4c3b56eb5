"""Legal DRAM command streams: a scheduler that keeps the rule table, and random streams made with it.

:class:`StreamBuilder` works forward where the checker looks back. Each issued command pushes the earliest cycle of
every command that a rule holds back, for each bank, as the timers of a controller do. It is for tests and examples, and
is no model of a controller.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import COMMANDS, Bus, Command, CommandAddress, Scope, supported_commands
from pimspec.dram.constraints import Level, TimingConstraint, constraint_named, timing_constraints
from pimspec.dram.organization import DramPreset, dram_preset
from pimspec.dram.timing import DramStandard
from pimspec.errors import require

__all__ = ["StreamBuilder", "legal_stream", "preset_rules", "rules_without"]

_Index = tuple[int | slice, int | slice, int | slice]
_ALL = slice(None)
_CLOSING = [int(command) for command, info in COMMANDS.items() if info.closes_row]


@functools.cache
def preset_rules(name: str) -> tuple[TimingConstraint, ...]:
    """Rule table of the DRAM part called `name`; raises :class:`~pimspec.errors.UnknownNameError`."""
    preset = dram_preset(name)
    return timing_constraints(preset.timing, preset.organization)


def rules_without(rules: Iterable[TimingConstraint], name: str) -> tuple[TimingConstraint, ...]:
    """All rules except that called `name`; raises :class:`~pimspec.errors.UnknownNameError` if there is none."""
    rules = tuple(rules)
    absent = constraint_named(rules, name)
    return tuple(rule for rule in rules if rule.name != absent.name)


class StreamBuilder:
    """Builder of a command stream: each command issues at its earliest legal cycle, or later.

    Parameters
    ----------
    preset : DramPreset
    constraints : sequence of TimingConstraint, optional
        Rules to keep; by default the table of the preset.
    """

    def __init__(self, preset: DramPreset, constraints: Sequence[TimingConstraint] | None = None) -> None:
        self.preset = preset
        if constraints is None:
            constraints = timing_constraints(preset.timing, preset.organization)
        org = preset.organization
        self.trace: list[TracedCommand] = []
        self.row_open = np.zeros((org.ranks, org.bank_groups, org.banks_per_group), dtype=bool)
        self._not_before = np.zeros((max(Command) + 1, *self.row_open.shape), dtype=np.int64)
        self._recent: dict[tuple[str, int], deque[int]] = {}
        self._holds = {c: [r for r in constraints if c in r.preceding] for c in Command}
        self._held_to_mac = [r for r in constraints if Command.PIM_MAC in r.following and r.level is not Level.CHANNEL]
        for rule in constraints:
            simple = rule.window == 1 or (rule.level is Level.RANK and not rule.sibling)
            require(simple, f"window of {rule.name}", rule.window, "1, or of a rank")

    @property
    def ck(self) -> int:
        """Cycle of the last command; 0 before the first."""
        return self.trace[-1].ck if self.trace else 0

    def allowed(self, command: Command, address: CommandAddress) -> bool:
        """True if the rows of the addressed banks permit the command."""
        banks, info = self.row_open[_index(address)], COMMANDS[command]
        return bool(np.all(banks)) if info.needs_open_row else not (info.needs_idle and np.any(banks))

    def earliest(self, command: Command, address: CommandAddress) -> int:
        """First cycle at which the timing rules permit the command after those issued."""
        return max(self.ck, int(np.max(self._not_before[int(command)][_index(address)])))

    def issue(
        self,
        command: Command,
        address: CommandAddress,
        *,
        ck: int | None = None,
        row: int = 0,
        column: int = 0,
        count: int = 1,
    ) -> TracedCommand:
        """Issue a command at `ck`, by default at once; a command without `row` or `column` ignores them."""
        fields, when = COMMANDS[command].fields, self.earliest(command, address) if ck is None else ck
        traced = TracedCommand(
            when,
            command,
            address.rank,
            address.bank_group,
            address.bank,
            row if "row" in fields else None,
            column if "column" in fields else None,
            count,
        )
        self.trace.append(traced)
        end = when + (count - 1) * self.preset.timing.nCCD_MAC
        for rule in self._holds[command]:
            self._push(rule, address, when if rule.level is Level.CHANNEL else end)
        if end > when:
            for rule in self._held_to_mac:
                self._raise(rule, rule.preceding, address, end)
            timers = self._not_before[(_CLOSING, *_index(address))]  # the row stays open until the last access
            self._not_before[(_CLOSING, *_index(address))] = np.maximum(timers, end)
        if COMMANDS[command].opens_row or COMMANDS[command].closes_row:
            self.row_open[_index(address)] = COMMANDS[command].opens_row
        return traced

    def _push(self, rule: TimingConstraint, address: CommandAddress, cycle: int) -> None:
        if rule.window > 1:
            recent = self._recent.setdefault((rule.name, address.rank), deque(maxlen=rule.window))
            recent.append(cycle)
            if len(recent) < rule.window:
                return
            cycle = recent[0]
        self._raise(rule, rule.following, address, cycle + rule.latency_cycles)

    def _raise(self, rule: TimingConstraint, commands: Sequence[Command], address: CommandAddress, cycle: int) -> None:
        for place in self._places(rule, address):
            for command in commands:
                timers = self._not_before[int(command)]
                timers[place] = np.maximum(timers[place], cycle)

    def _places(self, rule: TimingConstraint, address: CommandAddress) -> list[_Index]:
        if rule.level is Level.CHANNEL:
            return [(_ALL, _ALL, _ALL)]
        if rule.sibling:
            return [(rank, _ALL, _ALL) for rank in range(len(self.row_open)) if rank != address.rank]
        place = _index(address)
        return [
            (
                place[0],
                *(_ALL if rule.level is Level.RANK else place[1], _ALL if rule.level is not Level.BANK else place[2]),
            )
        ]


def _index(address: CommandAddress) -> _Index:
    return (
        address.rank,
        _ALL if address.bank_group is None else address.bank_group,
        _ALL if address.bank is None else address.bank,
    )


_WEIGHTS = {
    Command.ACT: 9.0,
    Command.PREpb: 2.0,
    Command.PREab: 0.15,
    Command.RD: 5.0,
    Command.RDA: 1.0,
    Command.WR: 5.0,
    Command.WRA: 1.0,
    Command.REFab: 0.1,
    Command.REFsb: 1.0,
    Command.MRS: 1.0,
    Command.PIM_WR_R: 1.0,
    Command.PIM_LD_SB: 1.0,
    Command.PIM_WR_SB: 1.0,
    Command.PIM_MAC: 5.0,
    Command.PIM_RD_RB: 1.0,
}
_BLOCKING_CYCLES = 2500  # most CK between the decision to refresh a rank and its REFab: a burst of a row
_Step = tuple[Command, CommandAddress]


def legal_stream(
    preset: DramPreset,
    *,
    num_commands: int,
    rng: random.Random,
    idle: float = 0.2,
    max_postponed: int = 0,
    pim: bool = True,
    constraints: Sequence[TimingConstraint] | None = None,
) -> list[TracedCommand]:
    """A random legal stream of all commands of a part, over its ranks, with refresh.

    Parameters
    ----------
    preset : DramPreset
    num_commands : int
    rng : random.Random
    idle : float
        Share of the commands that issue later than they could; the others are as early as the rules permit.
    max_postponed : int
        Refreshes are done ``max_postponed + 1`` at a time, in intervals that grow likewise.
    pim : bool
        True to include PIM commands.
    constraints : sequence of TimingConstraint, optional
        Rules to keep; by default the table of the preset. One rule fewer gives streams that break just that rule.

    Returns
    -------
    list of TracedCommand
    """
    builder = StreamBuilder(preset, constraints)
    return _RandomStream(builder, rng, idle=idle, refreshes=max_postponed + 1, pim=pim).make(num_commands)


class _RandomStream:
    def __init__(self, builder: StreamBuilder, rng: random.Random, *, idle: float, refreshes: int, pim: bool) -> None:
        self.builder, self.rng, self.idle, self.refreshes = builder, rng, idle, refreshes
        self.org, timing = builder.preset.organization, builder.preset.timing
        self.commands = supported_commands(self.org.standard, pim=pim)
        self.span = refreshes * timing.nREFI
        blocking = min(_BLOCKING_CYCLES, self.span // (2 * self.org.ranks))
        self.margin = self.org.ranks * (blocking + (refreshes - 1) * timing.nRFC)
        self.longest = min(self.org.column_accesses_per_row, blocking // (2 * timing.nCCD_MAC))
        self.due = [self.span - self.margin] * self.org.ranks
        self.planned: deque[_Step] = deque()

    def make(self, num_commands: int) -> list[TracedCommand]:
        while len(self.builder.trace) < num_commands:
            self.plan_refresh()
            step = self.planned.popleft() if self.planned else self.choose()
            if step is not None and self.builder.allowed(*step):
                self.issue(*step)
        return self.builder.trace[:num_commands]

    def plan_refresh(self) -> None:
        for rank, due in enumerate(self.due):
            if self.builder.ck >= due:
                at = CommandAddress(rank=rank)
                steps = [(Command.PREab, at), *self.bus_command(rank), *[(Command.REFab, at)] * self.refreshes]
                self.planned.extendleft(reversed(steps))
                self.due[rank] = due + self.span - self.margin

    def bus_command(self, rank: int) -> list[_Step]:
        """One without a row, or none: what may still be under way when the rows are closed."""
        some = [c for c in self.commands if COMMANDS[c].bus is not Bus.NONE and not COMMANDS[c].needs_open_row]
        if not some or self.rng.random() < 0.25:
            return []
        command = self.rng.choice(some)
        return [(command, replace(self.address(command), rank=rank))]

    def choose(self) -> _Step | None:
        """Earliest of a few random commands that the rows permit; now and then all banks of a set are opened."""
        if self.rng.random() < 0.02:
            self.plan_bank_set()
            return None
        drawn = self.rng.choices(self.commands, [_WEIGHTS[c] for c in self.commands], k=4)
        steps = [step for step in ((c, self.address(c)) for c in drawn) if self.builder.allowed(*step)]
        return min(steps, key=lambda step: self.builder.earliest(*step), default=None)

    def plan_bank_set(self) -> None:
        """Plan the ACT of every closed bank of a PIM_MAC's set, and the PIM_MAC."""
        rank, bank = self.rng.randrange(self.org.ranks), self.rng.choice((None, self.rng.randrange(4)))
        banks = range(self.org.banks_per_group) if bank is None else (bank,)
        for index, group in itertools.product(banks, range(self.org.bank_groups)):
            self.planned.append((Command.ACT, CommandAddress(rank=rank, bank_group=group, bank=index)))
        if Command.PIM_MAC in self.commands:
            self.planned.append((Command.PIM_MAC, CommandAddress(rank=rank, bank=bank)))

    def address(self, command: Command) -> CommandAddress:
        rank, scope = self.rng.randrange(self.org.ranks), COMMANDS[command].scope
        group, bank = self.rng.randrange(self.org.bank_groups), self.rng.randrange(self.org.banks_per_group)
        if command is Command.PIM_MAC:
            group_or_all, bank_or_all = self.rng.choice(((None, None), (None, bank), (group, bank), (group, bank)))
            return CommandAddress(rank=rank, bank_group=group_or_all, bank=bank_or_all)
        if scope is Scope.SAME_BANK:
            one_bank = self.org.standard is DramStandard.HBM3
            return CommandAddress(rank=rank, bank_group=group if one_bank else None, bank=bank)
        return (
            CommandAddress(rank=rank, bank_group=group, bank=bank) if scope is Scope.BANK else CommandAddress(rank=rank)
        )

    def issue(self, command: Command, address: CommandAddress) -> None:
        ck = self.builder.earliest(command, address)
        if self.rng.random() < self.idle:
            ck += self.rng.choice((1, 1, 2, 3, self.rng.randrange(200)))
        accesses, count = self.org.column_accesses_per_row, 1
        if command is Command.PIM_MAC and self.rng.random() < 0.5:
            count = self.rng.choice((2, 3, 8, 1 + self.rng.randrange(self.longest)))
        column = self.rng.randrange(accesses - count + 1) * self.org.burst_length
        row = self.rng.randrange(self.org.rows)
        self.builder.issue(command, address, ck=ck, row=row, column=column, count=count)
