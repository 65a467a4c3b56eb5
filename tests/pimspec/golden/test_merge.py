"""Golden merge: float32 oracle, special cases, and invariance to the split of the tokens."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from pimhost.reference import reference_attention, relative_l2_error
from pimsim.oracles import from_bits, to_bits
from pimsim.stimulus import corners, random_numbers
from pimspec.attention.shape import AttentionOrder, score_scale_bits
from pimspec.errors import ParameterError
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden.attention import attention_partial
from pimspec.golden.exp2 import exp2
from pimspec.golden.merge import Partial, empty_partial, log_sum_exp, merge, merge_all, normalise, weight

f32 = np.float32
MINUS_INF = FP32.inf | FP32.sign_mask


def bits(*values):
    return np.array(values, f32).view(np.uint32).astype(np.int64)


def random_partial(rng, count=1000, dims=8):
    o = to_bits((rng.normal(size=(count, dims)) * 30).astype(f32))
    return Partial(
        o, to_bits((rng.normal(size=count) * 8).astype(f32)), to_bits((rng.random(count) * 500 + 1).astype(f32))
    )


def oracle(a, b):
    o1, m1, l1, o2, m2, l2 = (from_bits(x, FP32) for x in (*a, *b))
    with np.errstate(all="ignore"):
        m = np.maximum(m1, m2)
        # exp2 is the unit's own table.
        w1, w2 = (np.where(x == m, f32(1), from_bits(exp2(to_bits(x - m)), FP32)) for x in (m1, m2))
        return Partial(*map(to_bits, (o1 * w1[:, None] + o2 * w2[:, None], m, l1 * w1 + l2 * w2)))


def same(a, b, text=""):
    for got, want in zip(a, b, strict=True):
        np.testing.assert_array_equal(got, want, text)


def test_random(count_vectors):
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = random_partial(rng), random_partial(rng)
        same(merge(a, b), oracle(a, b))
        same(merge(a, b), merge(b, a), "symmetric")
    count_vectors("golden merge: vectors of 8", 20_000)


def test_corner_values_in_every_place():
    """Zeros of both signs, subnormals, infinities, NaNs. np.maximum leaves the sign of a zero open; ours is +0."""
    rng = np.random.default_rng(1)
    special = corners(FP32)
    for _ in range(50):
        a, b = random_partial(rng, 400), random_partial(rng, 400)
        a, b = (
            Partial(*(np.where(rng.random(x.shape) < 0.2, rng.choice(special, x.shape), x) for x in part))
            for part in (a, b)
        )
        got, want = merge(a, b), oracle(a, b)
        zero = (got.m | FP32.sign_mask) == FP32.sign_mask
        same((got.o, np.where(zero, 0, got.m), got.l), (want.o, np.where(zero, 0, want.m), want.l))


def test_two_empty_results_merge_into_an_empty_one():
    empty = empty_partial((3,), 4)
    same(merge(empty, empty), empty)
    assert (empty.m == MINUS_INF).all()


def test_an_empty_result_changes_nothing():
    part = random_partial(np.random.default_rng(2), 100)
    empty = empty_partial((100,), 8)
    same(merge(empty, part), part)
    same(merge(part, empty), part)


def test_equal_maxima_have_weight_one():
    m = bits(0.0, -0.0, 3.5, -np.inf, np.inf, 1e-45)
    assert (weight(m, m) == FP32.one).all()
    assert (weight(bits(-0.0), bits(0.0)) == FP32.one).all()
    assert (weight(bits(-np.inf), bits(2.0)) == 0).all()
    assert (weight(bits(1.0), bits(np.nan)) == FP32.nan).all()


def test_nan_in_a_maximum_spoils_everything():
    a, b = random_partial(np.random.default_rng(3), 1), random_partial(np.random.default_rng(4), 1)
    out = merge(a._replace(m=np.array([FP32.nan])), b)
    assert all((x == FP32.nan).all() for x in out)


def test_weights_of_far_maxima_vanish():
    a = Partial(bits(1.0, 2.0)[None], bits(0.0), bits(1.0))
    b = Partial(bits(5.0, 6.0)[None], bits(200.0), bits(3.0))
    same(merge(a, b), b)


def test_any_split_of_the_tokens_gives_attention():
    """Cut at random places, merged from the left: within the error of one partial of the whole."""
    rng = np.random.default_rng(5)
    tokens, dims = 600, 64
    q, k, v = (rng.normal(size=s).astype(np.float16) for s in ((3, dims), (tokens, dims), (tokens, dims)))
    q *= np.float16(2)
    expected = reference_attention(q, k[None], v[None])
    for _ in range(10):
        cuts = [0, *sorted(rng.integers(0, tokens, 5)), tokens]
        parts = [
            attention_partial(q, k[a:b], v[a:b], score_scale_bits(dims**-0.5), AttentionOrder())
            for a, b in itertools.pairwise(cuts)
        ]
        whole = merge_all(parts)
        error = relative_l2_error(from_bits(normalise(whole), FP32), expected.output)
        assert error.max() < 1e-3
        np.testing.assert_allclose(log_sum_exp(whole), expected.lse, atol=2e-4)


def test_fold_goes_from_left_to_right():
    rng = np.random.default_rng(6)
    a, b, c = (random_partial(rng) for _ in range(3))
    same(merge_all([a, b, c]), merge(merge(a, b), c))
    same(merge_all([a]), a)
    with pytest.raises(ParameterError, match="at least one result"):
        merge_all([])


@pytest.mark.parametrize("format", [FP32, FP16, BF16], ids=str)
def test_normalise(format):
    rng = np.random.default_rng(7)
    part = random_partial(rng)
    special = random_numbers(rng, part.o.size, FP32).reshape(part.o.shape)
    part = part._replace(o=np.where(rng.random(part.o.shape) < 0.3, special, part.o))
    o, total = from_bits(part.o, FP32), from_bits(part.l, FP32)
    with np.errstate(all="ignore"):
        y = o * (f32(1) / total)[:, None]
        want = y if format == FP32 else y.astype(np.float16 if format == FP16 else ml_dtypes.bfloat16)
    np.testing.assert_array_equal(normalise(part, format), to_bits(want, format))


def test_an_empty_result_normalises_to_nan():
    assert (normalise(empty_partial((2,), 4)) == FP32.nan).all()
    assert (log_sum_exp(empty_partial((2,), 4)) == -np.inf).all()
