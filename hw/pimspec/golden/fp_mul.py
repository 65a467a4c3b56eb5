"""Golden multiplication of two numbers of one format into FP32. Hardware: ``pimhw.arith.fp_mul``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32, FloatFormat
from .rounding import Bits, decode, round_pack


def fp_mul(a: ArrayLike, b: ArrayLike, format: FloatFormat) -> Bits:
    """``RNE_fp32(a * b)`` for bit patterns of `format`, as FP32 bit patterns.

    FP16: always exact (22 significand bits; nonzero magnitudes from 2**-48 to below 2**32), never subnormal or
    overflowing. BF16: exact (16 bits) unless the product leaves FP32's normal range. FP32: rounded once. Inf * 0 and
    any NaN operand give the canonical NaN.
    """
    x, y = decode(a, format), decode(b, format)
    sign = x.sign ^ y.sign
    finite = round_pack(sign, x.lsb_exponent + y.lsb_exponent, x.significand * y.significand, FP32)
    inf = x.is_inf | y.is_inf
    nan = x.is_nan | y.is_nan | (inf & ((x.significand == 0) | (y.significand == 0)))
    return np.where(nan, FP32.nan, np.where(inf, FP32.inf | (sign << 31), finite))
