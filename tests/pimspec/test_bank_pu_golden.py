"""The golden model of the bank PU: a small attention on many banks, the order of additions, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from pimspec.attention import AttentionOrder
from pimspec.bank_params import BankPuParams
from pimspec.errors import ParameterError
from pimspec.formats import BF16, FP16
from pimspec.golden.attention import scores, weighted_sum
from pimspec.golden.bank_pu import Burst, burst, column_elements, empty_buffer, empty_sums, write_operand
from pimspec.golden.dot import MODE_LANE, MODE_TREE, dot, tree_sum

FORMATS = {"fp16": FP16, "bf16": BF16}


def some_numbers(rng, shape, fmt):
    """Finite numbers of moderate size."""
    fraction = rng.integers(0, 1 << fmt.fraction_bits, shape)
    return (
        (rng.integers(0, 2, shape) << (fmt.width - 1))
        | (rng.integers(fmt.bias - 5, fmt.bias + 3, shape) << fmt.fraction_bits)
        | fraction
    )


def k_buffer(q, params):
    """An operand buffer with the query, q of shape (rows, head_dim), from word 0."""
    buffer = empty_buffer(params)
    for row, vector in enumerate(q):
        for word, part in enumerate(vector.reshape(-1, params.lanes)):
            buffer = write_operand(buffer, word, row, part)
    return buffer


def v_results(p, v, params, tokens_per_burst):
    """Sums of the tokens of one bank by bursts of a DRAM row each: p (rows, T), v (T, dims_per_bank)."""
    sums, results = empty_sums(params) + 1, None  # what was there before must not matter
    num = v.shape[0]
    for begin in range(0, num, tokens_per_burst):
        here = slice(begin, min(begin + tokens_per_burst, num))
        count = here.stop - begin
        padded = np.zeros((params.rows, -(-count // params.lanes) * params.lanes), np.int64)
        padded[:, :count] = p[:, here]
        buffer = empty_buffer(params)
        for row, vector in enumerate(padded):
            for word, part in enumerate(vector.reshape(-1, params.lanes)):
                buffer = write_operand(buffer, word, row, part)
        command = Burst(MODE_LANE, begin == 0, here.stop == num, 0, count * params.accesses_per_v)
        results, sums = burst(v[here].reshape(-1, params.lanes), command, buffer, sums, params)
        assert len(results) == (params.dims_per_bank if here.stop == num else 0)
    return results


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("lanes", "rows", "head_dim"), [(4, 1, 128), (4, 8, 64), (8, 3, 128)])
def test_equals_a_small_attention(fmt, lanes, rows, head_dim):
    """8 chips, one kv_head: K tokens whole in a bank, V with head_dim / 16 dims (at least `lanes`) in each bank."""
    f, rng, tokens = FORMATS[fmt], np.random.default_rng(lanes + rows), 301
    order = AttentionOrder(fmt=f, lanes=lanes, token_banks=max(1, 16 * lanes // head_dim))
    params = BankPuParams(
        format=f, lanes=lanes, rows=rows, head_dim=head_dim, dims_per_bank=max(lanes, head_dim // 16), operand_words=32
    )
    q, k, v = (some_numbers(rng, (n, head_dim), f) for n in (rows, tokens, tokens))
    count = tokens * params.accesses_per_k
    got, _ = burst(
        k.reshape(-1, lanes), Burst(MODE_TREE, 0, 0, 0, count), k_buffer(q, params), empty_sums(params), params
    )
    assert np.array_equal(got.T, scores(q, k, order))

    p = some_numbers(rng, (rows, tokens), f)
    partial = np.zeros((order.token_chips, order.token_banks, rows, head_dim), np.int64)
    dims = params.dims_per_bank
    for chip in range(order.token_chips):
        for bank in range(order.token_banks):
            mine = np.arange(chip + order.token_chips * bank, tokens, order.token_ways)
            for first in range(0, head_dim, dims):
                part = v_results(p[:, mine], v[mine][:, first : first + dims], params, 16)
                partial[chip, bank, :, first : first + dims] = part.T
    over_banks = tree_sum(np.moveaxis(partial, 1, -1))
    assert np.array_equal(tree_sum(np.moveaxis(over_banks, 0, -1)), weighted_sum(p, v, order))


@pytest.mark.parametrize("fmt", FORMATS)
def test_lane_sums_equal_the_dot_unit(fmt):
    """Any bit patterns: the sums of a segment are those of the dot unit in lane mode, one run for each access."""
    f, rng = FORMATS[fmt], np.random.default_rng(7)
    params = BankPuParams(format=f, rows=2, dims_per_bank=16)
    columns = rng.integers(0, 1 << 16, (128, 4))
    buffer = rng.integers(0, 1 << 16, empty_buffer(params).shape)
    results, sums = burst(columns, Burst(MODE_LANE, 1, 1, 60, 128), buffer, empty_sums(params), params)
    token = np.arange(32)
    flag = [(token == t).astype(int) for t in (0, 31)]
    for row in range(2):
        p = buffer[(60 + token // 4) % 64, row, token % 4]
        for step in range(4):
            b = np.repeat(p[:, None], 4, axis=1)
            want = dot(columns[step::4], b, np.full(32, MODE_LANE), *flag, f)[0][0]
            assert np.array_equal(sums[step, row], want)
            assert np.array_equal(results[4 * step : 4 * step + 4, row], want)


def test_bursts_may_be_cut_at_any_token():
    params = BankPuParams(rows=3)
    rng = np.random.default_rng(8)
    columns, buffer = some_numbers(rng, (128, 4), FP16), some_numbers(rng, empty_buffer(params).shape, FP16)
    want, _ = burst(columns, Burst(MODE_LANE, 1, 1, 0, 128), buffer, empty_sums(params), params)
    sums = empty_sums(params)
    for begin, end in ((0, 8), (8, 64), (64, 128)):  # operands begin at a word
        command = Burst(MODE_LANE, begin == 0, end == 128, begin // 8, end - begin)
        got, sums = burst(columns[begin:end], command, buffer, sums, params)
    assert np.array_equal(got, want)


def test_broken_tokens_and_empty_bursts():
    params = BankPuParams(rows=2)
    rng = np.random.default_rng(9)
    buffer = some_numbers(rng, empty_buffer(params).shape, FP16)
    old = some_numbers(rng, empty_sums(params).shape, FP16)
    columns = some_numbers(rng, (33, 4), FP16)
    whole, sums = burst(columns[:32], Burst(MODE_TREE, 1, 1, 0, 32), buffer, old, params)
    broken, _ = burst(columns, Burst(MODE_TREE, 0, 0, 0, 33), buffer, old, params)
    assert whole.shape == (1, 2)
    assert np.array_equal(whole, broken)
    assert np.array_equal(sums, old)
    for mode in (MODE_TREE, MODE_LANE):
        results, sums = burst(columns[:0], Burst(mode, 1, 1, 0, 0), buffer, old, params)
        assert results.shape == (0, 2)
        assert np.array_equal(sums, old)
    _, sums = burst(columns[:1], Burst(MODE_LANE, 1, 0, 0, 1), buffer, old, params)
    assert np.array_equal(sums[1], old[1])
    assert not np.array_equal(sums[0], old[0])


def test_elements_are_little_endian():
    assert column_elements([[0x01, 0x02, 0xFF, 0x80]]).tolist() == [[0x0201, 0x80FF]]
    with pytest.raises(ParameterError, match=r"data\.shape must be"):
        column_elements([[1, 2, 3]])


def test_operand_writes_wrap_and_skip_missing_rows():
    params = BankPuParams(rows=3)
    buffer = write_operand(empty_buffer(params), 65, 1, [1, 2, 3, 4])
    assert buffer[1, 1].tolist() == [1, 2, 3, 4]
    assert np.array_equal(write_operand(buffer, 1, 3, [5, 5, 5, 5]), buffer)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rows": 9}, "rows must be 1..8, not 9"),
        ({"head_dim": 96}, "head_dim must be a power of two"),
        ({"dims_per_bank": 2}, "dims_per_bank must be a power of two, at least lanes = 4"),
        ({"operand_words": 16}, "operand_words must be a power of two, at least head_dim / lanes = 32"),
        ({"result_words": 2}, "result_words must be 3..64"),
        ({"max_columns": 0}, "max_columns must be 1..1024"),
        ({"interval": 1}, "interval must be add_depth"),
        ({"lanes": 3}, "lanes must be a power of two"),
    ],
)
def test_parameters_are_checked(given, text):
    with pytest.raises(ParameterError, match=text):
        BankPuParams(**given)


def test_layouts_have_explicit_widths():
    params = BankPuParams(rows=8)
    widths = {name: getattr(params, name).width for name in ("commands", "operands", "inputs", "outputs", "status")}
    assert widths == {"commands": 17, "operands": 73, "inputs": 64, "outputs": 257, "status": 3}
    assert (params.latency_cycles, params.sum_latency_cycles, params.mode_gap_cycles) == (9, 6, 5)
