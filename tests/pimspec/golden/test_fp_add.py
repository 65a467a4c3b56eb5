"""Golden FP32 addition against the processor's."""

from __future__ import annotations

import numpy as np

from pimsim.oracles import from_bits, to_bits
from pimsim.stimulus import corners, stimulus
from pimspec.formats import FP32
from pimspec.golden.fp_add import fp_add
from pimspec.params.arith import FpAddParams

CHUNK = 1 << 20


def sum_oracle(a, b):
    with np.errstate(all="ignore"):
        return to_bits(from_bits(a, FP32) + from_bits(b, FP32))


def test_random_and_corners(count_vectors):
    for seed in range(10):
        v = stimulus(FpAddParams(), CHUNK, seed)
        np.testing.assert_array_equal(fp_add(v["a"], v["b"]), sum_oracle(v["a"], v["b"]), f"seed {seed}")
    count_vectors("golden FP32 add: seeded + corners", 10 * CHUNK)


def test_every_exponent_distance_with_corner_fractions(count_vectors):
    fractions = np.array([0, 1, 2, 3, 0x400000, 0x3FFFFF, 0x7FFFFE, 0x7FFFFF, 0x555555, 0x2AAAAA])
    fields = np.array([0, 1, 2, 23, 24, 25, 127, 230, 253, 254])
    near = np.arange(-30, 31)
    grid = np.meshgrid(fields, near, fractions, fractions, [0, 1], indexing="ij")
    field, distance, fa, fb, sign = (g.ravel() for g in grid)
    a = (field << 23) | fa
    b = (sign << 31) | (np.clip(field + distance, 0, 254) << 23) | fb
    np.testing.assert_array_equal(fp_add(a, b), sum_oracle(a, b))
    count_vectors("golden FP32 add: exponent distance x corner fractions", len(a))


def test_zero_signs_and_cancellation():
    assert fp_add(0x80000000, 0x80000000) == 0x80000000
    assert fp_add(0x80000000, 0) == 0
    assert fp_add(0x3F800000, 0xBF800000) == 0
    # 3F7FFFFE - ... : the case that a published open FMA gets wrong, as an addition of the exact product
    assert fp_add(0x407FFFFE, 0xC07FFFFC) == 0x35000000


def test_infinities_and_nans_pairwise():
    values = corners(FP32)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    np.testing.assert_array_equal(fp_add(a, b), sum_oracle(a, b))
