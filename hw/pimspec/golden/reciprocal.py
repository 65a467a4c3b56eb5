"""Golden reciprocal of an FP32 number, rounded once to FP32, FP16 or BF16. Hardware: ``pimhw.arith.reciprocal``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32, FloatFormat
from .rounding import Bits, bit_length, decode, round_pack

QUOTIENT_SHIFT = 52  # quotients of 2**52 by a normalised significand lie in (2**28, 2**29]


def reciprocal(a: ArrayLike, format: FloatFormat) -> Bits:
    """``RNE_fmt(1 / a)`` for FP32 bit patterns, as bit patterns of `format`.

    The result is correctly rounded, hence within 0.5 ulp: the quotient has at least 29 bits, of which `format` keeps at
    most 24, and the remainder goes into a sticky bit below them. 1/+-0 is +-Inf and 1/+-Inf is +-0. Subnormals count at
    full value, so the reciprocal of a magnitude of 2**-128 or less overflows FP32 and BF16. Underflow is gradual.
    """
    x = decode(a, FP32)
    is_zero = x.significand == 0
    shift = FP32.precision - bit_length(x.significand)
    divisor = np.where(is_zero, 1 << FP32.fraction_bits, x.significand << shift)
    quotient = (1 << QUOTIENT_SHIFT) // divisor
    sticky = quotient * divisor != 1 << QUOTIENT_SHIFT
    finite = round_pack(x.sign, shift - x.lsb_exponent - QUOTIENT_SHIFT, quotient | sticky, format)
    sign = x.sign << (format.width - 1)
    return np.where(x.is_nan, format.nan, np.where(x.is_inf, sign, np.where(is_zero, format.inf | sign, finite)))
