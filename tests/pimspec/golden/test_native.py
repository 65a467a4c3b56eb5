"""Fast golden attention in the processor's float32 against the one in integers, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from pimspec.attention.shape import AttentionOrder, AttentionShape
from pimspec.formats import BF16, FP16
from pimspec.golden.attention import attention_partial
from pimspec.golden.native import fast_attention_partial
from pimspec.params.presets import PRESETS

SHAPE = AttentionShape(num_q_heads=9, num_kv_heads=3, head_dim=64)
SCALE = SHAPE.scale_bits
ORDERS = {
    "tiny": PRESETS["tiny"].rank.for_shape(SHAPE).attention_order(),
    "ddr4": PRESETS["ddr4-3200-x8-8gb"].rank.for_shape(SHAPE).attention_order(),
    "split vectors": AttentionOrder(vector_chips=4, token_chips=2, token_banks=4, segment_tokens=32, prob_lanes=2),
    "bf16": AttentionOrder(format=BF16, segment_tokens=64),
}


def check(count_vectors, q, k, v, order, text):
    expected, actual = (f(q, k, v, SCALE, order) for f in (attention_partial, fast_attention_partial))
    for name, a, e in zip("oml", actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, f"{name}, {text}")
    count_vectors("golden attention in float32 against integers, outputs", expected.o.size)


def patterns(rng, shape, format):
    """Bit patterns of values about 1; or, in every tenth place, of anything finite."""
    values = rng.standard_normal(shape)
    if format == FP16:
        near = values.astype(np.float16).view(np.uint16)
    else:
        near = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    anything = rng.integers(0, format.inf, shape, dtype=np.uint16) | (rng.integers(0, 2, shape, dtype=np.uint16) << 15)
    return np.where(rng.random(shape) < 0.1, anything, near)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 33, 300])
def test_finite_values(name, tokens, count_vectors):
    order, rng = ORDERS[name], np.random.default_rng([tokens, len(name)])
    for near in (True, False):
        q, k, v = (rng.standard_normal(s).astype(np.float16) for s in ((3, 3, 64), (3, tokens, 64), (3, tokens, 64)))
        if not near or order.format != FP16:
            q, k, v = (patterns(rng, x.shape, order.format) for x in (q, k, v))
        check(count_vectors, q, k, v, order, f"{name}, {tokens} tokens, near {near}")


@pytest.mark.parametrize("name", ORDERS)
def test_subnormal_values(name, count_vectors):
    order, rng = ORDERS[name], np.random.default_rng(1)
    q, k, v = (rng.integers(0, 1 << order.format.fraction_bits, (2, 37, 64), dtype=np.uint16) for _ in "qkv")
    check(count_vectors, q[:, :3], k, v, order, name)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("special", ["nan", "-inf", "inf"])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_special_values(name, special, where, count_vectors):
    order, rng = ORDERS[name], np.random.default_rng(2)
    arrays = {x: patterns(rng, (1, 20, 64), order.format) for x in "qkv"}
    bits = {"nan": order.format.nan | 1, "inf": order.format.inf, "-inf": order.format.inf | order.format.sign_mask}[
        special
    ]
    arrays[where][0, :2, 5] = bits
    check(count_vectors, arrays["q"][:, :3], arrays["k"], arrays["v"], order, f"{name}, {special} in {where}")


def test_no_tokens():
    empty = np.empty((1, 0, 64), np.float16)
    part = fast_attention_partial(np.ones((1, 1, 64), np.float16), empty, empty, SCALE, ORDERS["ddr4"])
    assert (part.l.tolist(), part.m.tolist()) == ([[0]], [[0xFF800000]])
