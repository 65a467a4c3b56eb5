"""Seeded operand sets for every unit: directed corners first, then random numbers shaped to reach the hard cases.

The same generator feeds pysim, cocotb, the Verilated harness and the checks of golden models against oracles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimspec.formats import FP32, FloatFormat
from pimspec.golden.dot import MODE_LANE
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

__all__ = ["corners", "random_numbers", "stimulus"]

Array = NDArray[np.int64]


def corners(format: FloatFormat) -> Array:
    """Special values of `format` and their neighbours, with both signs; NaNs of several kinds."""
    one_ulp = (1 << format.fraction_bits) - 1
    top, bias = format.exponent_max_field, format.bias
    around_one = {bias // 2, bias - format.fraction_bits - 2, bias - 1, bias, bias + 1, bias + format.fraction_bits}
    exponents = sorted({1, 2, 3, top - 2, top - 1} | around_one)
    magnitudes = [
        0,
        1,
        2,
        3,
        1 << (format.fraction_bits - 1),
        one_ulp - 1,
        one_ulp,
        format.inf,
        format.nan,
        format.nan | 1,
        format.inf | 1,
    ]
    for e in exponents:
        if 0 < e < format.exponent_max_field:
            base = e << format.fraction_bits
            magnitudes += [
                base,
                base + 1,
                base | one_ulp,
                base | (one_ulp ^ 1),
                base | (1 << (format.fraction_bits - 1)),
            ]
    array = np.array(sorted(set(magnitudes)), dtype=np.int64)
    return np.concatenate([array, array | format.sign_mask])


def _fractions(rng: np.random.Generator, count: int, bits: int) -> Array:
    """Uniform fractions mixed with runs of zeros and ones, the patterns that reach ties and carries."""
    uniform = rng.integers(0, 1 << bits, count)
    cut = rng.integers(0, bits + 1, count)
    low = (np.int64(1) << cut) - 1
    kind = rng.integers(0, 8, count)
    shaped = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [uniform & ~low, uniform | low, (uniform & ~low) | ((low + 1) >> 1), low],
        uniform,
    )
    return shaped & ((1 << bits) - 1)


def random_numbers(
    rng: np.random.Generator, count: int, format: FloatFormat, low: int = 0, high: int | None = None
) -> Array:
    """Random patterns with exponent fields in ``[low, high]`` (the whole range by default) and shaped fractions."""
    high = format.exponent_max_field if high is None else high
    field = rng.integers(max(low, 0), min(high, format.exponent_max_field) + 1, count)
    sign = rng.integers(0, 2, count)
    return (sign << (format.width - 1)) | (field << format.fraction_bits) | _fractions(rng, count, format.fraction_bits)


def _cross(values: Array, count: int) -> tuple[Array, Array]:
    a, b = np.meshgrid(values, values)
    return a.ravel()[:count], b.ravel()[:count]


def _related(rng: np.random.Generator, a: Array) -> Array:
    """FP32 partners for `a` that cancel, nearly cancel, or lie a chosen exponent distance away."""
    count = len(a)
    field = (a >> 23) & 255
    near = np.clip(field + rng.integers(-30, 31, count), 0, 254)
    other = (rng.integers(0, 2, count) << 31) | (near << 23) | _fractions(rng, count, 23)
    flip = a ^ (np.int64(1) << 31)
    tweak = flip ^ (rng.integers(0, 1 << 23, count) >> rng.integers(0, 23, count))
    kind = rng.integers(0, 8, count)
    return np.select([kind < 4, kind < 7, kind == 7], [other, tweak, flip])


def _binary_fp32(rng: np.random.Generator, count: int) -> dict[str, Array]:
    ca, cb = _cross(corners(FP32), count)
    rest = count - len(ca)
    a = random_numbers(rng, rest, FP32)
    a[: rest // 8] = random_numbers(rng, rest // 8, FP32, 0, 2)  # subnormal neighbourhood
    b = np.where(rng.random(rest) < 0.25, random_numbers(rng, rest, FP32), _related(rng, a))
    return {"a": np.concatenate([ca, a]), "b": np.concatenate([cb, b])}


def _mul(params: FpMulParams, rng: np.random.Generator, count: int) -> dict[str, Array]:
    format = params.format
    ca, cb = _cross(corners(format), count)
    rest = count - len(ca)
    a, b = random_numbers(rng, rest, format), random_numbers(rng, rest, format)
    if format.bias == FP32.bias:  # half of them: exponents that bring the product to the subnormal or overflow border
        half = rest // 2
        target = np.where(rng.random(half) < 0.8, rng.integers(-26, 4, half), rng.integers(252, 258, half))
        fields = np.clip(target + FP32.bias - ((a[:half] >> format.fraction_bits) & 255), 0, 254)
        b[:half] = (b[:half] & ~(255 << format.fraction_bits)) | (fields << format.fraction_bits)
    return {"a": np.concatenate([ca, a]), "b": np.concatenate([cb, b])}


def _unary(low: int, high: int) -> Callable[[Any, np.random.Generator, int], dict[str, Array]]:
    """Corners, then numbers of which 3 in 4 have FP32 exponent fields in ``[low, high]``."""

    def generate(params: UnitParams, rng: np.random.Generator, count: int) -> dict[str, Array]:
        head = corners(FP32)[:count]
        rest = count - len(head)
        wide, focused = random_numbers(rng, rest, FP32), random_numbers(rng, rest, FP32, low, high)
        return {"a": np.concatenate([head, np.where(rng.random(rest) < 0.25, wide, focused)])}

    return generate


def _narrow(params: FpNarrowParams, rng: np.random.Generator, count: int) -> dict[str, Array]:
    format = params.format
    low = FP32.bias - format.bias - format.fraction_bits - 2
    operands = _unary(low, low + format.exponent_max_field + format.fraction_bits + 4)(params, rng, count)
    # Half of all: bits below the last one kept at, or one off, the tie.
    drop = FP32.fraction_bits - format.fraction_bits
    a = operands["a"]
    tie = (a & ~((1 << drop) - 1)) + (1 << (drop - 1)) + rng.integers(-1, 2, count)
    skip = len(corners(FP32))
    pick = (rng.random(count) < 0.5) & (np.arange(count) >= skip)
    return {"a": np.where(pick, tie, a)}


def _dot(params: DotParams, rng: np.random.Generator, count: int) -> dict[str, Array]:
    """Accumulations of 1 to 8 operand sets in both modes; a twentieth of them with special values."""
    format, shape = params.format, (count, params.lanes)
    size = count * params.lanes
    a, b = (random_numbers(rng, size, format, format.bias - 6, format.bias + 6).reshape(shape) for _ in "ab")
    wild = rng.random(count) < 0.05
    specials = corners(format)
    a[wild] = rng.choice(specials, (int(wild.sum()), params.lanes))
    b[wild] = random_numbers(rng, int(wild.sum()) * params.lanes, format).reshape(-1, params.lanes)
    lengths = rng.integers(1, 9, count)
    ends = np.minimum(np.cumsum(lengths), count) - 1
    ends = ends[: int(np.searchsorted(ends, count - 1)) + 1]
    first, last = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    last[ends] = 1
    first[np.concatenate([[0], ends[:-1] + 1])] = 1
    # Runs of one mode, so that the unit streams; single accumulations of alternating mode, so that it drains.
    modes = rng.integers(0, 2, len(ends)) if len(ends) < 64 else np.repeat(rng.integers(0, 2, len(ends) // 8 + 1), 8)
    mode = modes[np.cumsum(first) - 1]
    # A scalar probability in lane mode is one value in all lanes.
    b = np.where((mode == MODE_LANE)[:, None] & (rng.random(count) < 0.5)[:, None], b[:, :1], b)
    return {"a": a, "b": b, "mode": mode, "first": first, "last": last}


_GENERATORS: dict[type[UnitParams], Callable[[Any, np.random.Generator, int], dict[str, Array]]] = {
    FpMulParams: _mul,
    FpAddParams: lambda p, rng, n: _binary_fp32(rng, n),
    FpMaxParams: lambda p, rng, n: _binary_fp32(rng, n),
    FpNarrowParams: _narrow,
    Exp2Params: _unary(FP32.bias - 20, FP32.bias + 8),
    ReciprocalParams: _unary(1, 254),
    DotParams: _dot,
}


def stimulus(params: UnitParams, count: int, seed: int) -> dict[str, Array]:
    """`count` operand sets for the unit described by `params`, by field name; one seed always gives the same ones."""
    return _GENERATORS[type(params)](params, np.random.default_rng(seed), count)
