"""Independent oracles: IEEE arithmetic of the host processor through NumPy, as bit patterns.

They share no code with the golden models. NumPy's float32 operations are the processor's own and correctly rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimspec.formats import BF16, FP16, FP32, FloatFormat

__all__ = ["from_bits", "to_bits"]

Bits = NDArray[np.int64]


def from_bits(bits: Bits, format: FloatFormat) -> NDArray[np.float32]:
    """Values of bit patterns as float32; exact for FP16, BF16 and FP32."""
    if format == FP16:
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    if format == BF16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.uint32).view(np.float32)


def to_bits(values: NDArray[Any], format: FloatFormat = FP32) -> Bits:
    """Bit patterns of an array already of the type of `format`; every NaN becomes the canonical one."""
    word = np.uint16 if format.width == 16 else np.uint32
    bits = values.view(word).astype(np.int64)
    return np.where(np.isnan(values.astype(np.float32)), format.nan, bits)
