"""DRAM timing constraints as a table, for JEDEC and PIM commands, and the earliest legal cycle of a command.

A :class:`TimingConstraint` says: after a command of `preceding`, no command of `following` may issue within
`latency_cycles` if both touch one node of `level`. An address part of None stands for all nodes. So PREab at a rank
touches every bank of it, and one bank rule serves PREpb and PREab alike. ``window = w`` counts from the w-th most
recent preceding command (tFAW: 4). ``sibling`` turns the relation around: both are on one channel and touch *different*
ranks.

Row state is not in the table: :data:`~pimspec.dram.commands.COMMANDS` holds that RD needs an open row, or REFab idle
banks. Cycles are CK, and a command counts as issued in its last CA cycle.

Rules of the PIM commands (the papers give no timing; these are the project's rules):

* ``PIM_MAC`` is timed as RD at each bank it addresses (nRCD_MAC, nRTP, nCCD_L to other columns of the bank, nCCD_MAC to
  the next PIM_MAC). The data stay beside the bank and use neither the bank_group's data path nor the DQ bus. Hence
  there is no tCCD_S, no tCCD_L between banks of a bank_group, and no turn-around. That is what makes the internal
  bandwidth of a DIMM-PIM.
* ``PIM_LD_SB`` moves a burst from a bank over the bank_group's and the chip's data path. It is timed as RD in every
  respect, except that it does not use DQ, and so does not affect other ranks. As RD to WR it keeps nRTW, which is more
  than the chip itself needs.
* ``PIM_RD_RB`` moves a burst from the result buffer of a bank over the data path of its bank_group and the DQ bus. It
  keeps tCCD_S, and tCCD_L to reads of its bank_group, as RD does; and tWTR_L after a write there.
* ``PIM_WR_SB`` brings a burst to every bank, through every bank_group. So it keeps tCCD_L to any write before and after
  it, another PIM_WR_SB too, and tWTR_L to any read after it. It is tCCD_L and not tCCD_L_WR at DDR5: the longer one is
  the time of a read-modify-write in the cells, and no cell is written.
* :data:`BUS_TCCD` names an older assumption, ``"short"``: neither command uses the path of a bank_group, and both keep
  tCCD_S and tWTR_S alone. It is there for comparisons.
* ``PIM_WR_R`` occupies DQ as WR, at tCCD_S: a register of the chip belongs to no bank_group. Values written are in
  force for the PU when a RD in another bank_group could follow (nCWL + nBL + nWTR_S). PIM_WR_R may directly follow
  PIM_MAC: its data arrive after the PU has captured its own.
* No rule relates ``PIM_WR_SB`` or ``PIM_RD_RB`` to PIM_MAC. Operand and result buffers are per bank and double: a
  PIM_WR_SB fills, and a PIM_RD_RB empties, the half that no PIM_MAC uses. So both may issue while any bank streams. The
  right half, filled or final, is a data hazard and not a timing of the DRAM. The sequencer on the buffer chip issues
  all three commands, knows the depth of the PU's pipeline, and avoids the hazard.
* ``REFab`` and ``MRS`` need a rank without data under way. A RD or WR keeps that by tRTP, tWR and tRP, since its row
  must be closed. The commands without a row have rules of their own: the last beat is over nCL + nBL after PIM_RD_RB
  and nCWL + nBL after PIM_WR_SB and PIM_WR_R. ``REFsb`` refreshes some banks while others work, and has no such rule.
* ``PIM_LD_SB`` fills the buffer of its chip from a bank and has no halves: nCCD_L before a PIM_MAC that reads the
  buffer, and nCCD_MAC after the last one that did.

An auto precharge starts when tRTP, tWR and tRAS allow: RDA and WRA keep tRTP and tWR before tRP, and tRC covers tRAS.
WR is under the WRA rule because an RDA may follow it and close the row (at DDR5, tWTR_L + tRTP is shorter than tWR).

A rule can never bind if a CA rule with at least its latency applies to every pair of its commands. Such rules are left
out (for example write to read between ranks at DDR4-3200). Not in the table: the refresh interval, a maximum; data-bus
occupancy, which tCCD_S implies (``nBL <= nCCD_S`` is checked); tCCD_L_WR2 and tDLLK of DDR5; HBM3's distinction of
tRTP_S and tRTP_L. At some speed bins one rule follows from others: tFAW at DDR5-4800 (32 CK) is four times tRRD_S. The
tests name each.

The notation (level, preceding, following, latency, window, sibling) is that of Ramulator 2. Two differences were found:
its read to write between ranks lacks ``nCL - nCWL``, and it has no write to write rule between ranks.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UnknownNameError, require
from .commands import COMMANDS, Bus, Command, CommandAddress, ca_cycles, supported_commands
from .organization import DramOrganization
from .timing import DramStandard, DramTiming

__all__ = [
    "BUS_TCCD",
    "Earliest",
    "IssuedCommand",
    "Level",
    "TimingConstraint",
    "constraint_named",
    "earliest_cycle",
    "timing_constraints",
]


BUS_TCCD = ("long", "short")
"""Choices of `bus_tccd`: whether PIM_WR_SB and PIM_RD_RB use the data path of the bank_groups; see the module text."""


class Level(enum.Enum):
    """Hierarchy level whose commands a rule relates."""

    CHANNEL = "channel"
    RANK = "rank"
    BANK_GROUP = "bank_group"
    BANK = "bank"


@dataclass(frozen=True, kw_only=True)
class TimingConstraint:
    """One timing rule: see the module text.

    Parameters
    ----------
    name : str
        Unique within a table; a checker raises with it.
    level : Level
    preceding, following : tuple of Command
    latency_cycles : int
        Least distance in CK.
    window : int
        Position among the most recent preceding commands, 1 being the last.
    sibling : bool
        Relate different ranks of a channel instead of one node; `level` must be RANK.
    """

    name: str
    level: Level
    preceding: tuple[Command, ...]
    following: tuple[Command, ...]
    latency_cycles: int
    window: int = 1
    sibling: bool = False

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "not empty")
        for what in ("preceding", "following"):
            given = getattr(self, what)
            require(bool(given), f"{what} of {self.name}", given, "at least one command")
            require(len(set(given)) == len(given), f"{what} of {self.name}", given, "without repetition")
        require(self.latency_cycles >= 1, f"latency_cycles of {self.name}", self.latency_cycles, "1 or more")
        require(self.window >= 1, f"window of {self.name}", self.window, "1 or more")
        require(
            not self.sibling or self.level is Level.RANK, f"level of sibling rule {self.name}", self.level.value, "rank"
        )

    def relates(self, earlier: CommandAddress, later: CommandAddress) -> bool:
        """True if the rule holds between commands at these addresses."""
        if self.level is Level.CHANNEL:
            return True
        if self.sibling or earlier.rank != later.rank:
            return self.sibling and earlier.rank != later.rank
        if self.level is Level.RANK:
            return True
        if not _meet(earlier.bank_group, later.bank_group):
            return False
        return self.level is Level.BANK_GROUP or _meet(earlier.bank, later.bank)


def _meet(a: int | None, b: int | None) -> bool:
    return a is None or b is None or a == b


@dataclass(frozen=True, kw_only=True)
class IssuedCommand:
    """A command on the bus; `cycle` is the CK of its last CA cycle."""

    cycle: int
    command: Command
    address: CommandAddress


@dataclass(frozen=True, kw_only=True)
class Earliest:
    """First legal cycle of a command, and the rule that decides it (None if no rule does)."""

    cycle: int
    constraint: TimingConstraint | None


def earliest_cycle(
    constraints: Iterable[TimingConstraint],
    history: Sequence[IssuedCommand],
    command: Command,
    address: CommandAddress,
) -> Earliest:
    """First cycle at which `command` may issue after `history`.

    Parameters
    ----------
    constraints : iterable of TimingConstraint
    history : sequence of IssuedCommand
        Commands in the order of issue.
    command : Command
    address : CommandAddress

    Returns
    -------
    Earliest
        ``max(cycle of the window-th most recent related preceding command + latency)`` over the rules, 0 if there is
        none. Row state is not considered.
    """
    best = Earliest(cycle=0, constraint=None)
    for rule in constraints:
        if command not in rule.following:
            continue
        left = rule.window
        for past in reversed(history):
            if past.command in rule.preceding and rule.relates(past.address, address):
                left -= 1
                if left == 0:
                    if past.cycle + rule.latency_cycles > best.cycle:
                        best = Earliest(cycle=past.cycle + rule.latency_cycles, constraint=rule)
                    break
    return best


_C = Command
_READS, _WRITES, _PRECHARGES = (_C.RD, _C.RDA), (_C.WR, _C.WRA), (_C.PREpb, _C.PREab)
_ARRAY_READS = (*_READS, _C.PIM_LD_SB)
_BUS_READS = tuple(c for c, info in COMMANDS.items() if info.bus is Bus.READ)
_BUS_WRITES = tuple(c for c, info in COMMANDS.items() if info.bus is Bus.WRITE)
_PATH_READS = (*_ARRAY_READS, _C.PIM_RD_RB)
_NEED_IDLE = tuple(c for c, info in COMMANDS.items() if info.needs_idle)
_ROWLESS_PIM = tuple(c for c, info in COMMANDS.items() if info.pim and not info.needs_open_row)
_AFTER_REFRESH = (*_NEED_IDLE, *_PRECHARGES, *_ROWLESS_PIM)
_AFTER_MRS = tuple(c for c in _AFTER_REFRESH if c is not _C.MRS)


class _Draft(NamedTuple):
    """A rule, still with commands that the standard may lack; fields as in TimingConstraint."""

    name: str
    level: Level
    preceding: tuple[Command, ...]
    following: tuple[Command, ...]
    latency_cycles: int
    window: int = 1
    sibling: bool = False


def _row_rules(t: DramTiming) -> Iterator[_Draft]:
    """Rules of ACT, precharge and their column commands."""
    bank, write_end = Level.BANK, t.nCWL + t.nBL + t.nWR
    yield _Draft("tRCD", bank, (_C.ACT,), _ARRAY_READS, t.nRCD)
    yield _Draft("tRCD_WR", bank, (_C.ACT,), _WRITES, t.nRCD_WR)
    yield _Draft("tRCD_MAC", bank, (_C.ACT,), (_C.PIM_MAC,), t.nRCD_MAC)
    yield _Draft("tRAS", bank, (_C.ACT,), _PRECHARGES, t.nRAS)
    yield _Draft("tRC", bank, (_C.ACT,), _NEED_IDLE, t.nRC)
    yield _Draft("tRP", bank, _PRECHARGES, _NEED_IDLE, t.nRP)
    yield _Draft("tRTP", bank, (_C.RD, _C.PIM_LD_SB, _C.PIM_MAC), _PRECHARGES, t.nRTP)
    yield _Draft("tWR", bank, (_C.WR,), _PRECHARGES, write_end)
    yield _Draft("tRTP_RDA", bank, (_C.RDA,), _NEED_IDLE, t.nRTP + t.nRP)
    yield _Draft("tWR_WRA", bank, _WRITES, _NEED_IDLE, write_end + t.nRP)  # WR: an RDA may close the row after it
    yield _Draft("tRRD_S", Level.RANK, (_C.ACT,), (_C.ACT, _C.REFsb), t.nRRD_S)
    yield _Draft("tRRD_L", Level.BANK_GROUP, (_C.ACT,), (_C.ACT, _C.REFsb), t.nRRD_L)
    yield _Draft("tFAW", Level.RANK, (_C.ACT,), (_C.ACT,), t.nFAW, window=4)
    yield _Draft("tPPD", Level.RANK, _PRECHARGES, _PRECHARGES, t.nPPD)


def _column_rules(t: DramTiming, long: bool) -> Iterator[_Draft]:
    """Rules of column commands and the data path: JEDEC's for RD and WR, and those of PIM commands that move data."""
    rank, group = Level.RANK, Level.BANK_GROUP
    operands = (_C.PIM_WR_SB,)
    reads, writes = (_PATH_READS, (*_WRITES, *operands)) if long else (_ARRAY_READS, _WRITES)
    yield _Draft("tCCD_S", rank, _PATH_READS, _PATH_READS, t.nCCD_S)
    yield _Draft("tCCD_S_WR", rank, _BUS_WRITES, _BUS_WRITES, t.nCCD_S)
    yield _Draft("tCCD_L", group, reads, reads, t.nCCD_L)
    yield _Draft("tCCD_L_WR", group, _WRITES, _WRITES, t.nCCD_L_WR)
    yield _Draft("tRTW", rank, _PATH_READS, _BUS_WRITES, t.nRTW)
    yield _Draft("tWTR_S", rank, _BUS_WRITES, _PATH_READS, t.nCWL + t.nBL + t.nWTR_S)
    yield _Draft("tWTR_L", group, writes, reads, t.nCWL + t.nBL + t.nWTR_L)
    if long:
        yield _Draft("pim_WR_SB_write", rank, operands, writes, t.nCCD_L)
        yield _Draft("pim_write_WR_SB", rank, _WRITES, operands, t.nCCD_L)


def _pim_rules(t: DramTiming) -> Iterator[_Draft]:
    """Rules of PIM_MAC with all commands but row commands, of the buffers of a chip, and of the data before REFab."""
    rank, bank, mac = Level.RANK, Level.BANK, (_C.PIM_MAC,)
    yield _Draft("pim_MAC_MAC", bank, mac, mac, t.nCCD_MAC)
    yield _Draft("pim_RD_MAC", bank, (_C.RD,), mac, t.nCCD_L)
    yield _Draft("pim_MAC_column", bank, mac, (*_READS, *_WRITES), t.nCCD_L)
    yield _Draft("pim_WR_MAC", bank, (_C.WR,), mac, t.nCWL + t.nBL + t.nWTR_L)
    yield _Draft("pim_LD_SB_MAC", rank, (_C.PIM_LD_SB,), mac, t.nCCD_L)
    yield _Draft("pim_MAC_LD_SB", rank, mac, (_C.PIM_LD_SB,), t.nCCD_MAC)
    yield _Draft("pim_write_MAC", rank, (_C.PIM_WR_R,), mac, t.nCWL + t.nBL + t.nWTR_S)
    yield _Draft("pim_read_REF", rank, (_C.PIM_RD_RB,), (_C.REFab, _C.MRS), t.nCL + t.nBL)
    yield _Draft("pim_write_REF", rank, (_C.PIM_WR_R, _C.PIM_WR_SB), (_C.REFab, _C.MRS), t.nCWL + t.nBL)


def _refresh_rules(t: DramTiming) -> Iterator[_Draft]:
    """Rules of refresh and mode registers; ACT, PRE, RDA and WRA before them are row rules."""
    rank, bank = Level.RANK, Level.BANK
    yield _Draft("tRFC", rank, (_C.REFab,), _AFTER_REFRESH, t.nRFC)
    yield _Draft("tRFCsb", bank, (_C.REFsb,), (_C.ACT, *_PRECHARGES), t.nRFCsb)
    yield _Draft("tRFCsb_rank", rank, (_C.REFsb,), (_C.REFab, _C.REFsb, _C.MRS), t.nRFCsb)
    yield _Draft("tRREFD", rank, (_C.REFsb,), (_C.ACT,), t.nRREFD)
    yield _Draft("tMRD", rank, (_C.MRS,), (_C.MRS,), t.nMRD)
    yield _Draft("tMOD", rank, (_C.MRS,), _AFTER_MRS, t.nMOD)


def _rank_switch_rules(t: DramTiming) -> Iterator[_Draft]:
    """Rules for bursts of different ranks on one DQ bus: the later one starts nRTRS after the earlier one ends."""
    busy, skew = t.nBL + t.nRTRS, t.nCL - t.nCWL
    yield _Draft("tRTRS_RD_RD", Level.RANK, _BUS_READS, _BUS_READS, busy, sibling=True)
    yield _Draft("tRTRS_RD_WR", Level.RANK, _BUS_READS, _BUS_WRITES, busy + skew, sibling=True)
    yield _Draft("tRTRS_WR_RD", Level.RANK, _BUS_WRITES, _BUS_READS, busy - skew, sibling=True)
    yield _Draft("tRTRS_WR_WR", Level.RANK, _BUS_WRITES, _BUS_WRITES, busy, sibling=True)


def _ca_rules(standard: DramStandard, commands: tuple[Command, ...]) -> Iterator[_Draft]:
    """Rules of the CA bus: one command at a time; HBM3 has a bus for row commands and one for column commands."""
    row = tuple(c for c in commands if c in (*_NEED_IDLE, *_PRECHARGES))
    buses = {"CA": commands}
    if standard is DramStandard.HBM3:
        buses = {"CA_row": row, "CA_column": tuple(c for c in commands if c not in row)}
    for name, members in buses.items():
        for cycles in (1, 2):
            later = tuple(c for c in members if ca_cycles(c, standard) == cycles)
            yield _Draft(f"{name}_{cycles}", Level.CHANNEL, members, later, cycles)


def timing_constraints(
    timing: DramTiming,
    organization: DramOrganization,
    *,
    pim: bool = True,
    bus_tccd: str = "long",
) -> tuple[TimingConstraint, ...]:
    """Timing rules of a device.

    Parameters
    ----------
    timing : DramTiming
    organization : DramOrganization
        Organization, which gives the standard and whether there are ranks to switch between.
    pim : bool
        True to include the rules of PIM commands.
    bus_tccd : {"long", "short"}
        Whether PIM_WR_SB and PIM_RD_RB keep the rules of a bank_group's data path, as in :data:`BUS_TCCD`.

    Returns
    -------
    tuple of TimingConstraint
        CA rules first. Commands that the standard lacks, rules of zero latency, and rules that the CA rule covers are
        absent.

    Raises
    ------
    ParameterError
        If the timing is of another standard, or `bus_tccd` is unknown.
    """
    require(bus_tccd in BUS_TCCD, "bus_tccd", bus_tccd, " or ".join(BUS_TCCD))
    standard = organization.standard
    require(timing.standard is standard, "timing.standard", timing.standard.value, standard.value)
    commands = supported_commands(standard, pim=pim)
    drafts = [
        *_row_rules(timing),
        *_column_rules(timing, bus_tccd == "long"),
        *_pim_rules(timing),
        *_refresh_rules(timing),
    ]
    if organization.ranks > 1:
        drafts += _rank_switch_rules(timing)
    kept = []
    for draft in [*_ca_rules(standard, commands), *drafts]:
        before, after = (tuple(c for c in group if c in commands) for group in (draft.preceding, draft.following))
        latency = draft.latency_cycles
        covered = draft.level is not Level.CHANNEL and latency <= min(
            (ca_cycles(c, standard) for c in after), default=0
        )
        if before and after and latency >= 1 and not covered:
            kept.append(TimingConstraint(**draft._replace(preceding=before, following=after)._asdict()))
    return tuple(kept)


def constraint_named(constraints: Iterable[TimingConstraint], name: str) -> TimingConstraint:
    """Rule of this name; raises :class:`~pimspec.errors.UnknownNameError`."""
    table = {rule.name: rule for rule in constraints}
    try:
        return table[name]
    except KeyError:
        raise UnknownNameError("timing constraint", name, table) from None
