"""Parameters of the bank PU, which stands beside one DRAM bank."""

from __future__ import annotations

from dataclasses import dataclass

from ..attention.shape import MAX_GQA_GROUP_SIZE
from ..errors import is_power_of_two, require
from ..fields import Field, FieldTable, index_bits
from ..formats import FP16, FP32, FloatFormat
from .arith import DotParams, UnitParams

__all__ = ["BankPuParams"]


@dataclass(frozen=True, kw_only=True)
class BankPuParams(UnitParams):
    """Parameters of the bank PU.

    Parameters
    ----------
    format : FloatFormat
        Format of K, V, queries and probabilities, FP16 or BF16; products, sums and results are FP32.
    lanes : int
        Elements of one column access: column bytes / 2, a power of two.
    queries_at_once : int
        Queries handled at once (the GQA group size, N_cmr); each has its own multipliers, adders and operands.
    head_dim : int
        Dims of a K vector in this bank, a power of two, at least `lanes`.
    dims_per_bank : int
        Dims of a V vector in this bank, likewise; it is the number of sums for each query.
    operand_words : int
        Depth of the operand buffer, a power of two. A word holds `lanes` elements for each query.
    result_words : int
        Depth of the result buffer, which holds scores.
    max_columns : int
        Largest count of a burst: the column accesses of a DRAM row.
    mul_depth, add_depth : int
        Register stages of each multiplier and adder.
    interval : int
        Least clocks from one column access to the next. The accumulation loop holds one adder, hence
        ``interval >= add_depth``.
    """

    format: FloatFormat = FP16
    lanes: int = 4
    queries_at_once: int = 1
    head_dim: int = 128
    dims_per_bank: int = 8
    operand_words: int = 64
    result_words: int = 4
    max_columns: int = 128
    mul_depth: int = 1
    add_depth: int = 2
    interval: int = 2

    def __post_init__(self) -> None:
        dot = self.dot
        require(
            1 <= self.queries_at_once <= MAX_GQA_GROUP_SIZE,
            "queries_at_once",
            self.queries_at_once,
            f"1..{MAX_GQA_GROUP_SIZE}",
        )
        for what in ("head_dim", "dims_per_bank"):
            given = getattr(self, what)
            fits = is_power_of_two(given) and given >= dot.lanes
            require(fits, what, given, f"a power of two, at least lanes = {dot.lanes}")
        require(
            is_power_of_two(self.operand_words) and self.operand_words >= max(2, self.accesses_per_k),
            "operand_words",
            self.operand_words,
            f"a power of two, at least head_dim / lanes = {self.accesses_per_k}, and at least 2",
        )
        require(3 <= self.result_words <= 64, "result_words", self.result_words, "3..64")
        require(1 <= self.max_columns <= 1024, "max_columns", self.max_columns, "1..1024")

    @property
    def dot(self) -> DotParams:
        """Datapath of one query, as a unit of its own: the order of its additions is that of the bank PU."""
        return DotParams(
            format=self.format,
            lanes=self.lanes,
            mul_depth=self.mul_depth,
            add_depth=self.add_depth,
            interval=self.interval,
        )

    @property
    def accesses_per_k(self) -> int:
        """Column accesses of a token in the K phase."""
        return self.head_dim // self.lanes

    @property
    def accesses_per_v(self) -> int:
        """Column accesses of a token in the V phase; each has its own sums."""
        return self.dims_per_bank // self.lanes

    @property
    def column_bits(self) -> int:
        return self.lanes * self.format.width

    @property
    def interval_cycles(self) -> int:
        """Clocks between column accesses."""
        return self.interval

    @property
    def mode_gap_cycles(self) -> int:
        """Least clocks from the last column access of a K burst to the first of a V burst.

        The adders of the tree are those of the lanes. No gap beyond `interval` is needed from V to K. K and V lie in
        different DRAM rows, so tRTP + tRP + tRCD lie between them, which is longer.
        """
        return max(self.interval, self.dot.tree_levels * self.add_depth + 1)

    @property
    def latency_cycles(self) -> int:
        """Clocks from the last column access of a K token to its scores at the end of an empty result buffer."""
        return self.dot.latency_cycles + 2

    @property
    def sum_latency_cycles(self) -> int:
        """Clocks from a column access in V to the sums that contain it."""
        return self.dot.lane_latency_cycles + 2

    @property
    def commands(self) -> FieldTable:
        """Command of a burst: `start` is its first word of the operand buffer; `resume` goes on with the last burst.

        `set` selects one of two sets of sums for a V burst. So the sums of one segment can be read while the next is
        under way.
        """
        return FieldTable(
            Field(name="mode", width=1),
            Field(name="first", width=1),
            Field(name="set", width=1),
            Field(name="resume", width=1),
            Field(name="start", width=self.address_width),
            Field(name="count", width=self.max_columns.bit_length()),
        )

    @property
    def address_width(self) -> int:
        return self.operand_words.bit_length() - 1

    @property
    def operands(self) -> FieldTable:
        """Write into the operand buffer: one query's part of a word, and a mask of the word's existing elements."""
        return FieldTable(
            Field(name="data", width=self.format.width, count=self.lanes),
            Field(name="keep", width=self.lanes),
            Field(name="address", width=self.address_width),
            Field(name="row", width=index_bits(self.queries_at_once)),
        )

    @property
    def inputs(self) -> FieldTable:
        """Column access: element 0 is that of the lowest column byte."""
        return FieldTable(Field(name="data", width=self.format.width, count=self.lanes))

    @property
    def outputs(self) -> FieldTable:
        """A score, or the sum of a dim: one FP32 number for each query."""
        return FieldTable(Field(name="y", width=FP32.width, count=self.queries_at_once))

    @property
    def dim_width(self) -> int:
        """Width of the number of a dim of this bank."""
        return index_bits(self.dims_per_bank)

    @property
    def status(self) -> FieldTable:
        """Error bits for events that must not happen; each stays set until it is cleared."""
        return FieldTable(*(Field(name=n, width=1) for n in ("overflow", "stray", "early")))
