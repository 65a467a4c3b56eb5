"""Decoding of bit patterns, and the one rounding helper that every narrowing uses.

Bit patterns are NumPy integer arrays (any integer type, any shape); work is done in int64 and exact throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..formats import FloatFormat

Bits = NDArray[np.int64]


class Decoded(NamedTuple):
    """Fields of a bit pattern. A finite value is ``(-1)**sign * significand * 2**lsb_exponent``."""

    sign: Bits
    exponent: Bits  # biased; a subnormal reads as 1
    significand: Bits  # with the hidden bit
    lsb_exponent: Bits
    is_inf: NDArray[np.bool_]
    is_nan: NDArray[np.bool_]


def decode(bits: ArrayLike, format: FloatFormat) -> Decoded:
    """Split bit patterns of `format` into fields; subnormals get exponent 1 and no hidden bit."""
    x = np.asarray(bits, dtype=np.int64)
    field = (x >> format.fraction_bits) & format.exponent_max_field
    fraction = x & ((1 << format.fraction_bits) - 1)
    special = field == format.exponent_max_field
    exponent = np.maximum(field, 1)
    return Decoded(
        sign=(x >> (format.width - 1)) & 1,
        exponent=exponent,
        significand=fraction | ((field != 0).astype(np.int64) << format.fraction_bits),
        lsb_exponent=exponent - format.bias - format.fraction_bits,
        is_inf=special & (fraction == 0),
        is_nan=special & (fraction != 0),
    )


def bit_length(x: Bits) -> Bits:
    """Number of bits of each element; elements must be in ``[0, 2**53)``, so that float64 holds them exactly."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def shift_right_sticky(x: Bits, amount: Bits) -> Bits:
    """``x >> amount`` with everything shifted out ORed into bit 0. `amount` may exceed the width."""
    amount = np.clip(amount, 0, 62)
    kept = x >> amount
    return kept | ((kept << amount) != x)


def round_pack(sign: Bits, lsb_exponent: Bits, significand: Bits, format: FloatFormat) -> Bits:
    """Round ``(-1)**sign * significand * 2**lsb_exponent`` to `format`: ties to even, gradual underflow.

    `significand` is in ``[0, 2**53)`` and exact, or carries a sticky bit in bit 0 that lies two or more positions below
    the last bit kept.
    """
    top = lsb_exponent + bit_length(significand) - 1
    scale = np.maximum(top, format.emin)
    shift = scale - format.fraction_bits - lsb_exponent
    left = np.clip(-shift, 0, format.precision)
    right = np.clip(shift, 0, 60)
    quotient = (significand << left) >> right
    remainder = (significand << left) - (quotient << right)
    twice, whole = remainder << 1, np.int64(1) << right
    up = (right > 0) & ((twice > whole) | ((twice == whole) & ((quotient & 1) == 1)))
    # The hidden bit of `quotient` adds one to the exponent field, and a carry out of rounding another.
    magnitude = ((scale + format.bias - 1) << format.fraction_bits) + quotient + up
    magnitude = np.where(significand == 0, 0, np.minimum(magnitude, format.inf))
    return magnitude | (sign << (format.width - 1))
