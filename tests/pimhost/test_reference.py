"""Reference attention in float64: against a plain loop, and against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pimhost.reference import reference_attention, relative_l2_error
from pimspec.errors import ParameterError


def looped(q, k, v, scale):
    output, lse = [], []
    for h, query in enumerate(q):
        kv = h // (len(q) // len(k))
        weights = [math.exp(scale * math.fsum(query * key)) for key in k[kv]]
        total = math.fsum(weights)
        output.append([math.fsum(w * x for w, x in zip(weights, column, strict=True)) / total for column in v[kv].T])
        lse.append(math.log(total))
    return np.array(output), np.array(lse)


@pytest.mark.parametrize(("heads", "kv_heads", "tokens"), [(1, 1, 1), (4, 4, 7), (9, 3, 33), (8, 1, 100)])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_attention_equals_a_plain_loop(heads, kv_heads, tokens, scale):
    rng = np.random.default_rng(tokens)
    q, k, v = (rng.normal(size=s) for s in ((heads, 16), (kv_heads, tokens, 16), (kv_heads, tokens, 16)))
    result = reference_attention(q, k, v, scale)
    output, lse = looped(q, k, v, scale or 0.25)
    np.testing.assert_allclose(result.output, output, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(result.lse, lse, rtol=1e-12, atol=1e-14)


def test_one_token_gives_its_v():
    v = np.arange(8.0).reshape(1, 1, 8)
    result = reference_attention(np.full((2, 8), 3.0), np.full((1, 1, 8), 2.0), v, 1.0)
    np.testing.assert_array_equal(result.output, [v[0, 0], v[0, 0]])
    np.testing.assert_array_equal(result.lse, [48.0, 48.0])


def test_large_scores_do_not_overflow():
    q, k = np.full((1, 4), 1e3), np.array([[[1e3] * 4, [0.0] * 4]])
    result = reference_attention(q, k, np.array([[[1.0] * 4, [2.0] * 4]]))
    np.testing.assert_array_equal(result.output, np.ones((1, 4)))


def test_float16_is_widened_first():
    q = k = np.full((1, 64), 60.0, np.float16)
    assert np.isfinite(reference_attention(q, k[None], k[None]).lse).all()


def test_relative_l2_error():
    expected = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    actual = np.array([[3.0, 4.5], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(relative_l2_error(actual, expected), [0.1, 0, 0, np.inf])
    assert np.isnan(relative_l2_error([np.nan], [1.0]))


@pytest.mark.parametrize(
    ("q", "k", "v", "text"),
    [
        ((4,), (1, 2, 4), (1, 2, 4), "q.shape must be (num_q_heads, head_dim)"),
        ((1, 4), (2, 4), (2, 4), "k.shape and v.shape must be equal"),
        ((1, 4), (1, 2, 4), (1, 3, 4), "k.shape and v.shape must be equal"),
        ((1, 4), (1, 0, 4), (1, 0, 4), "with 1 or more tokens"),
        ((3, 4), (2, 1, 4), (2, 1, 4), "q.shape must be (a multiple of 2, 4), not (3, 4)"),
        ((2, 8), (2, 1, 4), (2, 1, 4), "q.shape must be (a multiple of 2, 4), not (2, 8)"),
    ],
)
def test_shapes_that_do_not_match_are_refused(q, k, v, text):
    with pytest.raises(ParameterError) as caught:
        reference_attention(np.zeros(q), np.zeros(k), np.zeros(v))
    assert text in str(caught.value)
