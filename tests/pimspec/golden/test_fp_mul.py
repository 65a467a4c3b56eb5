"""Golden multiplication against NumPy's float32 product; FP16 over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.oracles import from_bits, to_bits
from pimsim.stimulus import corners, stimulus
from pimspec.formats import BF16, FP16, FP32, FloatFormat
from pimspec.golden.fp_mul import fp_mul
from pimspec.golden.rounding import decode, round_pack
from pimspec.params.arith import FpMulParams

ALL_16 = np.arange(1 << 16)
CHUNK = 1 << 20


@pytest.fixture(autouse=True)
def _quiet_numpy():
    with np.errstate(all="ignore"):
        yield


def product_oracle(a, b, format: FloatFormat):
    return to_bits(from_bits(a, format) * from_bits(b, format))


@pytest.mark.parametrize("format", [FP16, BF16], ids=str)
def test_decode_gives_the_value_of_every_16_bit_pattern(format, count_vectors):
    d = decode(ALL_16, format)
    finite = ~d.is_inf & ~d.is_nan
    value = np.ldexp((d.significand * (1 - 2 * d.sign)).astype(np.float64), d.lsb_exponent)
    oracle = from_bits(ALL_16, format).astype(np.float64)
    np.testing.assert_array_equal(value[finite], oracle[finite])
    np.testing.assert_array_equal(d.is_nan, np.isnan(oracle))
    np.testing.assert_array_equal(d.is_inf, np.isinf(oracle))
    count_vectors(f"golden decode {format} (all patterns)", len(ALL_16))


def test_fp16_finite_products_all_by_reduction(count_vectors):
    """A finite product is a function of (sign, Ma*Mb, ea+eb): every reachable triple is compared with an exact product.

    With the exhaustive decode test above and the special values below this covers all 2**32 pairs of `fp_mul`, whose
    finite path is ``round_pack`` of exactly these three. It also proves what the hardware leaves out: the product is
    0 or a normal FP32 number, and nothing is rounded.
    """
    significands = np.arange(2048)
    products = np.unique(np.multiply.outer(significands, significands))
    # lsb exponents run from -24 to 5 (exponent field 1..30), so their sums from -48 to 10.
    for exponent in range(-48, 11):
        got = round_pack(np.zeros_like(products), np.full_like(products, exponent), products, FP32)
        exact = np.ldexp(products.astype(np.float64), exponent)
        np.testing.assert_array_equal(got.astype(np.uint32).view(np.float32).astype(np.float64), exact)
        assert ((got == 0) | ((got >> 23 >= 1) & (got >> 23 <= 254))).all()
    count_vectors("golden FP16 multiply: (product, exponent) classes", len(products) * 59)


def test_fp16_specials_against_every_pattern(count_vectors):
    specials = corners(FP16)
    for special in specials:
        for a, b in ((ALL_16, special), (special, ALL_16)):
            x, y = np.broadcast_arrays(a, b)
            np.testing.assert_array_equal(fp_mul(x, y, FP16), product_oracle(x, y, FP16))
    count_vectors("golden FP16 multiply: special x all", len(specials) * 2 * len(ALL_16))


def test_fp16_every_significand_pair(count_vectors):
    """All 1024 x 1024 fractions at exponents that meet the subnormal, the middle and the top."""
    fraction = np.arange(1024)
    a, b = (v.ravel() for v in np.meshgrid(fraction, fraction))
    for ea, eb in ((0, 0), (0, 30), (1, 1), (15, 14), (30, 30)):
        x, y = a | (ea << 10), b | (eb << 10) | 0x8000
        np.testing.assert_array_equal(fp_mul(x, y, FP16), product_oracle(x, y, FP16))
    count_vectors("golden FP16 multiply: fraction pairs", 5 * len(a))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_fp16_brute_force(part, count_vectors):
    """All pairs of non-negative patterns, 2**30, one by one (signs are XORed: `test_sign_is_the_xor`)."""
    b = np.arange(1 << 15)
    for start in range(part << 11, (part + 1) << 11, 32):
        x, y = (v.ravel() for v in np.meshgrid(np.arange(start, start + 32), b))
        np.testing.assert_array_equal(fp_mul(x, y, FP16), product_oracle(x, y, FP16))
    count_vectors("golden FP16 multiply: brute force", 1 << 26)


def test_sign_is_the_xor(count_vectors):
    operands = stimulus(FpMulParams(format=FP16), CHUNK, seed=5)
    a, b = operands["a"] & 0x7FFF, operands["b"] & 0x7FFF
    plain = fp_mul(a, b, FP16)
    number = plain != FP32.nan
    for sa, sb in ((1, 0), (0, 1), (1, 1)):
        signed = fp_mul(a | (sa << 15), b | (sb << 15), FP16)
        np.testing.assert_array_equal(signed, np.where(number, plain | ((sa ^ sb) << 31), plain))
    count_vectors("golden FP16 multiply: signs", 3 * CHUNK)


@pytest.mark.parametrize("format", [FP16, BF16, FP32], ids=str)
def test_random_and_corners(format, count_vectors):
    total = 10 * CHUNK
    for seed in range(10):
        v = stimulus(FpMulParams(format=format), CHUNK, seed)
        np.testing.assert_array_equal(
            fp_mul(v["a"], v["b"], format), product_oracle(v["a"], v["b"], format), f"seed {seed}"
        )
    count_vectors(f"golden {format} multiply: seeded + corners", total)
