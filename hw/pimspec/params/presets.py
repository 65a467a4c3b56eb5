"""Named presets: a DRAM part, the number format, and the parameters of every unit that goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from ..errors import UnknownNameError
from ..formats import BF16, FP16, FP32, FloatFormat
from .arith import (
    DotParams,
    Exp2Params,
    FpAddParams,
    FpMaxParams,
    FpMulParams,
    FpNarrowParams,
    ReciprocalParams,
    UnitParams,
)
from .pim_rank import PimRankParams

__all__ = ["PRESETS", "Preset", "preset_named", "standard_units"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A rank that has a name, and the arithmetic units that go with it.

    Parameters
    ----------
    name, description : str
    rank : PimRankParams
        The rank; :meth:`~pimspec.params.pim_rank.PimRankParams.for_shape` fits it to a model.
    other_units : mapping of str to UnitParams, optional
        Units instead of those that follow from the rank.
    """

    name: str
    description: str
    rank: PimRankParams
    other_units: Mapping[str, UnitParams] | None = field(default=None, hash=False)

    @property
    def dram(self) -> str:
        """Name of the DRAM part."""
        return self.rank.dram

    @property
    def format(self) -> FloatFormat:
        """Number format of K, V, queries and probabilities."""
        return self.rank.format

    @cached_property
    def units(self) -> Mapping[str, UnitParams]:
        """Parameters by unit name, which is that of the Verilog module."""
        if self.other_units is not None:
            return MappingProxyType(dict(self.other_units))
        pu = self.rank.bank_pu
        return MappingProxyType(standard_units(format=self.format, lanes=pu.lanes, interval=pu.interval))

    def unit(self, name: str) -> UnitParams:
        """Parameters of the unit called `name`; raises :class:`UnknownNameError`."""
        try:
            return self.units[name]
        except KeyError:
            raise UnknownNameError(f"unit of preset {self.name}", name, self.units) from None


def standard_units(*, format: FloatFormat, lanes: int, interval: int) -> dict[str, UnitParams]:
    """Parameters of the units of a PIM rank.

    Parameters
    ----------
    format : FloatFormat
        Operand format of the bank PU.
    lanes : int
        Products per column access of a bank PU: column bytes / 2.
    interval : int
        PU clocks between column accesses of one bank (tCCD_L): the time that the accumulation loop may take.
    """
    add_depth = min(interval, 2)
    return {
        f"{format}_mul": FpMulParams(format=format, depth=1),
        "fp32_mul": FpMulParams(format=FP32, depth=2),
        "fp32_add": FpAddParams(depth=2),
        "fp32_max": FpMaxParams(depth=1),
        f"fp32_to_{format}": FpNarrowParams(format=format, depth=1),
        "exp2": Exp2Params(depth=2),
        "reciprocal": ReciprocalParams(format=FP32, bits_per_cycle=2),
        "dot": DotParams(format=format, lanes=lanes, mul_depth=1, add_depth=add_depth, interval=interval),
    }


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            description="the fastest build, for everyday tests: units of two lanes, a rank of 2 chips with 4 banks",
            rank=PimRankParams(
                chips=2,
                bank_groups=2,
                banks_per_group=2,
                columns=128,
                head_dim=16,
                queries_at_once=2,
                segment_tokens=128,
                queries=16,
                line_queue=16,
            ),
            other_units=standard_units(format=FP16, lanes=2, interval=1),
        ),
        Preset(
            name="ddr4-3200-x8-8gb",
            description="DDR4-3200 x8, 8 Gb dies, FP16: the system of L3/CHIME",
            rank=PimRankParams(),
        ),
        Preset(
            name="ddr4-3200-x8-8gb-gqa8",
            description="DDR4-3200 x8, 8 Gb dies, FP16, bank PUs for 8 queries of a kv_head at once",
            rank=PimRankParams(queries_at_once=8),
        ),
        Preset(
            name="ddr4-3200-x8-8gb-relaxed",
            description="DDR4-3200 x8, 8 Gb dies, FP16, tFAW waived: not JEDEC-legal, for comparison only",
            rank=PimRankParams(relaxed_faw=True),
        ),
        Preset(
            name="ddr4-3200-x8-16gb",
            description="DDR4-3200 x8, 16 Gb dies, FP16",
            rank=PimRankParams(dram="ddr4-3200-x8-16gb"),
        ),
        Preset(
            name="ddr4-3200-x8-8gb-bf16",
            description="DDR4-3200 x8, 8 Gb dies, BF16",
            rank=PimRankParams(format=BF16),
        ),
        Preset(
            name="ddr5-4800-x8-16gb",
            description="DDR5-4800 x8, 16 Gb dies, FP16: 16 bytes a column access",
            rank=PimRankParams(dram="ddr5-4800-x8-16gb", ck_per_clock=6, head_dim=256),
        ),
    )
}


def preset_named(name: str) -> Preset:
    """Preset of this name; raises :class:`UnknownNameError`."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownNameError("preset", name, PRESETS) from None
