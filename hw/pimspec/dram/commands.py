"""JEDEC and PIM commands, and their effects on rows, cells and buses.

CHIME (ISCA 2026, "L3 v2", section "Command set") names the five PIM commands. The paper gives a sentence for each and
no encoding: every code, scope and address field of a PIM command below is this project's choice, and so are the pins
in :mod:`pimspec.dram.ca_tables`. In ``PIM_LD_SB`` and
``PIM_WR_SB`` the letters SB mean *shared buffer*, not single-bank. This project has an operand buffer in each bank
instead, all written together (decision 0001), but keeps the names of the commands.

ZQ calibration, self refresh and power-down have codes, since a host sends them, and no rules here: their delays are the
host's to keep. Not modelled: write levelling, DDR5 RFM and VREF commands. A DES slot is the absence of a command and
obeys no rule. It has a code so that a command field can carry it; so has NOP, a selected chip without a command.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import UnknownNameError, require
from .timing import DramStandard

__all__ = [
    "COMMANDS",
    "COMMAND_BITS",
    "HOST_ONLY_COMMANDS",
    "PIM_COMMANDS",
    "Bus",
    "Command",
    "CommandAddress",
    "CommandInfo",
    "Scope",
    "ca_cycles",
    "command_named",
    "supported_commands",
]

COMMAND_BITS = 5
"""Width of a command field in hardware. It is explicit because an enum's width changes when a member is added."""


class Command(enum.IntEnum):
    """Command codes; 0 is DES, so that an idle bus is all zeros. A code never changes its meaning."""

    DES = 0
    ACT = 1
    PREpb = 2
    PREab = 3
    RD = 4
    RDA = 5
    WR = 6
    WRA = 7
    REFab = 8
    REFsb = 9
    MRS = 10
    ZQCS = 11
    ZQCL = 12
    SRE = 13
    SRX = 14
    PDE = 15
    PIM_WR_R = 16
    PIM_LD_SB = 17
    PIM_WR_SB = 18
    PIM_MAC = 19
    PIM_RD_RB = 20
    PDX = 21
    NOP = 22


class Scope(enum.Enum):
    """Set of banks on which one command acts."""

    NONE = "none"
    BANK = "bank"
    SAME_BANK = "same_bank"
    """The bank of one index in every bank_group (REFsb of DDR5)."""
    RANK = "rank"


class Bus(enum.Enum):
    """Direction in which a command moves data over the external DQ bus of the rank, if any."""

    NONE = "none"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, kw_only=True)
class CommandInfo:
    """Effects of a command.

    Parameters
    ----------
    scope : Scope
        Widest set that one command acts on; see :class:`CommandAddress` for how an address narrows it.
    meaning : str
        Description in one line.
    fields : tuple of str
        Address fields that the command uses, out of ``rank, bank_group, bank, row, column, register``.
    opens_row, closes_row : bool
        Effect on the row; RDA and WRA close it themselves (auto precharge).
    reads, writes : bool
        True if the cells of the open row are read, or written.
    refreshes : bool
    bus : Bus
        Use of the external DQ bus.
    needs_open_row : bool
        Every bank that the command acts on must have an open row.
    needs_idle : bool
        Every bank that the command acts on must be precharged.
    pim : bool
    """

    scope: Scope
    meaning: str
    fields: tuple[str, ...] = ()
    opens_row: bool = False
    closes_row: bool = False
    reads: bool = False
    writes: bool = False
    refreshes: bool = False
    bus: Bus = Bus.NONE
    needs_open_row: bool = False
    needs_idle: bool = False
    pim: bool = False

    def __post_init__(self) -> None:
        known = ("rank", "bank_group", "bank", "row", "column", "register")
        for name in self.fields:
            require(name in known, "address field", name, f"one of {', '.join(known)}")
        require(not (self.reads and self.writes), "reads and writes", (self.reads, self.writes), "not both set")
        require(not (self.needs_open_row and self.needs_idle), "needs_open_row and needs_idle", True, "not both set")


_BANK = ("rank", "bank_group", "bank")
_COLUMN = (*_BANK, "column")

COMMANDS: Mapping[Command, CommandInfo] = MappingProxyType(
    {
        Command.DES: CommandInfo(scope=Scope.NONE, meaning="no command in this slot"),
        Command.ACT: CommandInfo(
            scope=Scope.BANK, meaning="open a row of a bank", fields=(*_BANK, "row"), opens_row=True, needs_idle=True
        ),
        Command.PREpb: CommandInfo(scope=Scope.BANK, meaning="close the row of a bank", fields=_BANK, closes_row=True),
        Command.PREab: CommandInfo(
            scope=Scope.RANK, meaning="close every row of a rank", fields=("rank",), closes_row=True
        ),
        Command.RD: CommandInfo(
            scope=Scope.BANK,
            meaning="read a burst from the open row",
            fields=_COLUMN,
            reads=True,
            bus=Bus.READ,
            needs_open_row=True,
        ),
        Command.RDA: CommandInfo(
            scope=Scope.BANK,
            meaning="RD, then close the row",
            fields=_COLUMN,
            reads=True,
            bus=Bus.READ,
            closes_row=True,
            needs_open_row=True,
        ),
        Command.WR: CommandInfo(
            scope=Scope.BANK,
            meaning="write a burst to the open row",
            fields=_COLUMN,
            writes=True,
            bus=Bus.WRITE,
            needs_open_row=True,
        ),
        Command.WRA: CommandInfo(
            scope=Scope.BANK,
            meaning="WR, then close the row",
            fields=_COLUMN,
            writes=True,
            bus=Bus.WRITE,
            closes_row=True,
            needs_open_row=True,
        ),
        Command.REFab: CommandInfo(
            scope=Scope.RANK, meaning="refresh every bank of a rank", fields=("rank",), refreshes=True, needs_idle=True
        ),
        Command.REFsb: CommandInfo(
            scope=Scope.SAME_BANK,
            meaning="refresh the bank of one index in every bank_group (HBM3: one bank)",
            fields=("rank", "bank"),
            refreshes=True,
            needs_idle=True,
        ),
        Command.MRS: CommandInfo(
            scope=Scope.RANK,
            meaning="write a mode register of every chip of a rank (DDR5: MRW)",
            fields=("rank", "register"),
            needs_idle=True,
        ),
        Command.ZQCS: CommandInfo(
            scope=Scope.RANK, meaning="short calibration of the output drivers", fields=("rank",), needs_idle=True
        ),
        Command.ZQCL: CommandInfo(
            scope=Scope.RANK, meaning="long calibration of the output drivers", fields=("rank",), needs_idle=True
        ),
        Command.SRE: CommandInfo(
            scope=Scope.RANK, meaning="enter self refresh: REF as CKE falls", fields=("rank",), needs_idle=True
        ),
        Command.SRX: CommandInfo(scope=Scope.RANK, meaning="leave self refresh: CKE rises", fields=("rank",)),
        Command.PDE: CommandInfo(
            scope=Scope.RANK, meaning="enter power-down: DES or NOP as CKE falls", fields=("rank",)
        ),
        Command.PDX: CommandInfo(scope=Scope.RANK, meaning="leave power-down: CKE rises", fields=("rank",)),
        Command.NOP: CommandInfo(scope=Scope.NONE, meaning="no operation, with the chip selected", fields=("rank",)),
        Command.PIM_WR_R: CommandInfo(
            scope=Scope.RANK,
            meaning="write a PIM register of every chip (PU mode, buffer indices) with DQ data",
            fields=("rank", "register"),
            bus=Bus.WRITE,
            pim=True,
        ),
        Command.PIM_LD_SB: CommandInfo(
            scope=Scope.BANK,
            meaning="read a burst from the open row of a bank into the operand buffers of its chip",
            fields=_COLUMN,
            reads=True,
            needs_open_row=True,
            pim=True,
        ),
        Command.PIM_WR_SB: CommandInfo(
            scope=Scope.RANK,
            meaning="write DQ data to the operand buffers of the banks, to the half that no PIM_MAC reads",
            fields=("rank",),
            bus=Bus.WRITE,
            pim=True,
        ),
        Command.PIM_MAC: CommandInfo(
            scope=Scope.RANK,
            meaning="each addressed bank multiplies columns of its open row with its operand buffer",
            fields=_COLUMN,
            reads=True,
            needs_open_row=True,
            pim=True,
        ),
        Command.PIM_RD_RB: CommandInfo(
            scope=Scope.BANK,
            meaning="read a burst of the result buffer of a bank, from the half that no PIM_MAC writes, to DQ",
            fields=_BANK,
            bus=Bus.READ,
            pim=True,
        ),
    }
)
"""Metadata of every command."""

HOST_ONLY_COMMANDS: tuple[Command, ...] = (
    *(Command.ZQCS, Command.ZQCL, Command.SRE, Command.SRX),
    *(Command.PDE, Command.PDX, Command.NOP),
)
"""DDR4 commands that a host sends and that the rule table does not time."""

PIM_COMMANDS: tuple[Command, ...] = tuple(command for command, info in COMMANDS.items() if info.pim)


@dataclass(frozen=True, kw_only=True)
class CommandAddress:
    """Banks that an issued command acts on; None means all.

    PIM_MAC is all-bank with both parts None. ``bank=k`` alone addresses one bank in each bank_group: the four-bank sets
    that keep tFAW while the rest streams. Both parts address a single bank.

    Parameters
    ----------
    rank : int
    bank_group, bank : int or None
        Indices; `bank` counts within the bank_group.
    """

    rank: int = 0
    bank_group: int | None = None
    bank: int | None = None

    def __post_init__(self) -> None:
        require(self.rank >= 0, "rank", self.rank, "0 or more")
        for what, given in (("bank_group", self.bank_group), ("bank", self.bank)):
            require(given is None or given >= 0, what, given, "0 or more, or None for all")

    def covers(self, rank: int, bank_group: int, bank: int) -> bool:
        """True if the command acts on this bank."""
        return self.rank == rank and self.bank_group in (None, bank_group) and self.bank in (None, bank)


def command_named(name: str) -> Command:
    """Command of this name; raises :class:`~pimspec.errors.UnknownNameError`."""
    try:
        return Command[name]
    except KeyError:
        raise UnknownNameError("command", name, Command.__members__) from None


def supported_commands(standard: DramStandard, *, pim: bool = True) -> tuple[Command, ...]:
    """Commands of a device of `standard` that the rule table times, in code order.

    DES and :data:`HOST_ONLY_COMMANDS` are not among them.

    DDR4 has no REFsb. MRS is given for DDR4 and DDR5 only: the mode-register delays of the HBM3 and GDDR6-AiM sources
    are not published. GDDR6-AiM has its own PIM commands; the project drives it, as the other presets, with the five of
    CHIME.
    """
    absent = {Command.DES, *HOST_ONLY_COMMANDS}
    if standard is DramStandard.DDR4:
        absent.add(Command.REFsb)
    if standard not in (DramStandard.DDR4, DramStandard.DDR5):
        absent.add(Command.MRS)
    return tuple(c for c in Command if c not in absent and (pim or not COMMANDS[c].pim))


_TWO_CYCLE_DDR5 = (Command.ACT, Command.RD, Command.RDA, Command.WR, Command.WRA, Command.MRS, *PIM_COMMANDS)


def ca_cycles(command: Command, standard: DramStandard) -> int:
    """Number of CK that `command` occupies on the CA bus.

    DDR4 (1N) and GDDR6 take one. DDR5 takes two for every command that carries a row, a column or a register (JESD79-5
    command truth table, and ramulator2.1 ``command_cycles``). PIM commands, which are not in JEDEC, take two there.
    HBM3 takes two for ACT (AttAcc's ``HBM3-PIM.cpp``). A command counts as issued in its last CA cycle.

    On the pins of DDR4, PIM_MAC and the bus commands have a second cycle after the one counted here. The rules do not
    know it: the command engine gives no command in that CK.
    """
    if command is Command.DES:
        return 1
    if standard is DramStandard.DDR5:
        return 2 if command in _TWO_CYCLE_DDR5 else 1
    return 2 if standard is DramStandard.HBM3 and command is Command.ACT else 1
