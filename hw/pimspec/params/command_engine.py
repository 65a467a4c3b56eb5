"""Parameters of the DRAM command engine, and the timers that a rule table requires.

The engine issues at most two commands in a controller clock of `ck_per_clock` CK, each always in the CK slot (*phase*)
of its kind. Row and column commands have phase 0. If a clock has two CK or more, one of :data:`BUS_COMMANDS` issues
half a clock later. From phase p to phase f, a latency takes ``ceil((latency + p - f) / ck_per_clock)`` clocks.

:func:`timer_groups` is the one step from rules to hardware. Rules with the same level, preceding commands of the same
phase, and window share a timer at each node of the level. A rule that the engine cannot break needs no timer and gets
none: the order of the phases or one clock is enough, or it names another rank or a command that never issues.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..dram.commands import COMMAND_BITS, Command
from ..dram.constraints import BUS_TCCD, Level, TimingConstraint, timing_constraints
from ..dram.current import banks_within
from ..dram.organization import DramOrganization, dram_preset
from ..dram.timing import DramTiming, controller_delay
from ..errors import is_power_of_two, require
from ..fields import Field, FieldTable

__all__ = [
    "BUS_COMMANDS",
    "ENGINE_COMMANDS",
    "MOST_OWED",
    "REFRESH_RATES",
    "TASK_COMMANDS",
    "CommandEngineParams",
    "RowTaskKind",
    "TimerGroup",
    "owed_refresh_clocks",
    "refresh_margins",
    "timer_groups",
]

_C = Command

BUS_COMMANDS: tuple[Command, ...] = (_C.PIM_WR_SB, _C.PIM_RD_RB)
"""Commands of the second slot; the index is the field `read`."""

ENGINE_COMMANDS: tuple[Command, ...] = (
    *(_C.ACT, _C.PREpb, _C.PREab, _C.RD, _C.WR, _C.REFab, _C.PIM_MAC),
    *BUS_COMMANDS,
)
"""Commands that the engine issues."""

REFRESH_RATES = (1, 2)
"""Refresh rates: that of JEDEC up to 85 degC, and twice as much."""

MOST_OWED = 8
"""Most refreshes by which the host's and the engine's are counted apart: as many as JEDEC lets a host postpone."""

_MAX_TAG_BITS = 64


class RowTaskKind(enum.IntEnum):
    """Kind of a row task, by its column command; the code is two bits wide."""

    MAC = 0
    RD = 1
    WR = 2


TASK_COMMANDS: Mapping[RowTaskKind, Command] = MappingProxyType(
    {RowTaskKind.MAC: _C.PIM_MAC, RowTaskKind.RD: _C.RD, RowTaskKind.WR: _C.WR}
)
"""Column command of each kind."""


@dataclass(frozen=True, kw_only=True)
class TimerGroup:
    """Rules that one timer at each node of `level` keeps.

    Parameters
    ----------
    level : Level
        CHANNEL is the rank of the engine, but a PIM_MAC counts from its command, not from its last access.
    events : tuple of Command
        Preceding commands that the engine issues, all of one phase, in code order.
    window : int
    ready_clocks : tuple of (Command, int)
        For each following command, its least clocks from the window-th last event: 2 or more, or, if its phase is after
        that of the events, 1 or more (1: not in the same clock).
    """

    level: Level
    events: tuple[Command, ...]
    window: int
    ready_clocks: tuple[tuple[Command, int], ...]

    def clocks_to(self, following: Command) -> int:
        """Least distance of `following` in clocks; 0 if no rule of the group names it."""
        return dict(self.ready_clocks).get(following, 0)


def timer_groups(
    constraints: Iterable[TimingConstraint], ck_per_clock: int, phases: Mapping[Command, int]
) -> tuple[TimerGroup, ...]:
    """Timers that the engine needs to keep `constraints`.

    Parameters
    ----------
    constraints : iterable of TimingConstraint
    ck_per_clock : int
    phases : mapping of Command to int
        Commands that are issued, each with its CK within the clock.

    Raises
    ------
    ParameterError
        If a rule to PIM_MAC relates different banks: the engine does not hold other commands off the later accesses of
        a burst. If a rule with a window counts from PIM_MAC, or to or from commands of a phase other than 0.
    """
    merged: dict[tuple[Level, tuple[Command, ...], int], dict[Command, int]] = {}
    for rule in constraints:
        if rule.sibling:
            continue
        for phase in sorted(set(phases.values())):
            events = tuple(sorted(c for c in rule.preceding if phases.get(c) == phase))
            following = {}
            for command in rule.following:
                later = phases.get(command, -1)
                clocks = -(-(rule.latency_cycles + phase - later) // ck_per_clock)
                if later >= 0 and clocks > (0 if later > phase else 1):
                    following[command] = clocks
            if not events or not following:
                continue
            inside = rule.level in (Level.BANK, Level.CHANNEL) or _C.PIM_MAC not in following
            require(inside, f"level of {rule.name}", rule.level.value, "bank, as it counts to PIM_MAC")
            plain = rule.window == 1 or not (_C.PIM_MAC in events or phase or any(phases[c] for c in following))
            require(plain, f"window of {rule.name}", rule.window, "1, as it names PIM_MAC or a bus command")
            latencies = merged.setdefault((rule.level, events, rule.window), {})
            for command, clocks in following.items():
                latencies[command] = max(latencies.get(command, 0), clocks)
    return tuple(
        TimerGroup(level=level, events=events, window=window, ready_clocks=tuple(sorted(latencies.items())))
        for (level, events, window), latencies in merged.items()
    )


def refresh_margins(groups: Iterable[TimerGroup]) -> dict[Command, int]:
    """Least clocks to REFab from each other command, if a PREab is still to come between them.

    An ACT is given the time for one column access. The margin of PIM_MAC is that of its last access. A bus command has
    a margin if a rule counts from it to PREab or REFab.
    """
    plain = [group for group in groups if group.window == 1]

    def least(earlier: Command, later: Command) -> int:
        return max((1, *(group.clocks_to(later) for group in plain if earlier in group.events)))

    closing = least(_C.PREab, _C.REFab)
    margins = {_C.PREab: closing}
    for command in (*TASK_COMMANDS.values(), _C.PREpb, _C.ACT):
        margins[command] = max(least(command, _C.PREab) + closing, least(command, _C.REFab))
    opening = max(least(_C.ACT, column) + margins[column] for column in TASK_COMMANDS.values())
    margins[_C.ACT] = max(margins[_C.ACT], opening)
    for command in BUS_COMMANDS:
        to_close, to_refresh = least(command, _C.PREab), least(command, _C.REFab)
        if max(to_close, to_refresh) > 1:
            margins[command] = max(to_close + closing if to_close > 1 else 1, to_refresh)
    return margins


def owed_refresh_clocks(params: CommandEngineParams, margins: Mapping[Command, int]) -> int:
    """Clocks after which a REFab may issue, whatever is under way: a burst of a row, a command's margin, or tRFC."""
    burst = (params.column_accesses - 1) * params.mac_interval_clocks + margins[_C.PIM_MAC]
    again = controller_delay(params.timing.nRFC, params.ck_per_clock).clocks
    return max(burst, *margins.values(), again) + 1


@dataclass(frozen=True, kw_only=True)
class CommandEngineParams:
    """Parameters of the command engine of one rank.

    Parameters
    ----------
    preset : str
        Name of a DRAM preset.
    ck_per_clock : int
        CK in one controller clock, 1 to 8. With 1 there is no second slot, and so no bus command.
    bank_groups, banks_per_group : int or None
        Fewer than the preset has, for small builds; powers of two. None: those of the preset.
    columns : int or None
        Columns of a row, fewer than the preset has, for small builds: a power of two, two bursts or more.
    chips : int or None
        Chips of the rank, an even number. None: those of the preset.
    split_bursts : bool
        True to cut a MAC task that does not fit before a refresh in two, the second part following the refresh.
        Otherwise the task waits, and a bank idles half a row on average before every refresh.
    patience_clocks : int
        Clocks that a bank may wait for its next command before commands of other banks that could hold it up stop. Bus
        commands and RD and WR hold off each other for as many clocks while the others wait.
    tag_bits, bus_tag_bits : int
        Width of the tag of a task, and of a bus command, 1 to 64.
    relaxed_faw : bool
        True to waive tFAW, as if the charge pumps of the chips were larger. Not JEDEC-legal: for comparisons only.
    bus_tccd : {"long", "short"}
        Whether bus commands keep tCCD_L and tWTR_L of the bank_groups' data paths; see
        :data:`pimspec.dram.constraints.BUS_TCCD`.
    max_streaming_banks : int
        Most banks of a chip with a PIM_MAC burst in flight at any time, up to `nCCD_MAC` after its last access; 0: no
        limit.
    max_current_ma : float
        Most supply current of a chip, kept as a number of banks: see :func:`pimspec.dram.current.banks_within`; 0: no
        limit.

    Raises
    ------
    ParameterError, UnknownNameError
    """

    preset: str = "ddr4-3200-x8-8gb"
    ck_per_clock: int = 4
    bank_groups: int | None = None
    banks_per_group: int | None = None
    split_bursts: bool = True
    columns: int | None = None
    chips: int | None = None
    patience_clocks: int = 64
    tag_bits: int = 1
    bus_tag_bits: int = 1
    relaxed_faw: bool = False
    bus_tccd: str = "long"
    max_streaming_banks: int = 0
    max_current_ma: float = 0

    def __post_init__(self) -> None:
        whole = dram_preset(self.preset).organization
        require(1 <= self.ck_per_clock <= 8, "ck_per_clock", self.ck_per_clock, "1..8")
        for what, least in (("bank_groups", 1), ("banks_per_group", 1), ("columns", 2 * whole.burst_length)):
            given, most = getattr(self, what), getattr(whole, what)
            if given is not None:
                text = f"a power of two {f'from {least} ' if least > 1 else ''}up to {most}"
                require(least <= given <= most and is_power_of_two(given), what, given, text)
        if self.chips is not None:
            require(self.chips >= 2 and self.chips % 2 == 0, "chips", self.chips, "an even number, 2 or more")
        for what in ("tag_bits", "bus_tag_bits"):
            given = getattr(self, what)
            require(1 <= given <= _MAX_TAG_BITS, what, given, f"1..{_MAX_TAG_BITS}")
        require(self.bus_tccd in BUS_TCCD, "bus_tccd", self.bus_tccd, " or ".join(BUS_TCCD))
        for what in ("max_streaming_banks", "max_current_ma"):
            require(getattr(self, what) >= 0, what, getattr(self, what), "0 (no limit) or more")
        _ = self.streaming_limit
        require(self.num_banks >= 2, "number of banks", self.num_banks, "2 or more")
        require(8 <= self.patience_clocks <= 1024, "patience_clocks", self.patience_clocks, "8..1024")
        clocks = self.column_accesses * self.mac_interval_clocks
        shortest = self.refresh_interval(2)
        require(shortest >= 2 * clocks, "refresh interval at twice the rate", shortest, f"{2 * clocks} clocks or more")

    @property
    def organization(self) -> DramOrganization:
        """Organization of one rank, with the chosen number of chips, banks and columns.

        The rows are those of the preset, or as many more as make a chip of 1 Gbit, the least density there is.
        """
        whole = dram_preset(self.preset).organization
        groups, banks = self.bank_groups or whole.bank_groups, self.banks_per_group or whole.banks_per_group
        columns = self.columns or whole.columns
        row_bits = groups * banks * columns * whole.device_width_bits  # of one row of each bank of a chip
        density = max(1, whole.rows * row_bits >> 30)
        return replace(
            whole,
            ranks=1,
            chips_per_rank=self.chips or whole.chips_per_rank,
            bank_groups=groups,
            banks_per_group=banks,
            rows=(density << 30) // row_bits,
            columns=columns,
            page_bytes=columns * whole.device_width_bits // 8,
            density_gbit=density,
        )

    @property
    def timing(self) -> DramTiming:
        return dram_preset(self.preset).timing

    @property
    def constraints(self) -> tuple[TimingConstraint, ...]:
        """Rules that the engine keeps unless it is given others."""
        table = timing_constraints(self.timing, self.organization, bus_tccd=self.bus_tccd)
        return tuple(rule for rule in table if not (self.relaxed_faw and rule.name == "tFAW"))

    @property
    def has_bus_slot(self) -> bool:
        """True if a clock has a second slot, for bus commands."""
        return self.ck_per_clock >= 2

    @property
    def bus_phase_ck(self) -> int:
        """CK of a clock in which a bus command issues; :class:`~pimspec.errors.ParameterError` without a slot."""
        require(self.has_bus_slot, "ck_per_clock", self.ck_per_clock, "2 or more to issue bus commands")
        return self.ck_per_clock // 2

    @property
    def phases(self) -> Mapping[Command, int]:
        """Commands that the engine issues, each with its CK within a clock."""
        bus = dict.fromkeys(BUS_COMMANDS, self.bus_phase_ck) if self.has_bus_slot else {}
        return MappingProxyType({c: 0 for c in ENGINE_COMMANDS if c not in BUS_COMMANDS} | bus)

    @property
    def num_banks(self) -> int:
        return self.organization.banks_per_chip

    @property
    def streaming_limit(self) -> int:
        """Most banks that may stream at once, by both limits; all of them without one."""
        limits = [self.num_banks]
        if self.max_streaming_banks:
            limits.append(self.max_streaming_banks)
        if self.max_current_ma:
            part = (self.preset, self.timing, self.organization)
            limits.append(banks_within(*part, max_current_ma=self.max_current_ma, bus_tccd=self.bus_tccd))
        return min(limits)

    @property
    def column_accesses(self) -> int:
        """Column accesses of a row, which is the largest count."""
        return self.organization.column_accesses_per_row

    @property
    def mac_interval_clocks(self) -> int:
        """Clocks in which a bank certainly makes one access of a burst."""
        return controller_delay(self.timing.nCCD_MAC, self.ck_per_clock).clocks

    @property
    def refresh_clocks(self) -> int:
        """Clocks between two REFab: nREFI, a maximum, rounded down."""
        return self.refresh_interval(1)

    def refresh_interval(self, rate: int) -> int:
        """Clocks between two REFab at 1 or 2 times the rate (above 85 degC): nREFI over it, rounded down."""
        require(rate in REFRESH_RATES, "refresh rate", rate, "1 or 2")
        return self.timing.nREFI // rate // self.ck_per_clock

    @property
    def count_bits(self) -> int:
        return self.column_accesses.bit_length()

    @property
    def task(self) -> FieldTable:
        """Row task: `column` is the number of the first column access, `kind` a :class:`RowTaskKind`.

        Here and below, the engine ignores the `tag`. A tag of more than 32 bits is an array of single bits.
        """
        org = self.organization
        return FieldTable(
            Field(name="row", width=org.row_bits),
            Field(name="column", width=org.column_access_bits),
            Field(name="count", width=self.count_bits),
            Field(name="kind", width=2),
            _tag(self.tag_bits),
        )

    @property
    def command(self) -> FieldTable:
        """Command: `code` of :class:`~pimspec.dram.commands.Command`, `column` as on the CA bus; see the engine."""
        org = self.organization
        return FieldTable(
            Field(name="code", width=COMMAND_BITS),
            Field(name="bank_group", width=max(1, org.bank_group_bits)),
            Field(name="bank", width=max(1, org.bank_bits)),
            Field(name="row", width=org.row_bits),
            Field(name="column", width=org.column_bits),
            Field(name="count", width=self.count_bits),
            Field(name="last", width=1),
            Field(name="resume", width=1),
            _tag(self.tag_bits),
        )

    @property
    def bus(self) -> FieldTable:
        """Bus command, as it is requested and as it issues: PIM_RD_RB if `read` is set, else PIM_WR_SB.

        `bank_group` is that of a PIM_RD_RB.
        """
        return FieldTable(
            Field(name="read", width=1),
            Field(name="bank_group", width=max(1, self.organization.bank_group_bits)),
            _tag(self.bus_tag_bits),
        )


def _tag(width: int) -> Field:
    return Field(name="tag", width=width) if width <= 32 else Field(name="tag", width=1, count=width)
