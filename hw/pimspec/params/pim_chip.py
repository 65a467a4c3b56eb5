"""Parameters of a PIM DRAM chip, and the clocks that its controller has to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..dram.commands import COMMAND_BITS
from ..errors import is_power_of_two, require
from ..fields import Field, FieldTable, index_bits
from ..formats import FP32
from .bank_pu import BankPuParams
from .command_engine import CommandEngineParams

__all__ = ["PimChipParams"]


@dataclass(frozen=True, kw_only=True)
class PimChipParams:
    """Parameters of a DRAM chip with a bank PU at each bank, in controller clocks.

    Parameters
    ----------
    bank_groups, banks_per_group : int
        Powers of two. Bank b of bank_group g is number ``g * banks_per_group + b``.
    row_bits : int
        Width of a row number.
    column_accesses : int
        Column accesses of a row, a power of two.
    access_bytes : int
        Bytes of a column access: 8 for DDR4 x8, 16 for DDR5 x8.
    bank_pu : BankPuParams
        ``2 * lanes`` must be `access_bytes`, `max_columns` at least `column_accesses`.
    mac_interval_clocks : int
        Clocks from one access of a PIM_MAC to the next, at least ``bank_pu.interval``.
    write_clocks, read_clocks : int
        Clocks from a command to its line on dq_in, at least 1, and on dq_out, at least 3.
    slots : int
        Command slots of a clock: its CK.

    Raises
    ------
    ParameterError
    """

    bank_groups: int = 4
    banks_per_group: int = 4
    row_bits: int = 16
    column_accesses: int = 128
    access_bytes: int = 8
    bank_pu: BankPuParams = field(default_factory=BankPuParams)
    mac_interval_clocks: int = 2
    write_clocks: int = 6
    read_clocks: int = 7
    slots: int = 1

    def __post_init__(self) -> None:
        for what in ("bank_groups", "banks_per_group", "column_accesses"):
            given = getattr(self, what)
            require(is_power_of_two(given), what, given, "a power of two")
        require(2 <= self.column_accesses <= 1024, "column_accesses", self.column_accesses, "2..1024")
        require(1 <= self.row_bits <= 18, "row_bits", self.row_bits, "1..18")
        pu = self.bank_pu
        require(self.access_bytes == 2 * pu.lanes, "access_bytes", self.access_bytes, f"2 * lanes = {2 * pu.lanes}")
        require(self.access_bytes >= 4, "access_bytes", self.access_bytes, "4 or more: a read line holds a score")
        require(
            pu.max_columns >= self.column_accesses,
            "bank_pu.max_columns",
            pu.max_columns,
            f"at least column_accesses = {self.column_accesses}",
        )
        require(
            pu.interval <= self.mac_interval_clocks <= 16,
            "mac_interval_clocks",
            self.mac_interval_clocks,
            f"bank_pu.interval..16 = {pu.interval}..16",
        )
        require(1 <= self.write_clocks <= 64, "write_clocks", self.write_clocks, "1..64")
        require(3 <= self.read_clocks <= 64, "read_clocks", self.read_clocks, "3..64")
        require(1 <= self.slots <= 8, "slots", self.slots, "1..8")

    @classmethod
    def of_engine(cls, engine: CommandEngineParams, bank_pu: BankPuParams) -> PimChipParams:
        """Chip that fits the commands of `engine`.

        A command goes out in the middle of its clock, CK slot ``ck_per_clock // 2``. Its line is there when the last DQ
        beat has passed: nCWL (nCL) + nBL later.
        """
        org, timing, ck = engine.organization, engine.timing, engine.ck_per_clock

        def clocks(latency: int) -> int:
            return -(-(ck // 2 + latency + timing.nBL) // ck)

        return cls(
            bank_groups=org.bank_groups,
            banks_per_group=org.banks_per_group,
            row_bits=org.row_bits,
            column_accesses=org.column_accesses_per_row,
            access_bytes=org.column_access_bytes,
            bank_pu=bank_pu,
            mac_interval_clocks=engine.mac_interval_clocks,
            write_clocks=clocks(timing.nCWL),
            read_clocks=clocks(timing.nCL),
            slots=ck,
        )

    @property
    def num_banks(self) -> int:
        return self.bank_groups * self.banks_per_group

    @property
    def bank_bits(self) -> int:
        """Width of a bank's number in the chip."""
        return index_bits(self.num_banks)

    @property
    def column_bits(self) -> int:
        """Width of the number of a column access."""
        return index_bits(self.column_accesses)

    @property
    def queries_per_line(self) -> int:
        """Results (one a query) in a read line."""
        return min(self.bank_pu.queries_at_once, self.access_bytes // 4)

    @property
    def read_parts(self) -> int:
        """Read lines that hold a score, or a sum, of all queries."""
        return -(-self.bank_pu.queries_at_once // self.queries_per_line)

    @property
    def first_access_clocks(self) -> int:
        """Clocks from RD or PIM_MAC to its (first) access to the cells.

        Access k of a burst follows after ``k * mac_interval_clocks``.
        """
        return 1

    @property
    def write_access_clocks(self) -> int:
        """Clocks from WR to its access to the cells, and from PIM_WR_SB to the write of the operand buffers."""
        return self.write_clocks + 1

    @property
    def result_read_clocks(self) -> int:
        """Clocks from PIM_RD_RB to its look at the result buffer or the sums of the bank."""
        return 1

    @property
    def score_ready_clocks(self) -> int:
        """Clocks from access k of a PIM_MAC to a PIM_RD_RB that may read the score of the token ended by that access.

        Access k is counted as the clock of the command plus ``k * mac_interval_clocks``.
        """
        return self.first_access_clocks + 1 + self.bank_pu.latency_cycles - self.result_read_clocks

    @property
    def sum_ready_clocks(self) -> int:
        """Clocks from the last access of a segment in V, counted likewise, to a PIM_RD_RB of its sums."""
        return self.first_access_clocks + 1 + self.bank_pu.sum_latency_cycles - self.result_read_clocks

    @property
    def sum_free_clocks(self) -> int:
        """Clocks, negative, from a PIM_RD_RB of a sum to the first V access, counted likewise, that may change it."""
        return 1 - self.sum_ready_clocks

    @property
    def operand_ready_clocks(self) -> int:
        """Clocks from PIM_WR_SB to a PIM_MAC all of whose accesses use the line."""
        return self.write_access_clocks + 1 - (self.first_access_clocks + 1)

    @property
    def operand_free_clocks(self) -> int:
        """Clocks from access k of a PIM_MAC, counted likewise, to a PIM_WR_SB that no access up to k sees.

        The number is negative if the line is long under way.
        """
        return self.first_access_clocks + 1 - self.write_access_clocks

    @property
    def command(self) -> FieldTable:
        """Command: `code` of :class:`~pimspec.dram.commands.Command`, `column` the number of a column access."""
        pu = self.bank_pu
        return FieldTable(
            Field(name="code", width=COMMAND_BITS),
            Field(name="bank_group", width=index_bits(self.bank_groups)),
            Field(name="bank", width=index_bits(self.banks_per_group)),
            Field(name="row", width=self.row_bits),
            Field(name="column", width=self.column_bits),
            Field(name="count", width=pu.max_columns.bit_length()),
            Field(name="mode", width=1),
            Field(name="first", width=1),
            Field(name="set", width=1),
            Field(name="start", width=pu.address_width),
            Field(name="resume", width=1),
        )

    @property
    def late(self) -> FieldTable:
        """Command of a CK after the first of a clock: a host's, and so none of PIM."""
        names = ("code", "bank_group", "bank", "row", "column")
        return FieldTable(*(field for field in self.command.fields if field.name in names))

    @property
    def bus(self) -> FieldTable:
        """Bus access: PIM_WR_SB (`read` 0) or PIM_RD_RB (`read` 1)."""
        pu = self.bank_pu
        return FieldTable(
            Field(name="read", width=1),
            Field(name="sum", width=1),
            Field(name="set", width=1),
            Field(name="pop", width=1),
            Field(name="bank", width=self.bank_bits),
            Field(name="index", width=index_bits(self.read_parts)),
            Field(name="address", width=max(pu.address_width, pu.dim_width)),
            Field(name="row", width=index_bits(pu.queries_at_once)),
        )

    @property
    def write_line(self) -> FieldTable:
        """Line on dq_in; mask bit 1: the byte is not written."""
        return FieldTable(
            Field(name="data", width=8, count=self.access_bytes), Field(name="mask", width=self.access_bytes)
        )

    @property
    def status(self) -> FieldTable:
        """Error bits for events that must not happen; each stays set until it is cleared."""
        return FieldTable(*(Field(name=n, width=1) for n in ("overflow", "stray", "early", "no_score", "closed")))

    @property
    def score_bits(self) -> int:
        """Bits of a score, or a sum, of all queries."""
        return self.bank_pu.queries_at_once * FP32.width
