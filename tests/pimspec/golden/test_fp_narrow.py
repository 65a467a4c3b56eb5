"""Golden narrowing against NumPy (FP16) and ml_dtypes (BF16)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pimsim.oracles import from_bits, to_bits
from pimsim.stimulus import stimulus
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden.fp_narrow import fp_narrow
from pimspec.params.arith import FpNarrowParams

CHUNK = 1 << 20
TYPES = {FP16: np.float16, BF16: ml_dtypes.bfloat16}


def narrow_oracle(a, format):
    with np.errstate(all="ignore"):
        return to_bits(from_bits(a, FP32).astype(TYPES[format]), format)


@pytest.mark.parametrize("format", TYPES, ids=str)
def test_random_and_corners(format, count_vectors):
    for seed in range(10):
        a = stimulus(FpNarrowParams(format=format), CHUNK, seed)["a"]
        np.testing.assert_array_equal(fp_narrow(a, format), narrow_oracle(a, format), f"seed {seed}")
    count_vectors(f"golden FP32 -> {format}: seeded + corners", 10 * CHUNK)


@pytest.mark.parametrize("format", TYPES, ids=str)
def test_all_patterns_that_matter(format, count_vectors):
    """Every pattern of the bits kept and the guard bit, with the bits below it empty, full, and at both ends."""
    low_bits = FP32.fraction_bits - format.fraction_bits - 1
    top = np.arange(1 << (FP32.width - low_bits)) << low_bits
    for low in sorted({0, 1, 1 << (low_bits - 1), (1 << low_bits) - 1}):
        np.testing.assert_array_equal(fp_narrow(top | low, format), narrow_oracle(top | low, format))
        count_vectors(f"golden FP32 -> {format}: all upper bits", len(top))
