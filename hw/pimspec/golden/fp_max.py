"""Golden FP32 comparison and maximum. Hardware: ``pimhw.arith.fp_max``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32
from .rounding import Bits


def total_order_key(x: Bits) -> Bits:
    """Integer key that orders non-NaN FP32 patterns as numbers, with -0 just below +0."""
    return np.where(x & FP32.sign_mask, -(x & (FP32.sign_mask - 1)) - 1, x)


def fp_max(a: ArrayLike, b: ArrayLike) -> tuple[Bits, Bits, Bits, Bits]:
    """``maximum`` of IEEE 754-2019 and the four-way comparison.

    Returns
    -------
    maximum, less, equal, unordered
        `maximum` is the larger operand, +0 over -0, and the canonical NaN if either is NaN. Exactly one of ``a < b``,
        ``a == b``, ``a > b`` (no flag) and `unordered` holds; zeros compare equal whatever their signs.
    """
    a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    mag_a, mag_b = a & (FP32.sign_mask - 1), b & (FP32.sign_mask - 1)
    unordered = (mag_a > FP32.inf) | (mag_b > FP32.inf)
    key_a, key_b = total_order_key(a), total_order_key(b)
    zeros = (mag_a | mag_b) == 0
    maximum = np.where(unordered, FP32.nan, np.where(key_a < key_b, b, a))
    equal = ~unordered & ((a == b) | zeros)
    less = ~unordered & ~equal & (key_a < key_b)
    return maximum, less.astype(np.int64), equal.astype(np.int64), unordered.astype(np.int64)
