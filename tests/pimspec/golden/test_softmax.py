"""Golden softmax unit: against the host processor's float32, the attention model, and float64."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.oracles import from_bits, to_bits
from pimspec.attention.shape import AttentionOrder, score_scale_bits
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden import attention
from pimspec.golden.exp2 import exp2
from pimspec.golden.merge import Partial, merge_all
from pimspec.golden.softmax import MINUS_INF, SoftmaxResults, softmax

LANES = 4
CONTEXTS = (1, 2, 15, 16, 17, 1000)
SCALE = score_scale_bits(1 / 8)


def random_scores(*shape: int, seed: int = 0, spread: float = 30.0) -> np.ndarray:
    return to_bits((np.random.default_rng(seed).normal(size=shape) * spread).astype(np.float32))


def run(values, format=FP16, scale=SCALE, lanes=LANES) -> SoftmaxResults:
    return softmax(values, scale, lanes, format)


def fp32(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@pytest.mark.parametrize("length", CONTEXTS)
def test_each_step_is_the_processors(length):
    """Multiply, maximum, subtract, narrow and sum in float32 and float16 of the processor, token by token."""
    values = random_scores(length, seed=length)
    got = run(values)
    x = from_bits(values, FP32) * np.float32(from_bits(np.array(SCALE), FP32))
    m = x.max()
    p = from_bits(exp2(to_bits(x - m)), FP32).astype(np.float16)
    padded = np.concatenate([p.astype(np.float32), np.zeros(-length % LANES, np.float32)]).reshape(-1, LANES)
    total = None
    for line in padded:
        term = (line[0] + line[1]) + (line[2] + line[3])
        total = term if total is None else total + term
    assert (int(got.m), int(got.l)) == (fp32(m), fp32(total))
    np.testing.assert_array_equal(got.probs, p.view(np.uint16))


@pytest.mark.parametrize("format", [FP16, BF16], ids=str)
@pytest.mark.parametrize("lanes", [2, 8])
def test_it_is_the_attention_models_softmax(lanes, format):
    """V = 0 and one dim of q and k that carries the score: m and l of the attention model, segment by segment."""
    order = AttentionOrder(format=format, prob_lanes=lanes, segment_tokens=64)
    k = np.zeros((300, 4), np.int64)
    q = np.zeros((3, 4), np.int64)
    q[:, 0] = [format.one, format.one | format.sign_mask, format.one - (1 << format.fraction_bits)]  # 1, -1, 1/2
    k[:, 0] = random_scores(300, seed=9, spread=50.0) >> 16
    k[:, 0] &= ~(1 << 14)  # small enough in either format
    scores = attention.scores(q, k, order)
    want = attention.attention_partial(q, k, np.zeros_like(k), SCALE, order)
    parts = [run(scores[:, t : t + 64], format, lanes=lanes) for t in range(0, 300, 64)]
    total = merge_all(Partial(np.zeros((3, 1), np.int64), part.m, part.l) for part in parts)
    np.testing.assert_array_equal(total.m, want.m)
    np.testing.assert_array_equal(total.l, want.l)
    one = run(scores, format, lanes=lanes)
    assert len(np.unique(one.probs)) > 10


@pytest.mark.parametrize("format", [FP16, BF16], ids=str)
@pytest.mark.parametrize("length", [*CONTEXTS, 8192])
@pytest.mark.parametrize("spread", [3.0, 30.0, 300.0])
def test_error_against_float64(length, format, spread):
    """``p / l`` against the softmax of the scores.

    A probability is off by the rounding to `format` (half an ulp, 2**-precision relative or 2**(emin - precision)
    absolute below the normal numbers), exp2 (2**-14), and the roundings of x and x - m (ln 2 times 2**-24 of ``|x|``,
    ``|m|`` and ``|x - m|``). `l` is off by the same relative error, the absolute one of each term, and a rounding for
    each addition.
    """
    values = random_scores(length, seed=length + int(spread), spread=spread)
    got = run(values, format)
    p = from_bits(got.probs, format).astype(np.float64)
    total = float(from_bits(got.l, FP32))
    x = from_bits(values, FP32).astype(np.float64) / 8 * np.log2(np.e)
    exact = np.exp2(x - x.max())
    want = exact / exact.sum()
    largest = np.abs(x).max()
    relative = 2.0**-format.precision + 2.0**-14 + np.log(2) * 2.0**-24 * 6 * largest
    tiny = 2.0 ** (format.emin - format.precision)
    sum_relative = relative + (length / LANES + 2) * 2.0**-24 + length * tiny / exact.sum()
    bound = want * 1.01 * (relative + sum_relative) + 1.01 * tiny / exact.sum()
    error = np.abs(p / total - want)
    assert (error <= bound).all()
    assert abs(total / exact.sum() - 1) <= 1.01 * sum_relative
    print(
        f"{format}, {length} tokens, spread {spread}: sum |error| {error.sum():.2e}, l {total / exact.sum() - 1:+.2e}"
    )


def test_special_scores():
    inf, nan = FP32.inf, FP32.nan
    ones = [fp32(1.0)] * 7
    cases = (
        ([*ones, inf], nan, inf),  # inf - inf
        ([*ones, nan | 3], nan, nan),
        ([*ones, nan | 3 | FP32.sign_mask], nan, nan),
        ([MINUS_INF] * 5, nan, MINUS_INF),  # -inf - -inf
        ([MINUS_INF, *ones], fp32(7.0), int(run(ones).m)),
        ([1 << 31, 0, 1 << 31], fp32(3.0), 0),  # maximum takes +0
        ([1 << 31] * 3, fp32(3.0), 1 << 31),
        ([fp32(3e38), fp32(-3e38)], fp32(1.0), None),
    )
    for values, total, m in cases:
        got = run(values, scale=fp32(1.0) if m in (0, 1 << 31) else SCALE)
        assert got.l == total, values
        assert m is None or got.m == m, values


@pytest.mark.parametrize("length", [1, 3, 4, 5, 1000, 2048 * 4])
def test_equal_scores_give_ones(length):
    got = run([fp32(-17.5)] * length)
    assert (got.probs == FP16.one).all()
    assert got.l == fp32(length)


def test_a_huge_spread_leaves_one_token():
    got = run([fp32(-1000.0), fp32(9000.0), fp32(8000.0)])
    assert got.probs.tolist() == [0, FP16.one, 0]
    assert got.l == fp32(1.0)


def test_tokens_not_kept_have_no_influence():
    values, rng = random_scores(3, 64, seed=5), np.random.default_rng(5)
    keep = rng.integers(0, 2, values.shape)
    got = softmax(values, SCALE, LANES, FP16, keep)
    other = softmax(np.where(keep, values, rng.integers(0, 1 << 32, values.shape)), SCALE, LANES, FP16, keep)
    for a, b in zip(got, other, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [int(v) for v in got.m] == [int(run(v[k == 1]).m) for v, k in zip(values, keep, strict=True)]
    tail = (np.arange(64) < 50) * np.ones((3, 1), np.int64)
    for a, b in zip(softmax(values, SCALE, LANES, FP16, tail)[1:], run(values[:, :50])[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    nothing = softmax(values, SCALE, LANES, FP16, keep * 0)
    assert (nothing.m == MINUS_INF).all()
    assert not nothing.l.any()
    assert not nothing.probs.any()


def test_queries_are_independent_and_have_their_own_scale():
    values, scales = random_scores(2, 3, 21, seed=7), np.array([SCALE, fp32(1.0), fp32(-0.25)])
    got = softmax(values, scales, LANES, FP16)
    assert [v.shape for v in got] == [(2, 3, 21), (2, 3), (2, 3)]
    for n in np.ndindex(2, 3):
        for a, b in zip(got, run(values[n], scale=int(scales[n[1]])), strict=True):
            np.testing.assert_array_equal(a[n], b)


def test_the_order_of_lines_matters_and_of_the_maximum_does_not():
    values = random_scores(1000, seed=3)
    got, turned = run(values), run(values[::-1])
    assert got.m == turned.m
    np.testing.assert_array_equal(got.probs, turned.probs[::-1])
    assert got.l != turned.l
