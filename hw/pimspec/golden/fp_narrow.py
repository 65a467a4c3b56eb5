"""Golden narrowing of FP32 to FP16 or BF16. Hardware: ``pimhw.arith.fp_narrow``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32, FloatFormat
from .rounding import Bits, decode, round_pack


def fp_narrow(a: ArrayLike, format: FloatFormat) -> Bits:
    """``RNE_fmt(a)`` of FP32 bit patterns: gradual underflow, overflow to infinity, canonical NaN."""
    x = decode(a, FP32)
    finite = round_pack(x.sign, x.lsb_exponent, x.significand, format)
    return np.where(x.is_nan, format.nan, np.where(x.is_inf, format.inf | (x.sign << (format.width - 1)), finite))
