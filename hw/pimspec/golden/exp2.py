"""Golden 2**x on FP32. Hardware: ``pimhw.arith.exp2``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32
from .exp2_table import DROPPED_BITS, FRACTION_BITS, INTERCEPT, LOW_BITS, OUTPUT_BITS, SLOPE
from .rounding import Bits, decode, round_pack

_INTERCEPT = np.array(INTERCEPT, dtype=np.int64)
_SLOPE = np.array(SLOPE, dtype=np.int64)


def fraction_power(fraction: Bits) -> Bits:
    """The table core: ``(2**f - 1) * 2**OUTPUT_BITS`` for f = fraction * 2**-FRACTION_BITS in [0, 1)."""
    segment, low = fraction >> LOW_BITS, fraction & ((1 << LOW_BITS) - 1)
    return (_INTERCEPT[segment] + _SLOPE[segment] * low) >> DROPPED_BITS


def exp2(a: ArrayLike) -> Bits:
    """``2**a`` on FP32 bit patterns.

    The operand is rounded to a multiple of 2**-14, halves away from zero. The core of :mod:`.exp2_table` follows, and
    the result is rounded once where it is subnormal. It is exact at every integer, non-decreasing, 0 up to -150, and
    infinity from 128 - 2**-15.

    Largest relative error of a normal result: the line is off by at most 1.0e-5 (segment 0: a line through 0 on
    ``0.24 x**2`` over 1/64: (3 - 2 sqrt 2) * 0.24 / 4096; the others 0.24 / 4096 / 8), the rounded slope by half a unit
    of 2**-21 over 255 steps, half of that after the intercept has centred it (3.0e-5; all of it in segment 0, whose
    slope is searched), the dropped bits by 3.8e-6, the operand by 2**-15 (ln 2 * 2**-15 = 2.1e-5): in sum 6.5e-5.
    Measured over the whole grid 5.1e-5 = 2**-14.27, below 2**-14.
    """
    x = decode(a, FP32)
    shift = np.clip(FP32.bias + FP32.fraction_bits - FRACTION_BITS - x.exponent, -40, 40)
    right = np.maximum(shift, 0)
    doubled = (x.significand << 1) >> right  # one bit more than the fixed-point number, for rounding
    fixed = (doubled >> 1) + (doubled & 1)
    fixed = np.where(shift < 0, np.int64(1) << 25, fixed)  # |x| >= 256
    fixed = np.where(x.sign == 1, -fixed, fixed)
    integer, fraction = fixed >> FRACTION_BITS, fixed & ((1 << FRACTION_BITS) - 1)
    significand = fraction_power(fraction) + (1 << OUTPUT_BITS)
    finite = round_pack(np.zeros_like(fixed), integer - OUTPUT_BITS, significand, FP32)
    return np.where(x.is_nan, FP32.nan, np.where(x.is_inf, np.where(x.sign == 1, 0, FP32.inf), finite))
