"""Parameters of a chip's command port as CA pins."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..dram.ca_tables import CaTable, ca_table
from ..dram.commands import PIM_COMMANDS, Command
from ..dram.timing import DramStandard
from ..errors import require
from ..fields import FieldTable
from .command_engine import BUS_COMMANDS
from .pim_chip import PimChipParams
from .pim_rank import PimRankParams

__all__ = ["CaPortParams"]


@dataclass(frozen=True, kw_only=True)
class CaPortParams:
    """Parameters of the CA pins of a chip with a command port of `slots` CK.

    Parameters
    ----------
    standard : DramStandard
    chip : PimChipParams
        With four slots or more: PIM_MAC and a bus command of one clock take two CK each.

    Raises
    ------
    ParameterError
        If the standard has no table, the slots do not suffice, or a field is wider than its place on the pins.
    """

    standard: DramStandard = DramStandard.DDR4
    chip: PimChipParams = field(default_factory=lambda: PimChipParams(slots=4))

    def __post_init__(self) -> None:
        require(4 <= self.chip.slots <= 8, "slots", self.chip.slots, "4..8: two commands of two CK in a clock")
        for command in (Command.ACT, Command.RD, Command.PIM_MAC, *BUS_COMMANDS):
            for name, width in self.port_widths(command).items():
                allowed = f"at most {self.table.widths(command)[name]} bits wide on pins of {self.standard.value}"
                require(width <= self.table.widths(command)[name], f"{name} of {command.name}", width, allowed)

    @classmethod
    def of_rank(cls, rank: PimRankParams) -> CaPortParams:
        """Pins of the chips of a rank."""
        return cls(standard=rank.organization.standard, chip=rank.chip)

    @property
    def table(self) -> CaTable:
        return ca_table(self.standard)

    @property
    def word_bits(self) -> int:
        """Pins of a chip."""
        return len(self.table.pins)

    @property
    def bus_phase_ck(self) -> int:
        """CK of a clock in which a bus command counts as issued, as for the command engine."""
        return self.chip.slots // 2

    @property
    def delay_clocks(self) -> int:
        """Clocks from a command at the port to its pins: 1 if a command begins before the CK that it counts from."""
        return 1 if self.table.counts_from_last else 0

    @property
    def slot_commands(self) -> tuple[Command, ...]:
        """Commands of the first slot that have an encoding, in code order.

        PIM_WR_R is not among them: the port has no place for the number of its register.
        """
        known = {row.command for row in self.table.rows} - {Command.DES, Command.PIM_WR_R, *BUS_COMMANDS}
        return tuple(c for c in Command if c in known)

    @property
    def late_commands(self) -> tuple[Command, ...]:
        """Commands of the later slots: those of JEDEC."""
        return tuple(c for c in self.slot_commands if c not in PIM_COMMANDS)

    def port_widths(self, command: Command) -> dict[str, int]:
        """Width at the port of each field of a command, by its name on the pins; none for fields that it lacks."""
        chip, carried = self.chip, self.table.widths(command)
        banks = {
            "bank_group": (chip.bank_groups - 1).bit_length(),
            "bank": (chip.banks_per_group - 1).bit_length(),
        }
        fields: FieldTable = chip.bus if command in BUS_COMMANDS else chip.command
        port = {f.name: f.width for f in fields.fields if f.name not in ("code", "read", *banks)} | banks
        return {name: width for name, width in port.items() if name in carried and width}
