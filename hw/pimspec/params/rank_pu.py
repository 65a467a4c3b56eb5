"""Parameters of the units of the rank PU on the buffer chip: online softmax, merge of partials, byte re-layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import is_power_of_two, require
from ..fields import Field, FieldTable, index_bits
from ..formats import BF16, FP16, FP32, FloatFormat, require_format
from .arith import Exp2Params, FpAddParams, FpMulParams, FpNarrowParams, ReciprocalParams, UnitParams

__all__ = ["MergeParams", "RelayoutParams", "SoftmaxParams"]


def _require_lanes(lanes: int) -> None:
    require(lanes in (1, 2, 4, 8, 16), "lanes", lanes, "a power of two in 1..16")


@dataclass(frozen=True, kw_only=True)
class SoftmaxParams(UnitParams):
    """Parameters of the softmax unit: pass 1 scales, keeps and compares scores; pass 2 turns them into probabilities.

    A *line* holds `lanes` tokens, one a chip. An *item* is one segment of one kv_head: its lines times its lines of the
    group. Query r of a GQA group is query ``r % queries_per_line`` of line of the group ``r // queries_per_line``.

    Parameters
    ----------
    format : FloatFormat
        Format of the probabilities, FP16 or BF16; everything else is FP32.
    lanes : int
        Tokens of a line (chips of the rank): 2, 4, 8 or 16.
    queries_per_line : int
        Queries side by side in a beat of scores: 1, 2 or 4.
    lines_per_group : int
        Such beats that make a GQA group, 1..8.
    max_lines : int
        Lines of the longest item, a power of two, at least twice `word_lines`.
    word_lines : int
        Lines whose probabilities make one operand word of a chip: 4 or 8.
    mul_depth, add_depth, exp_depth, narrow_depth : int
        Register stages of the scaling multiplier, of the subtraction and each level of the summing tree, of the
        exponential and of the narrowing. Both accumulations (maximum and sum) hold one register, so that a beat can
        follow each clock.
    """

    SLOTS: ClassVar[int] = 2
    """Items in the score memory: item n is in slot ``n % 2``."""

    format: FloatFormat = FP16
    lanes: int = 8
    queries_per_line: int = 2
    lines_per_group: int = 4
    max_lines: int = 1024
    word_lines: int = 8
    mul_depth: int = 1
    add_depth: int = 1
    exp_depth: int = 2
    narrow_depth: int = 1

    def __post_init__(self) -> None:
        require_format("probability format", self.format, FP16, BF16)
        require(self.lanes in (2, 4, 8, 16), "lanes", self.lanes, "2, 4, 8 or 16")
        require(self.queries_per_line in (1, 2, 4), "queries_per_line", self.queries_per_line, "1, 2 or 4")
        require(1 <= self.lines_per_group <= 8, "lines_per_group", self.lines_per_group, "1..8")
        require(self.word_lines in (4, 8), "word_lines", self.word_lines, "4 or 8")
        least = 2 * self.word_lines
        require(
            is_power_of_two(self.max_lines) and self.max_lines >= least,
            "max_lines",
            self.max_lines,
            f"a power of two, at least {least}",
        )
        FpMulParams(format=FP32, depth=self.mul_depth)
        FpAddParams(depth=self.add_depth)
        Exp2Params(depth=self.exp_depth)
        FpNarrowParams(format=self.format, depth=self.narrow_depth)

    @property
    def line_bits(self) -> int:
        return self.max_lines.bit_length() - 1

    @property
    def step_bits(self) -> int:
        """Bits of a line's index in its word."""
        return self.word_lines.bit_length() - 1

    @property
    def group_line_bits(self) -> int:
        return index_bits(self.lines_per_group)

    @property
    def tree_levels(self) -> int:
        return self.lanes.bit_length() - 1

    @property
    def num_rows(self) -> int:
        """Rows of the score memory, ``queries_per_line * lanes`` FP32 numbers each: row (group_line, slot, line)."""
        return self.lines_per_group * self.SLOTS * self.max_lines

    @property
    def start_cycles(self) -> int:
        """Cycles from the last score of an item to the read of its first row for pass 2, if no item is ahead of it."""
        return self.mul_depth + self.tree_levels + 2

    @property
    def prob_cycles(self) -> int:
        """Cycles from the read of a row to its probabilities."""
        return 1 + self.add_depth + self.exp_depth + self.narrow_depth

    @property
    def sum_cycles(self) -> int:
        """Cycles from the read of the last row of an item to the offer of the first of its statistics."""
        return self.prob_cycles + self.tree_levels * self.add_depth + 2

    @property
    def stats_entries(self) -> int:
        """Entries of the table of statistics: as many as may be under way without a bubble, a power of two."""
        return 1 << (self.lines_per_group + self.sum_cycles).bit_length()

    @property
    def latency_cycles(self) -> int:
        """Cycles from the last score of an item of at least one full word to its first probabilities."""
        return self.probs_latency_cycles(num_lines=self.word_lines)

    def probs_latency_cycles(self, *, num_lines: int) -> int:
        """Cycles from the last score of an item to its first probabilities, if no item is ahead of it.

        A word is complete with its last line, and takes one more register.
        """
        return self.start_cycles + self.prob_cycles + min(num_lines, self.word_lines)

    def stats_latency_cycles(self, *, num_lines: int, num_group_lines: int) -> int:
        """Cycles from the last score of an item to its first statistics, if no item is ahead of it or refused."""
        return self.start_cycles + num_lines * num_group_lines - 1 + self.sum_cycles

    def refill_cycles(self, *, num_lines: int, num_group_lines: int) -> int:
        """Cycles from the last score of an item to the first one that its slot can take for the item after next."""
        return self.start_cycles + num_lines * num_group_lines + 1

    @property
    def items(self) -> FieldTable:
        """Announcement of an item; bit t of `last_keep`: token t of the last line exists."""
        return FieldTable(
            Field(name="scale", width=FP32.width),
            Field(name="num_lines", width=self.line_bits + 1),
            Field(name="num_group_lines", width=self.lines_per_group.bit_length()),
            Field(name="last_keep", width=1, count=self.lanes),
        )

    @property
    def inputs(self) -> FieldTable:
        """Beat of scores: element ``query * lanes + lane``."""
        return FieldTable(
            Field(name="slot", width=1),
            Field(name="line", width=self.line_bits),
            Field(name="group_line", width=self.group_line_bits),
            Field(name="scores", width=FP32.width, count=self.queries_per_line * self.lanes),
        )

    @property
    def outputs(self) -> FieldTable:
        """Probabilities of a word, for the token of `lane` in line ``word * word_lines + j``.

        They are element ``(query * lanes + lane) * word_lines + j`` of `probs`, and ``lane * word_lines + j`` of
        `keep`.
        """
        return FieldTable(
            Field(name="probs", width=self.format.width, count=self.queries_per_line * self.lanes * self.word_lines),
            Field(name="keep", width=1, count=self.lanes * self.word_lines),
            Field(name="word", width=self.line_bits - self.step_bits),
            Field(name="group_line", width=self.group_line_bits),
            Field(name="group_end", width=1),
            Field(name="last", width=1),
        )

    @property
    def stats(self) -> FieldTable:
        """Second output stream: one entry for each line of the group."""
        return FieldTable(
            Field(name="m", width=FP32.width, count=self.queries_per_line),
            Field(name="l", width=FP32.width, count=self.queries_per_line),
            Field(name="group_line", width=self.group_line_bits),
            Field(name="last", width=1),
        )


@dataclass(frozen=True, kw_only=True)
class MergeParams(UnitParams):
    """Parameters of the merge unit, which folds partials ``(o, m, l)`` left to right and normalises the last.

    Parameters
    ----------
    format : FloatFormat
        Format of the normalised output, FP16 or BF16; partials are FP32.
    lanes : int
        Elements of `o` per beat, a power of two.
    head_dim : int
        Elements of `o`, a multiple of `lanes`.
    mul_depth, add_depth, exp_depth, narrow_depth : int
        Register stages.
    bits_per_cycle : int
        Quotient bits of the reciprocal in a cycle.
    """

    format: FloatFormat = FP16
    lanes: int = 4
    head_dim: int = 128
    mul_depth: int = 1
    add_depth: int = 1
    exp_depth: int = 2
    narrow_depth: int = 1
    bits_per_cycle: int = 2

    def __post_init__(self) -> None:
        require_format("output format", self.format, FP16, BF16)
        _require_lanes(self.lanes)
        require(
            self.head_dim >= 2 * self.lanes and self.head_dim % self.lanes == 0,
            "head_dim",
            self.head_dim,
            f"a multiple of lanes = {self.lanes}, and at least twice it",
        )
        FpMulParams(format=FP32, depth=self.mul_depth)
        FpAddParams(depth=self.add_depth)
        Exp2Params(depth=self.exp_depth)
        FpNarrowParams(format=self.format, depth=self.narrow_depth)
        ReciprocalParams(format=FP32, bits_per_cycle=self.bits_per_cycle)

    @property
    def num_beats(self) -> int:
        """Beats of one vector."""
        return self.head_dim // self.lanes

    @property
    def weigh_cycles(self) -> int:
        """Cycles from the offer of the first beat of a further partial to its weight."""
        return 1 + self.add_depth + self.exp_depth

    @property
    def first_cycles(self) -> int:
        """Cycles of the first partial of a fold."""
        return self.num_beats

    @property
    def merge_cycles(self) -> int:
        """Cycles of each further partial: its weight, `l`, the beats of `o`, and the pipeline to the last write."""
        return self.weigh_cycles + 1 + self.num_beats + self.mul_depth + self.add_depth

    def emit_cycles(self, *, num_partials: int, normalise: bool) -> int:
        """Cycles from the end of the last partial to that of the last beat of the result, if none is refused.

        The reciprocal of `l` is computed while the beats of the last partial pass.
        """
        if not normalise:
            return self.num_beats
        reciprocal = ReciprocalParams(format=FP32, bits_per_cycle=self.bits_per_cycle).latency_cycles
        wait = max(0, reciprocal + (num_partials == 1) - self.num_beats)
        return wait + self.num_beats + self.mul_depth + self.narrow_depth

    @property
    def latency_cycles(self) -> int:
        """Cycles from the last beat of the last of two or more partials to the first beat of an unnormalised result."""
        return self.mul_depth + self.add_depth + 1

    @property
    def interval_cycles(self) -> int:
        """Cycles between the first beats of two folds of one partial each, not normalised."""
        return 2 * self.num_beats

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(
            Field(name="o", width=FP32.width, count=self.lanes),
            Field(name="m", width=FP32.width),
            Field(name="l", width=FP32.width),
            Field(name="last", width=1),
            Field(name="normalise", width=1),
        )

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(
            Field(name="o", width=FP32.width, count=self.lanes),
            Field(name="m", width=FP32.width),
            Field(name="l", width=FP32.width),
            Field(name="normalised", width=1),
        )


@dataclass(frozen=True, kw_only=True)
class RelayoutParams(UnitParams):
    """Parameters of the byte re-layout between a rank's data bus and its chips.

    Parameters
    ----------
    chips : int
        x8 chips of a rank, an even number.
    dq_beats : int
        DQ beats handled at once: 2, 4, 8 or 16.
    stages : int
        Register stages, 0 or 1.
    """

    chips: int = 8
    dq_beats: int = 8
    stages: int = 0

    def __post_init__(self) -> None:
        require(2 <= self.chips <= 16 and self.chips % 2 == 0, "chips", self.chips, "an even number in 2..16")
        require(self.dq_beats in (2, 4, 8, 16), "dq_beats", self.dq_beats, "2, 4, 8 or 16")
        require(self.stages in (0, 1), "stages", self.stages, "0 or 1")

    @property
    def latency_cycles(self) -> int:
        return self.stages

    @property
    def inputs(self) -> FieldTable:
        """`data` holds byte ``chips * beat + chip`` of the burst's share: chip 0 of the first beat lowest."""
        return FieldTable(Field(name="data", width=8, count=self.chips * self.dq_beats))

    @property
    def outputs(self) -> FieldTable:
        return self.inputs
