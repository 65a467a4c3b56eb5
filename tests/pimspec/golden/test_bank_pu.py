"""Golden bank PU: a small attention on many banks, the order of additions, and its edges."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from pimspec.attention.shape import AttentionOrder
from pimspec.errors import ParameterError
from pimspec.formats import BF16, FP16, FP32
from pimspec.golden.attention import scores, weighted_sum
from pimspec.golden.bank_pu import Burst, burst, column_elements, empty_bank, write_operand
from pimspec.golden.dot import MODE_LANE, MODE_TREE, dot, tree_sum
from pimspec.golden.fp_mul import fp_mul
from pimspec.params.bank_pu import BankPuParams

FORMATS = {"fp16": FP16, "bf16": BF16}


def some_numbers(rng, shape, format):
    """Finite numbers of moderate size."""
    fraction = rng.integers(0, 1 << format.fraction_bits, shape)
    return (
        (rng.integers(0, 2, shape) << (format.width - 1))
        | (rng.integers(format.bias - 5, format.bias + 3, shape) << format.fraction_bits)
        | fraction
    )


def with_operands(state, words):
    """Write `words`, shape (n, rows, lanes), from word 0 on."""
    for word, parts in enumerate(words):
        for row, part in enumerate(parts):
            state = write_operand(state, word, row, part)
    return state


def some_bank(rng, params, format=FP16):
    """A bank with operands and sums of finite numbers, every element present."""
    state = with_operands(
        empty_bank(params), some_numbers(rng, (params.operand_words, params.queries_at_once, params.lanes), format)
    )
    sums = fp_mul(some_numbers(rng, state.sums.shape, format), format.one, format)
    return dataclasses.replace(state, sums=sums)


def v_results(p, v, params, tokens_per_burst, which=0):
    """Sums of the tokens of one bank by bursts of a DRAM row each, in a set: p (rows, T), v (T, dims_per_bank)."""
    state = some_bank(np.random.default_rng(0), params)  # earlier contents must not matter
    num = v.shape[0]
    for begin in range(0, num, tokens_per_burst):
        here = slice(begin, min(begin + tokens_per_burst, num))
        count = here.stop - begin
        padded = np.zeros((params.queries_at_once, -(-count // params.lanes) * params.lanes), np.int64)
        padded[:, :count] = p[:, here]
        state = with_operands(state, np.moveaxis(padded.reshape(params.queries_at_once, -1, params.lanes), 0, 1))
        command = Burst(MODE_LANE, begin == 0, 0, count * params.accesses_per_v, set=which)
        scores_, state = burst(v[here].reshape(-1, params.lanes), command, state, params)
        assert scores_.shape == (0, params.queries_at_once)
    return state.by_dim(which)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("lanes", "rows", "head_dim"), [(4, 1, 128), (4, 8, 64), (8, 3, 128)])
def test_equals_a_small_attention(format, lanes, rows, head_dim):
    """8 chips, one kv_head: K tokens whole in a bank, V with head_dim / 16 dims (at least `lanes`) in each bank."""
    f, rng, tokens = FORMATS[format], np.random.default_rng(lanes + rows), 301
    order = AttentionOrder(format=f, lanes=lanes, token_banks=max(1, 16 * lanes // head_dim))
    params = BankPuParams(
        format=f,
        lanes=lanes,
        queries_at_once=rows,
        head_dim=head_dim,
        dims_per_bank=max(lanes, head_dim // 16),
        operand_words=32,
    )
    q, k, v = (some_numbers(rng, (n, head_dim), f) for n in (rows, tokens, tokens))
    count = tokens * params.accesses_per_k
    words = np.moveaxis(q.reshape(rows, -1, lanes), 0, 1)
    bank = with_operands(empty_bank(params), words)
    got, _ = burst(k.reshape(-1, lanes), Burst(MODE_TREE, 0, 0, count), bank, params)
    assert np.array_equal(got.T, scores(q, k, order))

    p = some_numbers(rng, (rows, tokens), f)
    partial = np.zeros((order.token_chips, order.token_banks, rows, head_dim), np.int64)
    dims = params.dims_per_bank
    for chip in range(order.token_chips):
        for bank in range(order.token_banks):
            mine = np.arange(chip + order.token_chips * bank, tokens, order.token_ways)
            for first in range(0, head_dim, dims):
                part = v_results(p[:, mine], v[mine][:, first : first + dims], params, 16, bank % 2)
                partial[chip, bank, :, first : first + dims] = part.T
    over_banks = tree_sum(np.moveaxis(partial, 1, -1))
    assert np.array_equal(tree_sum(np.moveaxis(over_banks, 0, -1)), weighted_sum(p, v, order))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("format", FORMATS)
def test_lane_sums_equal_the_dot_unit(format, which):
    """Any bit patterns: the sums of a segment are those of the dot unit in lane mode, one run for each access."""
    f, rng = FORMATS[format], np.random.default_rng(7)
    params = BankPuParams(format=f, queries_at_once=2, dims_per_bank=16)
    columns = rng.integers(0, 1 << 16, (128, 4))
    bank = with_operands(some_bank(rng, params), rng.integers(0, 1 << 16, (64, 2, 4)))
    _, state = burst(columns, Burst(MODE_LANE, 1, 60, 128, set=which), bank, params)
    assert np.array_equal(state.sums[1 - which], bank.sums[1 - which])
    token = np.arange(32)
    flag = [(token == t).astype(int) for t in (0, 31)]
    for row in range(2):
        p = bank.operands[(60 + token // 4) % 64, row, token % 4]
        for step in range(4):
            b = np.repeat(p[:, None], 4, axis=1)
            want = dot(columns[step::4], b, np.full(32, MODE_LANE), *flag, f)[0][0]
            assert np.array_equal(state.sums[which, step, row], want)
            assert np.array_equal(state.by_dim(which)[4 * step : 4 * step + 4, row], want)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("mode", [MODE_TREE, MODE_LANE])
def test_bursts_may_be_cut_anywhere(mode, which):
    """Any bit patterns, several whole tokens and a broken one, cut at random: scores and sums of the burst as one."""
    params = BankPuParams(queries_at_once=3, dims_per_bank=16)
    rng = np.random.default_rng(8)
    columns = rng.integers(0, 1 << 16, (120, 4))
    bank = some_bank(rng, params)
    want, whole = burst(columns, Burst(mode, 1, 50, 120, set=which), bank, params)
    assert len(want) == (3 if mode == MODE_TREE else 0)
    for _ in range(10):
        ends = [*np.sort(rng.integers(0, 121, 5)).tolist(), 120]  # some of them may be equal: bursts of 0 accesses
        scores, state = burst(columns[: ends[0]], Burst(mode, 1, 50, ends[0], set=which), bank, params)
        for begin, end in itertools.pairwise(ends):
            # Of the command of a resumed burst the count alone counts.
            command = Burst(1 - mode, int(rng.integers(2)), 7, end - begin, resume=1, set=int(rng.integers(2)))
            more, state = burst(columns[begin:end], command, state, params)
            scores = np.concatenate([scores, more])
        assert np.array_equal(scores, want)
        assert np.array_equal(state.sums, whole.sums)
        assert np.array_equal(state.score, whole.score)
        assert state.last == whole.last


def test_v_bursts_may_be_cut_at_a_word():
    """Without `resume`, at a token whose probability begins a word."""
    params = BankPuParams(queries_at_once=3)
    rng = np.random.default_rng(8)
    columns, bank = some_numbers(rng, (128, 4), FP16), some_bank(rng, params)
    _, want = burst(columns, Burst(MODE_LANE, 1, 0, 128), bank, params)
    state = bank
    for begin, end in ((0, 8), (8, 64), (64, 128)):
        _, state = burst(columns[begin:end], Burst(MODE_LANE, begin == 0, begin // 8, end - begin), state, params)
    assert np.array_equal(state.sums, want.sums)


def test_sets_of_sums_are_separate():
    """Any bit patterns: segments in turn, cut into bursts that alternate, give what each gives by itself.

    A K burst may name either set.
    """
    params = BankPuParams(queries_at_once=3, dims_per_bank=16)
    rng = np.random.default_rng(12)
    bank = with_operands(empty_bank(params), rng.integers(0, 1 << 16, (64, 3, 4)))
    columns = rng.integers(0, 1 << 16, (2, 8, 16, 4))  # set, burst, access
    state, alone = bank, [bank, bank]
    for k in range(8):
        for which in (0, 1):
            command = Burst(MODE_LANE, int(k % 4 == 0), 3 * k + which, 16, set=which)
            before = state
            _, state = burst(columns[which, k], command, state, params)
            _, alone[which] = burst(columns[which, k], command, alone[which], params)
            assert np.array_equal(state.sums[1 - which], before.sums[1 - which])
            assert np.array_equal(state.sums[which], alone[which].sums[which])
            assert np.array_equal(state.by_dim(which), alone[which].by_dim(which))
            k_burst = [burst(columns[which, k], Burst(MODE_TREE, 1, 0, 16, set=s), state, params) for s in (0, 1)]
            assert all(np.array_equal(after.sums, state.sums) for _, after in k_burst)
            assert np.array_equal(k_burst[0][1].score, k_burst[1][1].score)
    assert not np.array_equal(state.sums[0], state.sums[1])


def test_absent_tokens_change_no_sum():
    """The result is the same whatever their operands and columns hold; K ignores `keep`."""
    params = BankPuParams(queries_at_once=2)
    rng = np.random.default_rng(10)
    columns = rng.integers(0, 1 << 16, (64, 4))
    columns[:, 1] = np.where(rng.random(64) < 0.5, FP16.nan, FP16.inf)
    full = some_bank(rng, params)
    bank = full
    keep = rng.integers(0, 2, (8, 4))
    for word in range(8):
        bank = write_operand(bank, word, 1, full.operands[word, 1], keep[word])
    present = np.flatnonzero(keep.ravel())
    token = columns.reshape(32, 2, 4)
    for first in (0, 1):
        _, got = burst(columns, Burst(MODE_LANE, first, 0, 64), bank, params)
        want = full
        if first and not keep[0, 0]:
            want = dataclasses.replace(full, sums=np.stack([np.zeros_like(full.sums[0]), full.sums[1]]))
        for t in present:
            state = want
            for row in range(2):
                state = write_operand(state, 0, row, np.repeat(full.operands[t // 4, row, t % 4], 4))
            _, want = burst(token[t], Burst(MODE_LANE, first and t == 0, 0, 2), state, params)
        assert np.array_equal(got.sums, want.sums)
    assert np.array_equal(
        burst(columns, Burst(MODE_TREE, 0, 0, 64), bank, params)[0],
        burst(columns, Burst(MODE_TREE, 0, 0, 64), full, params)[0],
    )


@pytest.mark.parametrize("which", [0, 1])
def test_sums_without_a_token_are_plus_zero(which):
    """A bank without a token of the segment contributes +0, and the next product is added to it."""
    params = BankPuParams()
    bank = write_operand(some_bank(np.random.default_rng(11), params), 0, 0, [FP16.nan, FP16.one, 0, 0], [0, 1, 0, 0])
    columns = np.full((4, 4), FP16.sign_mask)  # -0
    _, state = burst(columns[:2], Burst(MODE_LANE, 1, 0, 2, set=which), bank, params)
    assert state.sums[which].tolist() == [[[0] * 4]] * 2
    _, state = burst(columns, Burst(MODE_LANE, 1, 0, 4, set=which), bank, params)
    assert state.sums[which].tolist() == [[[0] * 4]] * 2
    bank = write_operand(bank, 0, 0, [FP16.one] * 4, [1, 0, 0, 0])
    _, state = burst(columns, Burst(MODE_LANE, 1, 0, 4, set=which), bank, params)
    assert state.sums[which].tolist() == [[[FP32.sign_mask] * 4]] * 2
    assert np.array_equal(state.sums[1 - which], bank.sums[1 - which])


def test_broken_tokens_and_empty_bursts():
    params = BankPuParams(queries_at_once=2)
    rng = np.random.default_rng(9)
    bank = some_bank(rng, params)
    columns = some_numbers(rng, (33, 4), FP16)
    whole, state = burst(columns[:32], Burst(MODE_TREE, 1, 0, 32), bank, params)
    broken, _ = burst(columns, Burst(MODE_TREE, 0, 0, 33), bank, params)
    assert whole.shape == (1, 2)
    assert np.array_equal(whole, broken)
    assert np.array_equal(state.sums, bank.sums)
    for mode in (MODE_TREE, MODE_LANE):
        scores_, state = burst(columns[:0], Burst(mode, 1, 0, 0), bank, params)
        assert scores_.shape == (0, 2)
        assert np.array_equal(state.sums, bank.sums)
    for which in (0, 1):
        _, state = burst(columns[:1], Burst(MODE_LANE, 1, 0, 1, set=which), bank, params)
        changed = (state.sums != bank.sums).any(axis=(2, 3))  # by set and step
        assert changed.tolist() == [[which == 0, False], [which == 1, False]]


def test_elements_are_little_endian():
    assert column_elements([[0x01, 0x02, 0xFF, 0x80]]).tolist() == [[0x0201, 0x80FF]]
    with pytest.raises(ParameterError, match=r"data\.shape must be"):
        column_elements([[1, 2, 3]])


def test_operand_writes_wrap_and_skip_missing_rows():
    """The keep bits of a word are those of its last write, for whichever query."""
    params = BankPuParams(queries_at_once=3)
    bank = write_operand(empty_bank(params), 65, 1, [1, 2, 3, 4], [1, 1, 0, 1])
    assert bank.operands[1, 1].tolist() == [1, 2, 3, 4]
    assert bank.keep[1].tolist() == [1, 1, 0, 1]
    assert bank.keep.sum() == 3
    other = write_operand(bank, 1, 0, [5, 6, 7, 8])
    assert other.operands[1].tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [0] * 4]
    assert other.keep[1].tolist() == [1] * 4
    missing = write_operand(bank, 1, 3, [5, 5, 5, 5])
    assert np.array_equal(missing.operands, bank.operands)
    assert np.array_equal(missing.keep, bank.keep)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"queries_at_once": 9}, "queries_at_once must be 1..8, not 9"),
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
    params = BankPuParams(queries_at_once=8)
    widths = {name: getattr(params, name).width for name in ("commands", "operands", "inputs", "outputs", "status")}
    assert widths == {"commands": 18, "operands": 77, "inputs": 64, "outputs": 256, "status": 3}
    assert (params.latency_cycles, params.sum_latency_cycles, params.mode_gap_cycles) == (9, 5, 5)
