"""Parameter sets of each unit for tests, lint and synthesis: all presets, every format and depth."""

from __future__ import annotations

import dataclasses

from pimspec.formats import BF16, FP16, FP32, FloatFormat
from pimspec.golden.units import kind_of
from pimspec.params.arith import (
    DotParams,
    Exp2Params,
    FpAddParams,
    FpMaxParams,
    FpMulParams,
    FpNarrowParams,
    ReciprocalParams,
    UnitParams,
)
from pimspec.params.presets import PRESETS

__all__ = ["PRESET_VARIANTS", "UNIT_VARIANTS", "variant_id"]


PRESET_VARIANTS: tuple[UnitParams, ...] = tuple(
    dict.fromkeys(params for preset in PRESETS.values() for params in preset.units.values())
)


def _all_variants() -> list[UnitParams]:
    variants: list[UnitParams] = list(PRESET_VARIANTS)
    for format in (FP16, BF16, FP32):
        variants += [FpMulParams(format=format, depth=d) for d in range(1, FpMulParams(format=format).max_depth + 1)]
        variants += [ReciprocalParams(format=format, bits_per_cycle=b) for b in (1, 2, 4)]
    for kind in (FpAddParams, FpMaxParams, Exp2Params):
        variants += [kind(depth=d) for d in range(1, kind.MAX_DEPTH + 1)]
    for format in (FP16, BF16):
        variants += [FpNarrowParams(format=format, depth=d) for d in range(1, FpNarrowParams.MAX_DEPTH + 1)]
    variants += [
        DotParams(lanes=1),
        DotParams(lanes=4, mul_depth=2, add_depth=3, interval=4),
        DotParams(format=BF16, lanes=8, mul_depth=3, add_depth=1, interval=1),
        DotParams(lanes=16, add_depth=1, interval=1),
    ]
    return list(dict.fromkeys(variants))


UNIT_VARIANTS: tuple[UnitParams, ...] = tuple(_all_variants())


def variant_id(params: UnitParams) -> str:
    """Short name such as ``fp_mul-fp16-depth2``."""
    parts = [kind_of(params).name]
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        parts.append(value.name if isinstance(value, FloatFormat) else f"{field.name}{value}")
    return "-".join(parts)
