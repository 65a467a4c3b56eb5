"""Golden reciprocal against quotients that NumPy and ml_dtypes round."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from pimspec.errors import ParameterError, UnsupportedFormatError
from pimspec.formats import BF16, FORMATS, FP16, FP32, FloatFormat
from pimspec.golden.reciprocal import reciprocal
from pimspec.params.arith import ReciprocalParams

FORMATS_OUT = tuple(FORMATS.values())
CHUNK = 1 << 17  # temporaries stay in the cache
NUM_RANDOM = 10_000_000
SEED = 20


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float64 to BF16 in one rounding.

    ml_dtypes casts float64 by way of float32 and so rounds twice. Rounding to odd in float32 (towards zero, and an
    inexact result gets an odd last bit) keeps what the second rounding must know: 24 >= 8 + 2 bits.
    """
    with np.errstate(over="ignore"):
        nearest = x.astype(np.float32)
    inward = np.where(np.abs(nearest) > np.abs(x), np.nextafter(nearest, np.float32(0)), nearest)
    odd = inward.view(np.uint32) | (inward != x)
    return odd.view(np.float32).astype(ml_dtypes.bfloat16)


def oracle(a: np.ndarray, format: FloatFormat) -> np.ndarray:
    """RNE(1 / a), on bit patterns.

    FP32: one float32 division, which IEEE 754 rounds correctly. FP16 and BF16: float64 division, then rounding. That
    second rounding cannot go wrong: let t be a tie of the output format (at most 12 significant bits, subnormal or
    not). With a divisor x of 24 bits, t * x is a number of at most 36 bits; if it is not 1 it differs from 1 by 2**-36
    or more, and so does the exact quotient 1/x from t, relatively. A float64 quotient is off by 2**-53 at most: it is
    t only if 1/x is t, and else lies on the same side of t. (2**-149 <= |x| < 2**128 keeps it in the normal range.)
    """
    x = a.astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        if format == FP32:
            y = (np.float32(1) / x).view(np.uint32)
        elif format == FP16:
            y = (1 / x.astype(np.float64)).astype(np.float16).view(np.uint16)
        else:
            y = to_bf16(1 / x.astype(np.float64)).view(np.uint16)
    return np.where(np.isnan(x), format.nan, y.astype(np.int64))


def check(a: np.ndarray, format: FloatFormat) -> int:
    """Compare in chunks; returns the number of vectors."""
    for begin in range(0, len(a), CHUNK):
        part = np.asarray(a[begin : begin + CHUNK], dtype=np.int64)
        got, want = reciprocal(part, format), oracle(part, format)
        if not np.array_equal(got, want):
            k = int(np.flatnonzero(got != want)[0])
            pytest.fail(f"{format} #{begin + k}: 1/{part[k]:#010x} gave {got[k]:#x}, not {want[k]:#x} (seed {SEED})")
    return len(a)


def around(patterns: np.ndarray, reach: int) -> np.ndarray:
    """`patterns` and their neighbours up to `reach` ulp away, within 31 bits, with both signs."""
    near = (patterns[:, None] + np.arange(-reach, reach + 1)).ravel()
    near = np.unique(near[(near >= 0) & (near < 1 << 31)])
    return np.concatenate([near, near | 1 << 31])


def directed(format: FloatFormat) -> np.ndarray:
    """Corners: zeros, subnormals, powers of two, specials, and the operands around each border of `format`."""
    field_starts = np.arange(256) << 23
    subnormal_powers = 1 << np.arange(23)
    borders = [format.emax + 1, format.emin, format.emin - format.fraction_bits, format.emin - format.fraction_bits - 1]
    near_border = np.array([np.float32(2.0**-e if e > -128 else np.inf).view(np.int32) for e in borders])
    # Ties among the subnormal results: odd multiples of half a step.
    ties = 1 / (np.arange(1, 1 << 12) * 2.0 ** (format.emin - format.fraction_bits - 1))
    ties = ties[ties < 2.0**128].astype(np.float32).view(np.int32).astype(np.int64)
    return np.concatenate(
        [
            around(field_starts, 3),
            around(subnormal_powers, 3),
            around(near_border.astype(np.int64), 4096),
            around(ties, 2),
            np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFC12345]),
        ]
    )


def test_the_oracle_rounds_once() -> None:
    assert to_bf16(np.array([1 + 2.0**-8 + 2.0**-40])).view(np.uint16)[0] == BF16.one + 1
    assert to_bf16(np.array([1 + 3 * 2.0**-8 - 2.0**-40])).view(np.uint16)[0] == BF16.one + 1
    assert to_bf16(np.array([1 + 2.0**-8])).view(np.uint16)[0] == BF16.one
    assert to_bf16(np.array([2.0**128])).view(np.uint16)[0] == BF16.inf
    assert np.array([1 + 2.0**-11 + 2.0**-40]).astype(np.float16).view(np.uint16)[0] == FP16.one + 1


@pytest.mark.parametrize("format", FORMATS_OUT, ids=str)
def test_specials(format: FloatFormat) -> None:
    sign = format.sign_mask
    a = [0, 0x80000000, 0x7F800000, 0xFF800000, 0xFF800001, 0x7FC00000, 0x3F800000, 0xBF800000, 0x00000001, 0x80000001]
    want = [
        format.inf,
        format.inf | sign,
        0,
        sign,
        format.nan,
        format.nan,
        format.one,
        format.one | sign,
        format.inf,
        format.inf | sign,
    ]
    assert reciprocal(a, format).tolist() == want


@pytest.mark.parametrize("format", FORMATS_OUT, ids=str)
def test_shape_is_kept(format: FloatFormat) -> None:
    assert reciprocal(FP32.one, format).shape == ()
    assert reciprocal(np.full((2, 3), FP32.one, dtype=np.uint32), format).tolist() == [[format.one] * 3] * 2


@pytest.mark.parametrize("format", FORMATS_OUT, ids=str)
def test_directed(format: FloatFormat, count_vectors: Callable[[str, int], None]) -> None:
    count_vectors(f"golden reciprocal {format}: directed", check(directed(format), format))


@pytest.mark.parametrize("format", FORMATS_OUT, ids=str)
def test_every_significand(format: FloatFormat, count_vectors: Callable[[str, int], None]) -> None:
    count_vectors(f"golden reciprocal {format}: every significand", check(FP32.one + np.arange(1 << 23), format))


@pytest.mark.parametrize("format", FORMATS_OUT, ids=str)
def test_random(format: FloatFormat, count_vectors: Callable[[str, int], None]) -> None:
    rng = np.random.default_rng(SEED)
    a = rng.integers(0, 1 << 32, size=NUM_RANDOM, dtype=np.uint32)
    # Half of them where `format` has finite results or subnormals: FP16 would otherwise see little but 0 and Inf.
    low, high = max(1, 124 - format.emax), min(254, 130 - format.emin + format.fraction_bits)
    field = rng.integers(low, high + 1, size=NUM_RANDOM // 2, dtype=np.uint32)
    a[: NUM_RANDOM // 2] = (a[: NUM_RANDOM // 2] & 0x807FFFFF) | (field << 23)
    count_vectors(f"golden reciprocal {format}: seeded", check(a, format))


@pytest.mark.parametrize("format", FORMATS_OUT, ids=str)
def test_error_is_at_most_half_an_ulp(format: FloatFormat) -> None:
    """Independent of every rounding: y = k * ulp is nearest to 1/x iff |k*ulp*x - 1| <= ulp*x/2, in exact integers."""
    a = FP32.one + np.arange(1, 1 << 23, 13, dtype=np.int64)
    s, y = a & 0x7FFFFF | 1 << 23, reciprocal(a, format)
    assert np.all(y >> format.fraction_bits == format.bias - 1 + (y == format.one))
    k = np.where(
        y == format.one, 2 << format.fraction_bits, y & ((1 << format.fraction_bits) - 1) | 1 << format.fraction_bits
    )
    one = 1 << (23 + format.precision)  # 1/x = one / s, in ulp
    error = np.abs(k * s - one)
    assert np.all(2 * error <= s)
    print(f"{format}: largest error {np.max(error / s):.8f} ulp over {len(a)} significands")


def test_parameters_are_checked() -> None:
    with pytest.raises(ParameterError, match="bits_per_cycle must be 1, 2 or 4, not 3"):
        ReciprocalParams(bits_per_cycle=3)
    with pytest.raises(UnsupportedFormatError, match="reciprocal output format"):
        ReciprocalParams(format=FloatFormat(name="fp8", exponent_bits=5, fraction_bits=2))
