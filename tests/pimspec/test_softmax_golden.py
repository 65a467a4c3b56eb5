"""Golden model of the softmax unit: against float32 of the host processor, the attention model, and float64."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.oracles import from_bits, to_bits
from pimspec.attention import AttentionOrder, score_scale_bits
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden import attention
from pimspec.golden.exp2 import exp2
from pimspec.golden.fp_mul import fp_mul
from pimspec.golden.merge import Partial, merge_all
from pimspec.golden.softmax import MINUS_INF, maximum_of, part_ends, softmax, widen

LANES = 4
CONTEXTS = (1, 2, 15, 16, 17, 1000)
SCALE = score_scale_bits(1 / 8)


def beats(values, lanes: int = LANES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, keep and last of one segment; the tail is filled with noise that must not count."""
    values = np.asarray(values, dtype=np.int64)
    num_beats = -(-len(values) // lanes)
    scores = np.full(num_beats * lanes, FP32.nan)
    scores[: len(values)] = values
    keep = (np.arange(num_beats * lanes) < len(values)).astype(np.int64)
    last = (np.arange(num_beats) == num_beats - 1).astype(np.int64)
    return scores.reshape(-1, lanes), keep.reshape(-1, lanes), last


def random_scores(count: int, seed: int, spread: float = 30.0) -> np.ndarray:
    return to_bits((np.random.default_rng(seed).normal(size=count) * spread).astype(np.float32))


def run(values, fmt=FP16, scale=SCALE, max_beats: int = 2048):
    return softmax(*beats(values), scale, fmt, max_beats)


def fp32(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@pytest.mark.parametrize("length", CONTEXTS)
def test_each_step_is_the_processors(length):
    """Multiply, maximum, subtract, narrow and sum in float32 and float16 of the processor, token by token."""
    values = random_scores(length, length)
    got = run(values)
    x = from_bits(values, FP32) * np.float32(from_bits(np.array(SCALE), FP32))
    m = x.max()
    p = from_bits(exp2(to_bits(x - m)), FP32).astype(np.float16)
    padded = np.concatenate([p.astype(np.float32), np.zeros(-length % LANES, np.float32)]).reshape(-1, LANES)
    total = None
    for beat in padded:
        term = (beat[0] + beat[1]) + (beat[2] + beat[3])
        total = term if total is None else total + term
    assert got.m.tolist() == [fp32(m)]
    assert got.l.tolist() == [fp32(total)]
    np.testing.assert_array_equal(got.probs.ravel()[:length], p.view(np.uint16))
    assert not got.probs.ravel()[length:].any()
    assert (got.more.tolist(), got.last.sum(), got.last[-1]) == ([0], 1, 1)


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("length", CONTEXTS)
def test_it_is_the_attention_models_softmax(length, fmt):
    values, order = random_scores(length, length + 1, 50.0), AttentionOrder(fmt=fmt)
    got = run(values, fmt)
    x = fp_mul(values, SCALE, FP32)
    p = attention.probabilities(x, attention.maximum_of(x), fmt)
    np.testing.assert_array_equal(got.probs.ravel()[:length], p)
    assert got.m[0] == attention.maximum_of(x)
    assert got.l[0] == attention.prob_sum(p, order)


def test_cut_parts_are_the_attention_models_segments():
    """Merging what the unit delivers for the parts of a long segment is what the attention model does with segments."""
    q, k, v = np.zeros((1, 4), np.int64), np.zeros((300, 4), np.int64), np.zeros((300, 4), np.int64)
    q[0, 0] = FP16.one
    k[:, 0] = from_bits(random_scores(300, 9, 50.0), FP32).astype(np.float16).view(np.uint16)
    got = run(widen(k[:, 0], FP16), max_beats=16)
    assert got.more.tolist() == [1, 1, 1, 1, 0]
    assert np.flatnonzero(got.last).tolist() == [15, 31, 47, 63, 74]
    total = merge_all(Partial(np.zeros(1, np.int64), *ml) for ml in zip(got.m, got.l, strict=True))
    want = attention.attention_partial(q, k, v, SCALE, AttentionOrder(segment_tokens=64))
    assert (int(total.m), int(total.l)) == (int(want.m[0]), int(want.l[0]))


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("length", [*CONTEXTS, 8192])
@pytest.mark.parametrize("spread", [3.0, 30.0, 300.0])
def test_error_against_float64(length, fmt, spread):
    """``p / l`` against the softmax of the scores.

    A probability is off by the rounding to `fmt` (half an ulp, 2**-precision relative or 2**(emin - precision)
    absolute below the normal numbers), exp2 (2**-14), and the roundings of x and x - m (ln 2 times 2**-24 of
    ``|x|``, ``|m|`` and ``|x - m|``). `l` is off by the same relative error, the absolute one of each term, and a
    rounding for each addition.
    """
    values = random_scores(length, length + int(spread), spread)
    got = run(values, fmt)
    p = from_bits(got.probs.ravel()[:length], fmt).astype(np.float64)
    total = float(from_bits(got.l, FP32)[0])
    x = from_bits(values, FP32).astype(np.float64) / 8 * np.log2(np.e)
    exact = np.exp2(x - x.max())
    want = exact / exact.sum()
    largest = np.abs(x).max()
    relative = 2.0**-fmt.precision + 2.0**-14 + np.log(2) * 2.0**-24 * 6 * largest
    tiny = 2.0 ** (fmt.emin - fmt.precision)
    sum_relative = relative + (length / LANES + 2) * 2.0**-24 + length * tiny / exact.sum()
    bound = want * 1.01 * (relative + sum_relative) + 1.01 * tiny / exact.sum()
    error = np.abs(p / total - want)
    assert (error <= bound).all()
    assert abs(total / exact.sum() - 1) <= 1.01 * sum_relative
    print(
        f"{fmt}, {length} tokens, spread {spread}: sum of |error| {error.sum():.2e}, l {total / exact.sum() - 1:+.2e}"
    )


def test_special_scores():
    inf, nan = FP32.inf, FP32.nan
    ones = [fp32(1.0)] * 7
    cases = (
        ([*ones, inf], nan, inf),  # inf - inf
        ([*ones, nan | 3], nan, nan),
        ([MINUS_INF] * 5, nan, MINUS_INF),  # -inf - -inf
        ([MINUS_INF, *ones], fp32(7.0), run(ones).m[0]),
        ([1 << 31, 0, 1 << 31], fp32(3.0), 0),  # maximum takes +0
        ([1 << 31] * 3, fp32(3.0), 1 << 31),
        ([fp32(3e38), fp32(-3e38)], fp32(1.0), None),
    )
    for values, total, m in cases:
        got = run(values, scale=fp32(1.0) if m in (0, 1 << 31) else SCALE)
        assert got.l[0] == total, values
        assert m is None or got.m[0] == m, values


@pytest.mark.parametrize("length", [1, 3, 4, 5, 1000, 2048 * 4])
def test_equal_scores_give_ones(length):
    got = run([fp32(-17.5)] * length)
    assert (got.probs.ravel()[:length] == FP16.one).all()
    assert got.l[0] == fp32(length)


def test_a_huge_spread_leaves_one_token():
    got = run([fp32(-1000.0), fp32(9000.0), fp32(8000.0)])
    assert got.probs.ravel().tolist() == [0, FP16.one, 0, 0]
    assert got.l[0] == fp32(1.0)


def test_tokens_not_kept_have_no_influence():
    values = random_scores(64, 5).reshape(-1, LANES)
    rng = np.random.default_rng(5)
    keep = rng.integers(0, 2, values.shape)
    last = (np.arange(16) == 15).astype(np.int64)
    got = softmax(values, keep, last, SCALE, FP16, 2048)
    other = softmax(np.where(keep, values, rng.integers(0, 1 << 32, values.shape)), keep, last, SCALE, FP16, 2048)
    for a, b in zip(got, other, strict=True):
        np.testing.assert_array_equal(a, b)
    assert got.m[0] == run(values[keep == 1]).m[0]
    nothing = softmax(values, keep * 0, last, SCALE, FP16, 2048)
    assert (nothing.m[0], nothing.l[0], nothing.probs.any()) == (MINUS_INF, 0, False)


def test_segments_are_independent_and_open_ones_are_not_answered():
    parts = [random_scores(n, n) for n in (5, 1, 18)]
    scores, keep, last = (np.concatenate(v) for v in zip(*map(beats, parts), strict=True))
    got = softmax(scores, keep, last, SCALE, FP16, 2048)
    for k, values in enumerate(parts):
        assert (got.m[k], got.l[k]) == (run(values).m[0], run(values).l[0])
    open_end = last.copy()
    open_end[-1] = 0
    cut = softmax(scores, keep, open_end, SCALE, FP16, 2048)
    assert (len(cut.m), len(cut.probs)) == (2, 3)


def test_part_ends_and_maximum():
    assert part_ends([0, 0, 0, 1, 0, 0, 1], 3).tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert maximum_of([]) == MINUS_INF
    assert maximum_of([1 << 31, 0]) == 0
    assert maximum_of([FP32.inf, FP32.nan | 1 << 31]) == FP32.nan


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
def test_widening_is_exact(fmt):
    bits = np.arange(1 << 16)
    bits = bits[(bits & 0x7FFF) <= fmt.inf]
    np.testing.assert_array_equal(widen(bits, fmt), to_bits(from_bits(bits, fmt)))
