"""Parameters of the arithmetic units: choices, derived numbers, and the layouts of the streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import require
from ..fields import Field, FieldTable
from ..formats import BF16, FP16, FP32, FloatFormat, require_format


@dataclass(frozen=True, kw_only=True)
class UnitParams:
    """Parameters of an arithmetic unit, with its stream layouts and timing.

    `latency_cycles` counts from the clock edge that accepts an operand set to the first cycle with its result valid;
    `interval_cycles` is the smallest distance between two accepted operand sets.
    """

    @property
    def inputs(self) -> FieldTable:
        raise NotImplementedError

    @property
    def outputs(self) -> FieldTable:
        raise NotImplementedError

    @property
    def latency_cycles(self) -> int:
        raise NotImplementedError

    @property
    def interval_cycles(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class PipelinedParams(UnitParams):
    """Parameters of a unit without state: `depth` register stages, one operand set per cycle."""

    MAX_DEPTH: ClassVar[int]

    depth: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.depth <= self.max_depth, "depth", self.depth, f"1..{self.max_depth}")

    @property
    def max_depth(self) -> int:
        return self.MAX_DEPTH

    @property
    def latency_cycles(self) -> int:
        return self.depth


@dataclass(frozen=True, kw_only=True)
class FpMulParams(PipelinedParams):
    """Parameters of a multiplier of two numbers of `format` into FP32."""

    format: FloatFormat = FP16

    def __post_init__(self) -> None:
        require_format("multiplier input format", self.format, FP16, BF16, FP32)
        super().__post_init__()

    @property
    def max_depth(self) -> int:
        return 3 if self.format == FP16 else 4

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(Field(name="a", width=self.format.width), Field(name="b", width=self.format.width))

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(Field(name="y", width=FP32.width))


@dataclass(frozen=True, kw_only=True)
class FpAddParams(PipelinedParams):
    """Parameters of the FP32 adder."""

    MAX_DEPTH = 5

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(Field(name="a", width=FP32.width), Field(name="b", width=FP32.width))

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(Field(name="y", width=FP32.width))


@dataclass(frozen=True, kw_only=True)
class FpMaxParams(PipelinedParams):
    """Parameters of the FP32 maximum and comparator."""

    MAX_DEPTH = 2

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(Field(name="a", width=FP32.width), Field(name="b", width=FP32.width))

    @property
    def outputs(self) -> FieldTable:
        flags = (Field(name=n, width=1) for n in ("less", "equal", "unordered"))
        return FieldTable(Field(name="y", width=FP32.width), *flags)


@dataclass(frozen=True, kw_only=True)
class FpNarrowParams(PipelinedParams):
    """Parameters of the narrowing of FP32 to `format`."""

    MAX_DEPTH = 2

    format: FloatFormat = FP16

    def __post_init__(self) -> None:
        require_format("narrowing output format", self.format, FP16, BF16)
        super().__post_init__()

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(Field(name="a", width=FP32.width))

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(Field(name="y", width=self.format.width))


@dataclass(frozen=True, kw_only=True)
class Exp2Params(PipelinedParams):
    """Parameters of 2**x on FP32."""

    MAX_DEPTH = 4

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(Field(name="a", width=FP32.width))

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(Field(name="y", width=FP32.width))


@dataclass(frozen=True, kw_only=True)
class ReciprocalParams(UnitParams):
    """Parameters of the iterative reciprocal of an FP32 number, rounded once to `format`.

    The unit finds `bits_per_cycle` quotient bits a cycle.
    """

    format: FloatFormat = FP32
    bits_per_cycle: int = 2

    def __post_init__(self) -> None:
        require_format("reciprocal output format", self.format, FP32, FP16, BF16)
        require(self.bits_per_cycle in (1, 2, 4), "bits_per_cycle", self.bits_per_cycle, "1, 2 or 4")

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(Field(name="a", width=FP32.width))

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(Field(name="y", width=self.format.width))

    @property
    def num_steps(self) -> int:
        """Cycles of the digit recurrence, which finds the significand and one guard bit."""
        return -(-(self.format.precision + 1) // self.bits_per_cycle)

    @property
    def latency_cycles(self) -> int:
        return self.num_steps + 2

    @property
    def interval_cycles(self) -> int:
        return self.num_steps + 2


@dataclass(frozen=True, kw_only=True)
class DotParams(UnitParams):
    """Parameters of the MAC datapath of a bank PU.

    Parameters
    ----------
    format : FloatFormat
        Operand format, FP16 or BF16; products and sums are FP32.
    lanes : int
        Products per operand set, a power of two: column bytes / 2 times the number of rows computed at once.
    mul_depth, add_depth : int
        Register stages of each multiplier and adder.
    interval : int
        Cycles between operand sets. The accumulation loop holds one adder, hence ``interval >= add_depth``.
    """

    format: FloatFormat = FP16
    lanes: int = 4
    mul_depth: int = 1
    add_depth: int = 1
    interval: int = 1

    def __post_init__(self) -> None:
        require_format("dot-product operand format", self.format, FP16, BF16)
        require(self.lanes in (1, 2, 4, 8, 16, 32, 64), "lanes", self.lanes, "a power of two in 1..64")
        FpMulParams(format=self.format, depth=self.mul_depth)
        FpAddParams(depth=self.add_depth)
        require(
            self.add_depth <= self.interval <= 16, "interval", self.interval, f"add_depth..16 = {self.add_depth}..16"
        )

    @property
    def tree_levels(self) -> int:
        return self.lanes.bit_length() - 1

    @property
    def latency_cycles(self) -> int:
        """Cycles from the set with `last` to its result in tree mode; lane mode is `lane_latency_cycles`."""
        return self.mul_depth + (self.tree_levels + 1) * self.add_depth

    @property
    def lane_latency_cycles(self) -> int:
        return self.mul_depth + self.add_depth

    @property
    def interval_cycles(self) -> int:
        return self.interval

    @property
    def inputs(self) -> FieldTable:
        return FieldTable(
            Field(name="a", width=self.format.width, count=self.lanes),
            Field(name="b", width=self.format.width, count=self.lanes),
            Field(name="mode", width=1),
            Field(name="first", width=1),
            Field(name="last", width=1),
        )

    @property
    def outputs(self) -> FieldTable:
        return FieldTable(Field(name="y", width=FP32.width, count=self.lanes), Field(name="mode", width=1))
