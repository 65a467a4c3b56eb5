"""Golden attention: bit for bit against scalar float32 arithmetic, and its error against float64."""

from __future__ import annotations

import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from pimhost.reference import reference_attention, relative_l2_error
from pimsim.oracles import from_bits, to_bits
from pimspec.attention.shape import (
    TOKEN_PER_CHIP,
    AttentionOrder,
    AttentionShape,
    KvMapping,
    SideBySide,
    attention_order,
    score_scale_bits,
)
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden.attention import attention_partial, decode_attention
from pimspec.golden.exp2 import exp2
from pimspec.golden.merge import log_sum_exp, merge_all, normalise

DDR4 = dram_preset("ddr4-3200-x8-8gb").organization
SLICE = Path(__file__).parents[2] / "data" / "smollm2_slice.npz"
FULL = Path(__file__).parents[3].parent / "shared" / "data" / "smollm2_qkv_declaration.npz"
MAX_ERROR, MEDIAN_ERROR = 1e-3, 2e-4
SMOL = AttentionShape(num_q_heads=9, num_kv_heads=3, head_dim=64)
f32 = np.float32


def tree(terms):
    return terms[0] if len(terms) == 1 else tree([a + b for a, b in zip(terms[0::2], terms[1::2], strict=True)])


def running(terms, join=lambda a, b: a + b):
    total = terms[0]
    for term in terms[1:]:
        total = join(total, term)
    return total


def exp2_of(x):
    """Golden exp2, also in the oracle: no processor has the unit's table."""
    return from_bits(exp2(to_bits(np.array([x], f32))), FP32)[0]


def segment_oracle(q, k, v, scale, order):
    """One query (d,), one segment; plain float32 scalars, loops in the order that the contract states."""
    tokens, dims = k.shape
    part, lanes = dims // order.vector_chips, order.lanes

    def score(t):
        products = q * k[t]
        chips = products.reshape(order.vector_chips, part // lanes, lanes)
        return tree([running([tree(list(step)) for step in chip]) for chip in chips])

    x = [score(t) * scale for t in range(tokens)]
    m = running(x, np.maximum)
    narrow = np.float16 if order.format == FP16 else ml_dtypes.bfloat16
    p = [exp2_of(e - m).astype(narrow).astype(f32) for e in x]
    padded = p + [f32(0)] * (-tokens % order.prob_lanes)
    total = running([tree(padded[i : i + order.prob_lanes]) for i in range(0, len(padded), order.prob_lanes)])
    o = []
    for dim in range(dims):
        chips = []
        for chip in range(order.token_chips):
            banks = []
            for bank in range(order.token_banks):
                mine = range(chip + order.token_chips * bank, tokens, order.token_ways)
                banks.append(running([p[t] * v[t, dim] for t in mine]) if mine else f32(0))
            chips.append(tree(banks))
        o.append(tree(chips))
    return np.array(o, f32), m, total


def merge_oracle(a, b):
    m = np.maximum(a[1], b[1])
    wa, wb = (f32(1) if x == m else exp2_of(x - m) for x in (a[1], b[1]))
    return a[0] * wa + b[0] * wb, m, a[2] * wa + b[2] * wb


def oracle(q, k, v, scale_bits, order):
    with np.errstate(all="ignore"):
        values = [from_bits(np.asarray(x, np.int64), order.format) for x in (q, k, v)]
        scale = from_bits(np.array([scale_bits]), FP32)[0]
        n = order.segment_tokens
        parts = [
            segment_oracle(values[0], values[1][i : i + n], values[2][i : i + n], scale, order)
            for i in range(0, len(k), n)
        ]
        o, m, total = running(parts, merge_oracle)
        return o, m, total, o * (f32(1) / total)


def bits_of(values, format):
    if format == BF16:
        return np.asarray(values, ml_dtypes.bfloat16).view(np.uint16)
    return np.asarray(values, np.float16).view(np.uint16)


def synthetic(shape, tokens, seed, score_std):
    """White q, k, v whose scaled scores have the given standard deviation; in the recording it is 1.1 to 3.0."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(shape.num_q_heads, shape.head_dim)) * score_std
    k, v = (rng.normal(size=(shape.num_kv_heads, tokens, shape.head_dim)) for _ in range(2))
    return tuple(bits_of(x, shape.format) for x in (q, k, v))


def values_of(bits, format):
    return from_bits(np.asarray(bits, np.int64), format)


def errors_of(q, k, v, shape, order):
    output = values_of(decode_attention(q, k, v, shape.scale_bits, order), FP32)
    expected = reference_attention(*(values_of(x, shape.format) for x in (q, k, v)), shape.scale).output
    return relative_l2_error(output, expected)


def check_bounds(errors, what, median=MEDIAN_ERROR):
    text = f"{what}: relative L2 error max {errors.max():.2e}, median {np.median(errors):.2e}"
    print(text)
    assert errors.max() <= MAX_ERROR, text
    assert np.median(errors) <= median, text


ORDERS = {
    "token-per-chip": AttentionOrder(),
    "tiny": AttentionOrder(lanes=4, token_chips=2, segment_tokens=16),
    "8-chip-vectors": AttentionOrder(vector_chips=8, token_chips=1, token_banks=4, lanes=4),
    "2-chip-vectors": AttentionOrder(vector_chips=2, token_chips=4, token_banks=4, segment_tokens=16),
    "ddr5": AttentionOrder(lanes=8, token_chips=4, token_banks=2, segment_tokens=8),
    "bf16": AttentionOrder(format=BF16, token_chips=4, segment_tokens=32),
    "one-of-each": AttentionOrder(lanes=1, token_chips=1, segment_tokens=4, prob_lanes=2),
}


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 50])
@pytest.mark.parametrize("name", ORDERS)
def test_every_bit_equals_scalar_float32(name, tokens, count_vectors):
    order = ORDERS[name]
    shape = AttentionShape(num_q_heads=6, num_kv_heads=2, head_dim=32, format=order.format)
    q, k, v = synthetic(shape, tokens, seed=tokens, score_std=3)
    k[0, tokens // 2] = q[0]  # a token that dominates, so that others underflow
    partial = attention_partial(q.reshape(2, 3, 32), k, v, shape.scale_bits, order)
    output = normalise(partial)
    for head in range(6):
        h = divmod(head, 3)
        o, m, total, y = oracle(q[head], k[h[0]], v[h[0]], shape.scale_bits, order)
        for got, want in ((partial.o, o), (partial.m, m), (partial.l, total), (output, y)):
            np.testing.assert_array_equal(got[h], to_bits(np.asarray(want, f32)), f"head {head}")
    count_vectors("golden attention: heads", 6)


def test_special_values():
    """Infinities, NaNs, subnormals and zeros anywhere: still the oracle's bits."""
    rng = np.random.default_rng(7)
    order, scale = AttentionOrder(token_chips=2, segment_tokens=8), score_scale_bits(0.25)
    special = np.array([0, 0x8000, 1, 0x8001, 0x3FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], np.uint16)
    for _ in range(60):
        arrays = []
        for shape in ((1, 16), (11, 16), (11, 16)):
            x = (rng.normal(size=shape) * 4).astype(np.float16).view(np.uint16)
            hit = rng.random(shape) < rng.choice([0, 0.01, 0.1])
            arrays.append(np.where(hit, rng.choice(special, shape), x))
        q, k, v = arrays
        got = attention_partial(q, k, v, scale, order)
        o, m, total, y = oracle(q[0], k, v, scale, order)
        for ours, theirs in ((got.o, o), (got.m, m), (got.l, total), (normalise(got), y)):
            np.testing.assert_array_equal(ours[0], to_bits(np.asarray(theirs, f32)))


def test_infinite_v_stays_in_its_dim():
    v = np.full((4, 16), 0x3C00)
    v[2, 5] = FP16.inf
    out = normalise(attention_partial(np.zeros((1, 16), int), np.zeros((4, 16), int), v, 1, AttentionOrder()))
    assert out[0, 5] == FP32.inf
    assert (np.delete(out[0], 5) == FP32.one).all()


def test_segments_are_those_of_a_plain_merge():
    order = AttentionOrder(segment_tokens=64)
    q, k, v = synthetic(SMOL, 300, seed=1, score_std=2)
    q = q.reshape(3, 3, 64)
    whole = attention_partial(q, k, v, SMOL.scale_bits, order)
    cuts = [slice(i, i + 64) for i in range(0, 300, 64)]
    parts = [attention_partial(q, k[:, c], v[:, c], SMOL.scale_bits, AttentionOrder()) for c in cuts]
    for got, want in zip(whole, merge_all(parts), strict=True):
        np.testing.assert_array_equal(got, want)
    lse = reference_attention(*(values_of(x, FP16) for x in (q.reshape(9, 64), k, v))).lse
    np.testing.assert_allclose(log_sum_exp(whole).ravel(), lse, atol=2e-4)


def test_no_tokens_give_the_empty_result():
    partial = attention_partial(
        np.zeros((2, 16), int), np.zeros((0, 16), int), np.zeros((0, 16), int), 1, ORDERS["tiny"]
    )
    assert not partial.o.any()
    assert not partial.l.any()
    assert (partial.m == 0xFF800000).all()


def test_float16_values_and_narrow_output():
    q, k, v = synthetic(SMOL, 20, seed=3, score_std=2)
    order = AttentionOrder()
    wide = decode_attention(q, k, v, SMOL.scale_bits, order)
    narrow = decode_attention(*(x.view(np.float16) for x in (q, k, v)), SMOL.scale_bits, order, format=FP16)
    np.testing.assert_array_equal(narrow, to_bits(values_of(wide, FP32).astype(np.float16), FP16))


@pytest.mark.parametrize(
    ("q", "kv", "text"),
    [
        ((2, 16), (3, 5, 32), "(num_q_heads, head_dim)"),
        ((3, 16), (3, 5, 32), "equal and a multiple of 4"),
        ((3, 18), (3, 5, 18), "equal and a multiple of 4"),
    ],
)
def test_shapes_that_do_not_match_are_refused(q, kv, text):
    with pytest.raises(ParameterError) as caught:
        decode_attention(np.zeros(q, int), np.zeros(kv, int), np.zeros(kv, int), 1, AttentionOrder())
    assert text in str(caught.value)


def test_values_that_are_no_bit_patterns_are_refused():
    with pytest.raises(ParameterError, match=r"q.dtype must be an integer type \(fp16 bits\), not 'float64'"):
        attention_partial(np.zeros((1, 16)), np.zeros((1, 16), int), np.zeros((1, 16), int), 1, AttentionOrder())


MAPPINGS = [KvMapping(chips_per_vector=n, side_by_side=side) for n in (1, 2, 4, 8) for side in SideBySide]


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda m: m.name)
def test_real_slice(mapping):
    shape = AttentionShape(num_q_heads=3, num_kv_heads=1, head_dim=64)
    order = attention_order(shape, mapping, DDR4)
    with np.load(SLICE) as data:
        k, v, queries = data["K10"], data["V10"], data["Q10"]
    errors = []
    for i, q in enumerate(queries):
        seen = k.shape[1] - len(queries) + i + 1
        errors.append(errors_of(*(x.view(np.uint16) for x in (q, k[:, :seen], v[:, :seen])), shape, order))
    check_bounds(np.array(errors), f"slice, {mapping.name}")


def real_errors(layer, steps):
    if not FULL.exists():
        pytest.skip("the full recording of real Q, K and V is not beside this checkout")
    order = attention_order(SMOL, TOKEN_PER_CHIP, DDR4)
    with np.load(FULL) as data:
        k, v, queries = (data[f"{x}{layer}"].view(np.uint16) for x in "KVQ")
    first = k.shape[1] - len(queries) + 1
    return np.array([errors_of(queries[i], k[:, : first + i], v[:, : first + i], SMOL, order) for i in steps])


@pytest.mark.parametrize("layer", [0, 5, 10, 15, 20, 29])
def test_real_layers(layer):
    check_bounds(real_errors(layer, range(0, 96, 48)), f"layer {layer}")


@pytest.mark.slow
def test_real_data_all():
    """Every layer, step and head."""
    errors = []
    for layer in (0, 5, 10, 15, 20, 29):
        errors.append(real_errors(layer, range(96)))
        check_bounds(errors[-1], f"layer {layer}")
    check_bounds(np.array(errors), "all layers, steps, heads")


SHAPES = {"mha-128": (4, 4, 128), "gqa-4": (8, 2, 128), "gqa-8": (8, 1, 128), "gqa-3": (9, 3, 64)}


def synthetic_errors(name, tokens, score_std, seeds=1, format=FP16):
    counts = dict(zip(("num_q_heads", "num_kv_heads", "head_dim"), SHAPES[name], strict=True))
    shape = AttentionShape(**counts, format=format)
    order = attention_order(shape, TOKEN_PER_CHIP, DDR4)
    return np.array([errors_of(*synthetic(shape, tokens, s, score_std), shape, order) for s in range(seeds)])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("tokens", "seeds"), [(1, 4), (2, 4), (15, 4), (16, 4), (17, 4), (1024, 2), (8192, 1)])
def test_synthetic_shapes(name, tokens, seeds):
    check_bounds(synthetic_errors(name, tokens, 2.5, seeds), f"{name}, {tokens} tokens")


def test_flat_scores():
    """The worst case for probabilities of 11 bits: no token dominates and the V vectors cancel.

    A probability is rounded by an error of 2**-11 / sqrt(3) rms at 1, relative to a significand that is log-uniform in
    [1, 2): 2.07e-4, and nothing averages out, so 2e-4 cannot be kept. In the recording V does not cancel (6e-5).
    """
    check_bounds(synthetic_errors("gqa-8", 4096, 1.0, 2), "flat scores", median=2.0**-12)


def test_bf16():
    """Probabilities of 8 bits: eight times the error of FP16's 11, so the bounds of FP16 do not hold."""
    errors = synthetic_errors("gqa-8", 1024, 2.5, seeds=2, format=BF16)
    assert errors.max() <= 8 * MAX_ERROR
    assert np.median(errors) <= 8 * MEDIAN_ERROR


@pytest.mark.slow
def test_128k_tokens():
    start = time.process_time()
    errors = synthetic_errors("gqa-8", 131_072, 2.5)
    print(f"{time.process_time() - start:.0f} s of processor time")
    check_bounds(errors, "gqa-8, 128K tokens")


def test_scale_bits():
    assert score_scale_bits(1.0) == int(np.float32(np.log2(np.e)).view(np.uint32))
    for scale in (64**-0.5, 128**-0.5, 0.1, 1e-30, 3e30):
        exact = np.longdouble(scale) * np.log2(np.exp(np.longdouble(1)))
        assert score_scale_bits(scale) == int(np.float32(exact).view(np.uint32))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_q_heads": 10}, "num_q_heads must be a multiple of num_kv_heads (3), not 10"),
        ({"num_kv_heads": 0}, "num_kv_heads must be 1 or more, not 0"),
        ({"num_q_heads": 27}, "num_q_heads / num_kv_heads must be 1..8, not 9"),
        ({"head_dim": 96}, "head_dim must be a power of two in 16..256, not 96"),
        ({"softmax_scale": -1.0}, "softmax_scale must be positive and finite, not -1.0"),
        ({"softmax_scale": 1e-40}, "softmax_scale must be a normal FP32 number, not 1e-40"),
        ({"format": FP32}, "format must be one of fp16, bf16, not fp32"),
    ],
)
def test_shapes_that_are_refused(change, text):
    with pytest.raises(ParameterError) as caught:
        AttentionShape(**{"num_q_heads": 9, "num_kv_heads": 3, "head_dim": 64, **change})
    assert text in str(caught.value)


def test_counts():
    assert SMOL.gqa_group_size == 3
    assert SMOL.vector_bytes == 128
    assert SMOL.kv_bytes(10) == 10 * 2 * 3 * 64 * 2
    assert SMOL.macs(10) == 10 * 2 * 9 * 64
    order = attention_order(SMOL, KvMapping(chips_per_vector=8), DDR4)
    assert (order.vector_chips, order.token_chips, order.token_banks, order.lanes) == (8, 1, 8, 4)
