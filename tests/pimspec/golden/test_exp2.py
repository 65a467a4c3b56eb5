"""Golden exp2: error, exactness and order, against gmpy2 and the processor's float64."""

from __future__ import annotations

import gmpy2
import numpy as np

from pimsim.oracles import from_bits
from pimsim.stimulus import stimulus
from pimspec.formats import FP32
from pimspec.golden.exp2 import exp2, fraction_power
from pimspec.golden.exp2_table import FRACTION_BITS, INTERCEPT, OUTPUT_BITS, SLOPE, make_table
from pimspec.params.arith import Exp2Params

CHUNK = 1 << 20
BOUND = 2.0**-14
GRID = np.arange(1 << FRACTION_BITS)


def bits_of(values) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.int64)


def check_against_float64(a) -> float:
    """All results for patterns `a`; returns the largest relative error of a normal result."""
    with np.errstate(all="ignore"):
        x, y = from_bits(a, FP32).astype(np.float64), from_bits(exp2(a), FP32).astype(np.float64)
        exact = np.exp2(x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    number = ~np.isnan(x)
    big, normal = number & (x >= 128), number & (x >= -126) & (x < 128)
    tiny = number & (x < -126)
    assert np.isinf(y[big]).all()
    # Near 128 the result may round up only to the next power of two, which is infinity.
    top = normal & (x >= 128 - 2.0**-14)
    error = np.abs(y[normal & ~top] / exact[normal & ~top] - 1)
    # Subnormal results: half a unit of 2**-149 more; around 2**-126 the operand may round to the integer.
    assert (np.abs(y[tiny] - exact[tiny]) <= 0.5 * 2.0**-149 * (1 + 1e-9) + BOUND * exact[tiny]).all()
    return float(error.max()) if error.size else 0.0


def test_tables_are_what_their_definition_gives():
    assert make_table() == (INTERCEPT, SLOPE)


def test_core_on_its_whole_grid_against_gmpy2(count_vectors):
    core = fraction_power(GRID)
    with gmpy2.context(precision=100):
        step = gmpy2.exp2(gmpy2.mpfr(1) / (1 << FRACTION_BITS))
        worst = exact = gmpy2.mpfr(0)
        for k in GRID:
            exact = gmpy2.exp2(gmpy2.mpfr(int(k)) / (1 << FRACTION_BITS))
            worst = max(worst, abs((1 + gmpy2.mpfr(int(core[k])) / (1 << OUTPUT_BITS)) / exact - 1))
        # Plus half a step of the operand: the bound for every FP32 number, not only for those on the grid.
        worst += gmpy2.sqrt(step) - 1
    print(f"largest relative error over all numbers: 2**{float(gmpy2.log2(worst)):.3f}")
    assert worst <= BOUND
    assert core[0] == 0
    assert (np.diff(core) >= 0).all()
    assert core[-1] < 1 << OUTPUT_BITS
    count_vectors("golden exp2: whole core grid against gmpy2", len(GRID))


def test_random_and_corners(count_vectors):
    worst = max(check_against_float64(stimulus(Exp2Params(), CHUNK, seed)["a"]) for seed in range(10))
    print(f"largest relative error seen: 2**{np.log2(worst):.3f}")
    assert worst <= BOUND
    count_vectors("golden exp2: seeded + corners", 10 * CHUNK)


def test_softmax_range_densely(count_vectors):
    rng = np.random.default_rng(3)
    for low, high in ((-1, 0), (-16, 0), (-150, 128)):
        assert check_against_float64(bits_of(rng.uniform(low, high, CHUNK))) <= BOUND
    count_vectors("golden exp2: uniform in softmax range", 3 * CHUNK)


def test_exact_at_every_integer():
    integers = np.arange(-149, 128)
    np.testing.assert_array_equal(exp2(bits_of(integers)), bits_of(np.ldexp(np.ones(len(integers)), integers)))
    np.testing.assert_array_equal(exp2([0, 0x80000000]), [FP32.one, FP32.one])


def test_operand_is_rounded_to_the_grid_halves_away_from_zero():
    step = 2.0**-FRACTION_BITS
    k = np.arange(1, 3 << FRACTION_BITS, 37)
    for sign in (1, -1):
        on_grid = exp2(bits_of(sign * k * step))
        np.testing.assert_array_equal(exp2(bits_of(sign * (k - 0.5) * step)), on_grid)
        np.testing.assert_array_equal(exp2(bits_of(sign * (k + 0.4375) * step)), on_grid)


def test_ends_of_the_range():
    assert exp2(bits_of([128.0, 127.99999, 255.0, 256.0, 1e30, np.inf])).tolist()[0] == FP32.inf
    assert (exp2(bits_of([128.0, 255.0, 256.0, 1e30, np.inf])) == FP32.inf).all()
    assert (exp2(bits_of([-151.0, -256.0, -1e30, -np.inf])) == 0).all()
    assert exp2(bits_of([-150.0])) == 0  # a tie between 0 and 2**-149 goes to even
    assert exp2(bits_of([-149.75])) == 1
    assert exp2([FP32.nan | 5]) == FP32.nan


def test_non_decreasing_over_the_line(count_vectors):
    """All numbers in order on a stride, and the neighbours of points where the rounding of the operand changes."""
    positive = np.arange(0, FP32.inf + 1, 389)
    line = np.concatenate([-positive[::-1] - 1, positive])  # as ordered keys
    bits = np.where(line < 0, (-line - 1) | FP32.sign_mask, line)
    values = from_bits(exp2(bits), FP32)
    assert (values[1:] >= values[:-1]).all()
    edges = np.arange(-151 << 6, 129 << 6).astype(np.float64) / 64 + 2.0**-15
    keys = bits_of(np.concatenate([edges, edges - 2.0**-15]))
    around = (keys[:, None] + np.arange(-3, 4)).clip(0, (1 << 32) - 1)
    x = from_bits(around, FP32)
    order = np.argsort(x, axis=1)
    y = from_bits(exp2(around), FP32)
    y = np.take_along_axis(y, order, axis=1)
    assert (y[:, 1:] >= y[:, :-1]).all()
    count_vectors("golden exp2: monotonic sweep", len(bits) + around.size)
