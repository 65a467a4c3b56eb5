"""Parameters of the DRAM command engine, and the timers that a rule table asks for.

The engine issues at most one command in a controller clock of `ck_per_clock` CK, always in the same CK slot, so every
latency is kept as ``ceil(latency / ck_per_clock)`` clocks (:func:`~pimspec.timing.controller_delay`).
:func:`timer_groups` is the one step from rules to hardware: rules with the same level, preceding commands and window
share a timer at each node of the level. A rule that the engine cannot break (a latency of one clock, another rank, a
command that it never issues) needs no timer and gets none.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .commands import COMMAND_BITS, Command
from .constraints import Level, TimingConstraint, timing_constraints
from .dram import DramOrganization, dram_preset
from .errors import require
from .fields import Field, FieldTable
from .timing import DramTiming, controller_delay

__all__ = [
    "ENGINE_COMMANDS",
    "TASK_COMMANDS",
    "CommandEngineParams",
    "RowTaskKind",
    "TimerGroup",
    "refresh_margins",
    "timer_groups",
]

_C = Command

ENGINE_COMMANDS: tuple[Command, ...] = (_C.ACT, _C.PREpb, _C.PREab, _C.RD, _C.WR, _C.REFab, _C.PIM_MAC)
"""What the engine issues."""


class RowTaskKind(enum.IntEnum):
    """What a row task does with its columns; the code is two bits wide."""

    MAC = 0
    RD = 1
    WR = 2


TASK_COMMANDS: Mapping[RowTaskKind, Command] = MappingProxyType(
    {RowTaskKind.MAC: _C.PIM_MAC, RowTaskKind.RD: _C.RD, RowTaskKind.WR: _C.WR}
)
"""The column command of each kind."""


@dataclass(frozen=True, kw_only=True)
class TimerGroup:
    """Rules that one timer at each node of `level` keeps.

    Parameters
    ----------
    level : Level
        CHANNEL is the rank of the engine, but a PIM_MAC counts from its command, not from its last access.
    events : tuple of Command
        The preceding commands that the engine issues, in code order.
    window : int
    ready_clocks : tuple of (Command, int)
        For each following command the clocks that it must keep from the window-th last event, 2 or more.
    """

    level: Level
    events: tuple[Command, ...]
    window: int
    ready_clocks: tuple[tuple[Command, int], ...]

    def clocks_to(self, following: Command) -> int:
        """Least distance of `following` in clocks; 1 (one command a clock) if no rule of the group names it."""
        return dict(self.ready_clocks).get(following, 1)


def timer_groups(constraints: Iterable[TimingConstraint], ck_per_clock: int) -> tuple[TimerGroup, ...]:
    """The timers that the engine needs to keep `constraints`.

    Raises
    ------
    ParameterError
        If a rule to PIM_MAC relates different banks: the engine does not hold other commands off the later accesses
        of a burst.
    """
    merged: dict[tuple[Level, tuple[Command, ...], int], dict[Command, int]] = {}
    for rule in constraints:
        events = tuple(sorted(c for c in rule.preceding if c in ENGINE_COMMANDS))
        following = [c for c in rule.following if c in ENGINE_COMMANDS]
        clocks = controller_delay(rule.latency_cycles, ck_per_clock).clocks
        if rule.sibling or not events or not following or clocks <= 1:
            continue
        inside = rule.level in (Level.BANK, Level.CHANNEL) or _C.PIM_MAC not in following
        require(inside, f"level of {rule.name}", rule.level.value, "bank, as it counts to PIM_MAC")
        plain = rule.window == 1 or _C.PIM_MAC not in events
        require(plain, f"window of {rule.name}", rule.window, "1, as it counts from PIM_MAC")
        latencies = merged.setdefault((rule.level, events, rule.window), {})
        for command in following:
            latencies[command] = max(latencies.get(command, 1), clocks)
    return tuple(
        TimerGroup(level=level, events=events, window=window, ready_clocks=tuple(sorted(latencies.items())))
        for (level, events, window), latencies in merged.items()
    )


def refresh_margins(groups: Iterable[TimerGroup]) -> dict[Command, int]:
    """For each command but REFab the least clocks from it to REFab if a PREab is still to come between them.

    An ACT is given the time for one column access. For PIM_MAC the margin is that of its last access.
    """
    plain = [group for group in groups if group.window == 1]

    def least(earlier: Command, later: Command) -> int:
        return max((group.clocks_to(later) for group in plain if earlier in group.events), default=1)

    closing = least(_C.PREab, _C.REFab)
    margins = {_C.PREab: closing}
    for command in (*TASK_COMMANDS.values(), _C.PREpb, _C.ACT):
        margins[command] = max(least(command, _C.PREab) + closing, least(command, _C.REFab))
    opening = max(least(_C.ACT, column) + margins[column] for column in TASK_COMMANDS.values())
    margins[_C.ACT] = max(margins[_C.ACT], opening)
    return margins


@dataclass(frozen=True, kw_only=True)
class CommandEngineParams:
    """The command engine of one rank.

    Parameters
    ----------
    preset : str
        Name of a DRAM preset.
    ck_per_clock : int
        CK in one controller clock, 1 to 8.
    bank_groups, banks_per_group : int or None
        Fewer than the preset has, for small builds; powers of two. None: those of the preset.
    split_bursts : bool
        Whether a MAC task that does not fit before a refresh is cut in two, the second part following it. Otherwise
        the task waits, and a bank idles half a row on average before every refresh.
    patience_clocks : int
        Clocks that a bank may wait for its next command before commands of other banks that could hold it up stop.

    Raises
    ------
    ParameterError, UnknownNameError
    """

    preset: str = "ddr4-3200-x8-8gb"
    ck_per_clock: int = 4
    bank_groups: int | None = None
    banks_per_group: int | None = None
    split_bursts: bool = True
    patience_clocks: int = 64

    def __post_init__(self) -> None:
        whole = dram_preset(self.preset).organization
        require(1 <= self.ck_per_clock <= 8, "ck_per_clock", self.ck_per_clock, "1..8")
        for what in ("bank_groups", "banks_per_group"):
            given, most = getattr(self, what), getattr(whole, what)
            if given is not None:
                fits = 1 <= given <= most and given & (given - 1) == 0
                require(fits, what, given, f"a power of two up to {most}")
        require(self.num_banks >= 2, "number of banks", self.num_banks, "2 or more")
        require(8 <= self.patience_clocks <= 1024, "patience_clocks", self.patience_clocks, "8..1024")
        clocks = self.column_accesses * self.mac_interval_clocks
        require(
            self.refresh_clocks >= 2 * clocks, "refresh interval", self.refresh_clocks, f"{2 * clocks} clocks or more"
        )

    @property
    def organization(self) -> DramOrganization:
        """One rank, with the chosen number of banks."""
        whole = dram_preset(self.preset).organization
        groups, banks = self.bank_groups or whole.bank_groups, self.banks_per_group or whole.banks_per_group
        density = whole.density_gbit * groups * banks // whole.banks_per_chip
        rows = whole.rows
        if density == 0:  # a density is a whole number of Gbit: make the few banks larger
            rows, density = rows * whole.banks_per_chip // (whole.density_gbit * groups * banks), 1
        return replace(whole, ranks=1, bank_groups=groups, banks_per_group=banks, rows=rows, density_gbit=density)

    @property
    def timing(self) -> DramTiming:
        return dram_preset(self.preset).timing

    @property
    def constraints(self) -> tuple[TimingConstraint, ...]:
        """The rules that the engine keeps unless it is given others."""
        return timing_constraints(self.timing, self.organization)

    @property
    def num_banks(self) -> int:
        return self.organization.banks_per_chip

    @property
    def column_accesses(self) -> int:
        """Column accesses of a row: the largest count."""
        return self.organization.column_accesses_per_row

    @property
    def mac_interval_clocks(self) -> int:
        """Clocks in which a bank certainly makes one access of a burst."""
        return controller_delay(self.timing.nCCD_MAC, self.ck_per_clock).clocks

    @property
    def refresh_clocks(self) -> int:
        """Distance of two REFab: nREFI, a maximum, rounded down."""
        return self.timing.nREFI // self.ck_per_clock

    @property
    def count_bits(self) -> int:
        return self.column_accesses.bit_length()

    @property
    def task(self) -> FieldTable:
        """A row task: `column` is the number of the first column access, `kind` a :class:`RowTaskKind`."""
        org = self.organization
        return FieldTable(
            Field(name="row", width=org.row_bits),
            Field(name="column", width=org.column_access_bits),
            Field(name="count", width=self.count_bits),
            Field(name="kind", width=2),
        )

    @property
    def command(self) -> FieldTable:
        """A command: `code` of :class:`~pimspec.commands.Command`, `column` as on the CA bus; see the engine."""
        org = self.organization
        return FieldTable(
            Field(name="code", width=COMMAND_BITS),
            Field(name="bank_group", width=max(1, org.bank_group_bits)),
            Field(name="bank", width=max(1, org.bank_bits)),
            Field(name="row", width=org.row_bits),
            Field(name="column", width=org.column_bits),
            Field(name="count", width=self.count_bits),
            Field(name="last", width=1),
        )
