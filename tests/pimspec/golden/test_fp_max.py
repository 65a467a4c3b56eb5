"""Golden maximum and comparison against NumPy."""

from __future__ import annotations

import numpy as np

from pimsim.oracles import from_bits, to_bits
from pimsim.stimulus import stimulus
from pimspec.formats import FP32
from pimspec.golden.fp_max import fp_max
from pimspec.params.arith import FpMaxParams

CHUNK = 1 << 20


def test_random_and_corners(count_vectors):
    for seed in range(10):
        v = stimulus(FpMaxParams(), CHUNK, seed)
        x, y = from_bits(v["a"], FP32), from_bits(v["b"], FP32)
        maximum, less, equal, unordered = fp_max(v["a"], v["b"])
        oracle = to_bits(np.maximum(x, y))
        zeros = (x == 0) & (y == 0)  # NumPy does not order zeros: +0 unless both are -0
        oracle = np.where(zeros, v["a"] & v["b"], oracle)
        np.testing.assert_array_equal(maximum, oracle, f"seed {seed}")
        np.testing.assert_array_equal(less, x < y)
        np.testing.assert_array_equal(equal, x == y)
        np.testing.assert_array_equal(unordered, np.isnan(x) | np.isnan(y))
    count_vectors("golden FP32 maximum: seeded + corners", 10 * CHUNK)
