"""Parameters of the units of the rank PU on the buffer chip: online softmax, merge of partials, byte re-layout."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import require
from .fields import Field, FieldTable
from .formats import BF16, FP16, FP32, FloatFormat, require_format
from .params import Exp2Params, FpAddParams, FpMulParams, FpNarrowParams, ReciprocalParams, UnitParams

__all__ = ["MergeParams", "RelayoutParams", "SoftmaxParams"]


def _require_lanes(lanes: int) -> None:
    require(lanes in (1, 2, 4, 8, 16), "lanes", lanes, "a power of two in 1..16")


@dataclass(frozen=True, kw_only=True)
class SoftmaxParams(UnitParams):
    """The softmax unit: pass 1 scales, keeps and compares the scores; pass 2 turns them into probabilities.

    Parameters
    ----------
    format : FloatFormat
        Of the probabilities, FP16 or BF16; everything else is FP32.
    lanes : int
        Scores per beat, a power of two.
    max_tokens : int
        Longest part, a multiple of `lanes`; a longer segment is cut into parts of this length.
    parts : int
        Parts that may be under way at once, from the acceptance of the last beat of a part to the delivery of its
        statistics.
    mul_depth, add_depth, exp_depth, narrow_depth : int
        Register stages of the scaling multiplier, of the subtraction and each level of the summing tree, of the
        exponential and of the narrowing. Both accumulations (maximum and sum) hold one register, so that a beat can
        follow each clock.
    """

    format: FloatFormat = FP16
    lanes: int = 4
    max_tokens: int = 8192
    parts: int = 4
    mul_depth: int = 1
    add_depth: int = 1
    exp_depth: int = 2
    narrow_depth: int = 1

    def __post_init__(self) -> None:
        require_format("probability format", self.format, FP16, BF16)
        _require_lanes(self.lanes)
        require(
            self.max_tokens >= 2 * self.lanes and self.max_tokens % self.lanes == 0,
            "max_tokens",
            self.max_tokens,
            f"a multiple of lanes = {self.lanes}, and at least twice it",
        )
        require(self.parts in (4, 8, 16), "parts", self.parts, "4, 8 or 16")
        FpMulParams(format=FP32, depth=self.mul_depth)
        FpAddParams(depth=self.add_depth)
        Exp2Params(depth=self.exp_depth)
        FpNarrowParams(format=self.format, depth=self.narrow_depth)

    @property
    def max_beats(self) -> int:
        """Beats of the longest part."""
        return self.max_tokens // self.lanes

    @property
    def tree_levels(self) -> int:
        return self.lanes.bit_length() - 1

    @property
    def start_cycles(self) -> int:
        """From the cycle that accepts the last beat of a part to the one that reads its first row for pass 2."""
        return self.mul_depth + self.tree_levels + 2

    @property
    def prob_cycles(self) -> int:
        """From the cycle that reads a row to the one that shows its probabilities."""
        return 1 + self.add_depth + self.exp_depth + self.narrow_depth

    @property
    def sum_cycles(self) -> int:
        """From the cycle that reads the last row of a part to the one that shows its sum."""
        return self.prob_cycles + self.tree_levels * self.add_depth + 1

    @property
    def num_rows(self) -> int:
        """Rows of the score memory: the longest part, and what arrives until the first of them is read again."""
        return self.max_beats + self.start_cycles

    @property
    def latency_cycles(self) -> int:
        """From the last beat of a part to its first probabilities."""
        return self.start_cycles + self.prob_cycles

    def stats_latency_cycles(self, num_beats: int) -> int:
        """From the last beat of a part of `num_beats` to its statistics, if nothing is ahead of it."""
        return self.start_cycles + num_beats - 1 + self.sum_cycles

    @property
    def bubble_free_beats(self) -> int:
        """Parts of at least this many beats follow one another without a bubble; shorter ones wait for `parts`."""
        return -(-(self.start_cycles + self.sum_cycles - 1) // (self.parts - 2))

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(
            Field(name="scores", width=FP32.width, count=self.lanes),
            Field(name="keep", width=1, count=self.lanes),
            Field(name="last", width=1),
        )

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(
            Field(name="probs", width=self.format.width, count=self.lanes),
            Field(name="keep", width=1, count=self.lanes),
            Field(name="last", width=1),
        )

    @property
    def stats(self) -> FieldTable:
        """The second output stream: one entry a part."""
        return FieldTable(
            Field(name="m", width=FP32.width), Field(name="l", width=FP32.width), Field(name="more", width=1)
        )


@dataclass(frozen=True, kw_only=True)
class MergeParams(UnitParams):
    """The merge unit: folds partial results ``(o, m, l)`` left to right and normalises the last.

    Parameters
    ----------
    format : FloatFormat
        Of the normalised output, FP16 or BF16; partials are FP32.
    lanes : int
        Elements of `o` per beat, a power of two.
    head_dim : int
        Elements of `o`, a multiple of `lanes`.
    mul_depth, add_depth, exp_depth, narrow_depth : int
        Register stages.
    bits_per_cycle : int
        Of the reciprocal.
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
        """From the cycle that offers the first beat of a further partial to the one that shows its weight."""
        return 1 + self.add_depth + self.exp_depth

    @property
    def first_cycles(self) -> int:
        """Cycles that the first partial of a fold takes."""
        return self.num_beats

    @property
    def merge_cycles(self) -> int:
        """Cycles that each further partial takes: its weight, `l`, the beats of `o`, and the way to the last write."""
        return self.weigh_cycles + 1 + self.num_beats + self.mul_depth + self.add_depth

    def emit_cycles(self, *, num_partials: int, normalise: bool) -> int:
        """Cycles from the end of the last partial to that of the last beat of the result, if none is refused.

        The reciprocal of `l` is under way while the beats of the last partial pass.
        """
        if not normalise:
            return self.num_beats
        reciprocal = ReciprocalParams(format=FP32, bits_per_cycle=self.bits_per_cycle).latency_cycles
        wait = max(0, reciprocal + (num_partials == 1) - self.num_beats)
        return wait + self.num_beats + self.mul_depth + self.narrow_depth

    @property
    def latency_cycles(self) -> int:
        """From the last beat of the last of two or more partials to the first beat of a result not normalised."""
        return self.mul_depth + self.add_depth + 1

    @property
    def interval_cycles(self) -> int:
        """Between the first beats of two folds of one partial each, not normalised."""
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
    """The byte re-layout between a rank's data bus and its chips.

    Parameters
    ----------
    chips : int
        x8 chips of a rank, an even number.
    dq_beats : int
        DQ beats handled in one controller clock: 2, 4 or 8.
    stages : int
        Register stages, 0 or 1.
    """

    chips: int = 8
    dq_beats: int = 8
    stages: int = 0

    def __post_init__(self) -> None:
        require(2 <= self.chips <= 16 and self.chips % 2 == 0, "chips", self.chips, "an even number in 2..16")
        require(self.dq_beats in (2, 4, 8), "dq_beats", self.dq_beats, "2, 4 or 8")
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
