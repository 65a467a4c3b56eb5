"""Command bus of a rank's host: every DDR4 command, and its treatment by the buffer chip."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..dram.commands import Command

__all__ = ["HOST_COMMANDS", "NUM_MODE_REGISTERS", "BusState", "HostCommand", "Needs"]

NUM_MODE_REGISTERS = 7
"""Mode registers of DDR4, MR0 to MR6."""


class BusState(enum.IntEnum):
    """State of CKE, as the host's commands have set it; two bits wide."""

    ACTIVE = 0
    POWER_DOWN = 1
    SELF_REFRESH = 2


class Needs(enum.Enum):
    """State of rows or CKE that a command needs; otherwise it is refused."""

    NOTHING = "nothing"
    CLOSED = "bank closed"
    ALL_CLOSED = "all banks closed"
    POWER_DOWN = "power-down"
    SELF_REFRESH = "self refresh"


@dataclass(frozen=True, kw_only=True)
class HostCommand:
    """Treatment of a command of the host's bus.

    Parameters
    ----------
    needs : Needs
        All but ``POWER_DOWN`` and ``SELF_REFRESH`` also need CKE to be high. A column command to a closed bank is
        refused with its line, not here.
    host_owns, pim_owns : str
        Effect while the host, or PIM, owns the DRAM.
    owned : bool
        False if the command is refused while PIM owns the DRAM.
    banked : bool
        True if it names a bank; otherwise it acts on the rank.
    """

    needs: Needs
    host_owns: str
    pim_owns: str
    owned: bool = True
    banked: bool = False

    @property
    def checked(self) -> bool:
        """True if CKE must be high."""
        return self.needs not in (Needs.POWER_DOWN, Needs.SELF_REFRESH)


_C = Command
_READ = ("data row: passed on; window row: answered by the buffer chip", "data row: refused; window row: answered")
_WRITE = ("data row: passed on; window row: done by the buffer chip", "data row: posted; window row: done")
_THEN = "; the row is closed then"
_REFUSED = "refused: the mode of the chips must not change under PIM"
_ASLEEP = "refused: the chips are at work"

HOST_COMMANDS: Mapping[Command, HostCommand] = MappingProxyType(
    {
        _C.NOP: HostCommand(needs=Needs.NOTHING, host_owns="nothing", pim_owns="nothing"),
        _C.ACT: HostCommand(
            needs=Needs.CLOSED,
            banked=True,
            host_owns="data row: passed on; window row: opened in the buffer chip alone",
            pim_owns="opened in the buffer chip alone",
        ),
        _C.PREpb: HostCommand(
            needs=Needs.NOTHING, banked=True, host_owns="passed on", pim_owns="closed in the buffer chip alone"
        ),
        _C.PREab: HostCommand(needs=Needs.NOTHING, host_owns="passed on", pim_owns="closed in the buffer chip alone"),
        _C.RD: HostCommand(needs=Needs.NOTHING, banked=True, host_owns=_READ[0], pim_owns=_READ[1]),
        _C.RDA: HostCommand(needs=Needs.NOTHING, banked=True, host_owns=_READ[0] + _THEN, pim_owns=_READ[1] + _THEN),
        _C.WR: HostCommand(needs=Needs.NOTHING, banked=True, host_owns=_WRITE[0], pim_owns=_WRITE[1]),
        _C.WRA: HostCommand(needs=Needs.NOTHING, banked=True, host_owns=_WRITE[0] + _THEN, pim_owns=_WRITE[1] + _THEN),
        _C.REFab: HostCommand(
            needs=Needs.ALL_CLOSED, host_owns="passed on", pim_owns="answered by the command engine's own refresh"
        ),
        _C.MRS: HostCommand(
            needs=Needs.ALL_CLOSED, owned=False, host_owns="passed on, and kept for reading", pim_owns=_REFUSED
        ),
        _C.ZQCS: HostCommand(needs=Needs.ALL_CLOSED, owned=False, host_owns="passed on", pim_owns=_REFUSED),
        _C.ZQCL: HostCommand(needs=Needs.ALL_CLOSED, owned=False, host_owns="passed on", pim_owns=_REFUSED),
        _C.SRE: HostCommand(needs=Needs.ALL_CLOSED, owned=False, host_owns="passed on", pim_owns=_ASLEEP),
        _C.SRX: HostCommand(needs=Needs.SELF_REFRESH, host_owns="passed on", pim_owns="refused: the chips are awake"),
        _C.PDE: HostCommand(needs=Needs.NOTHING, owned=False, host_owns="passed on", pim_owns=_ASLEEP),
        _C.PDX: HostCommand(needs=Needs.POWER_DOWN, host_owns="passed on", pim_owns="refused: the chips are awake"),
    }
)
"""Treatment of each DDR4 command. DES, a slot without chip select, is no command; any other code is refused."""
