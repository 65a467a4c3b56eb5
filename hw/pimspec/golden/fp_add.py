"""Golden FP32 addition. Hardware: ``pimhw.arith.fp_add``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32
from .rounding import Bits, decode, round_pack, shift_right_sticky

# Bits kept below the larger operand: the smaller one is exact, or a sticky bit two or more places below the ulp.
GUARD_BITS = 27


def fp_add(a: ArrayLike, b: ArrayLike) -> Bits:
    """``RNE(a + b)`` on FP32 bit patterns.

    Exact cancellation gives +0; -0 + -0 gives -0. Inf + -Inf and any NaN operand give the canonical NaN.
    """
    a, b = np.broadcast_arrays(np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64))
    magnitude_mask = FP32.sign_mask - 1
    swap = (a & magnitude_mask) < (b & magnitude_mask)
    x, y = decode(np.where(swap, b, a), FP32), decode(np.where(swap, a, b), FP32)
    small = shift_right_sticky(y.significand << GUARD_BITS, x.exponent - y.exponent)
    total = (x.significand << GUARD_BITS) + np.where(x.sign == y.sign, small, -small)
    sign = np.where(total == 0, x.sign & y.sign, x.sign)
    finite = round_pack(sign, x.lsb_exponent - GUARD_BITS, total, FP32)
    nan = x.is_nan | y.is_nan | (x.is_inf & y.is_inf & (x.sign != y.sign))
    return np.where(nan, FP32.nan, np.where(x.is_inf, FP32.inf | (x.sign << 31), finite))
