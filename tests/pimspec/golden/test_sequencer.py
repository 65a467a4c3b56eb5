"""The golden sequencer: cells hold vectors where the placement says, and micro-ops give what attention is."""

from __future__ import annotations

import numpy as np
import pytest

from pimspec.attention.placement import KvKind, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.formats import BF16, FP16
from pimspec.golden.attention import attention_partial
from pimspec.golden.merge import normalise
from pimspec.golden.sequencer import Cells, run_micro_ops
from pimspec.isa import MicroKind, MicroOp
from pimspec.params.presets import preset_named

RANK = preset_named("tiny").rank
SHAPE = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
STEP = RANK.row_lines * RANK.num_chips


def vectors(count, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 16)).astype(np.float16).view(np.uint16)


@pytest.mark.parametrize("kind", KvKind)
def test_cells_hold_what_the_host_writes_into_the_chips(kind):
    """Byte by byte, as :class:`KvPlacement` lists the bursts of a row."""
    row, data = 5, vectors(STEP - 3, 1)
    cells = Cells(RANK)
    cells.write(row, kind, 0, data)
    region = KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(row, row + 1))
    placement = KvPlacement(
        organization=RANK.organization, shape=SHAPE, mapping=TOKEN_PER_CHIP, regions=[region]
    )  # fmt: skip
    writes, org = placement.writes(0, kind, 0, data[None]), RANK.organization
    held = cells._row(row).view(np.uint8)
    for n in range(len(writes.row)):
        bank = writes.bank_group[n] * org.banks_per_group + writes.bank[n]
        first = writes.column[n] * org.device_width_bits // 8
        for chip in range(org.chips_per_rank):
            if writes.chip_mask[n] >> chip & 1:
                stored = held[chip, bank, first : first + org.column_access_bytes]
                np.testing.assert_array_equal(stored, writes.data[n, chip])


@pytest.mark.parametrize("kind", KvKind)
def test_vectors_come_back_and_the_rest_is_nan(kind):
    cells, data = Cells(RANK), vectors(10, 2)
    cells.write(3, kind, 4, data)
    read = cells.read(3, kind, STEP)
    np.testing.assert_array_equal(read[4:14], data)
    assert np.isnan(np.delete(read, np.s_[4:14], axis=0).view(np.float16)).all()
    assert np.isnan(cells.read(9, kind, 1).view(np.float16)).all()


def attention_ops(tokens, *, normalise_in_rank):
    """One kv_head: K from row 0 on, V from row 100 on; queries and outputs in entry 2."""
    ops, most, chips = [MicroOp(kind=MicroKind.WR_QUERIES, slot=0, buffer_entry=2, last_query=1)], 128, RANK.num_chips
    for first in range(0, tokens, most):
        count = min(most, tokens - first)
        lines, ends = -(-count // chips), {"first": int(first == 0), "final": int(first + most >= tokens)}
        keep = (1 << count - (lines - 1) * chips) - 1
        ops.append(MicroOp(kind=MicroKind.SOFTMAX, slot=0, lines=lines, last_keep=keep, scale=SHAPE.scale_bits, **ends))
        for kind, base in ((MicroKind.MAC_K, 0), (MicroKind.MAC_V, 100)):
            for row in range(-(-count // STEP)):
                step = min(RANK.row_lines, lines - row * RANK.row_lines)
                ops.append(MicroOp(kind=kind, slot=0, row=base + first // STEP + row, lines=step))
        ops.append(MicroOp(kind=MicroKind.RD_SUMS, slot=0, **ends))
        ops.append(
            MicroOp(kind=MicroKind.MERGE, slot=0, buffer_entry=2, last_query=1, normalise=normalise_in_rank, **ends)
        )
    return ops


@pytest.mark.parametrize("normalised", [0, 1])
@pytest.mark.parametrize("tokens", [1, 2, 31, 128, 129, 300])
def test_micro_ops_of_attention_are_attention(tokens, normalised):
    k, v, q = vectors(tokens, 3), vectors(tokens, 4), vectors(2, 5)
    cells, queries = Cells(RANK), np.zeros((RANK.queries, 16), np.uint16)
    queries[2:4] = q
    for kind, base, data in ((KvKind.K, 0, k), (KvKind.V, 100, v)):
        for first in range(0, tokens, STEP):
            cells.write(base + first // STEP, kind, 0, data[first : first + STEP])
    (output,) = run_micro_ops(RANK, attention_ops(tokens, normalise_in_rank=normalised), queries, cells)
    expected = attention_partial(q, k, v, SHAPE.scale_bits, RANK.attention_order())
    bits = normalise(expected, FP16) if normalised else expected.o
    np.testing.assert_array_equal(output.output, bits)
    np.testing.assert_array_equal(output.statistics, np.stack([expected.m, expected.l], axis=1))
    assert (output.entry, output.normalised) == (2, bool(normalised))
    np.testing.assert_array_equal(output.operands.k, k)
    np.testing.assert_array_equal(output.operands.v, v)
    values = normalise(expected, FP16).astype(np.uint16).view(np.float16).astype(float)
    np.testing.assert_allclose(output.values(FP16), values, rtol=1e-3, atol=1e-6)


def test_values_of_bf16_are_its_upper_halves():
    (output,) = run_micro_ops(
        RANK, attention_ops(1, normalise_in_rank=1), np.zeros((RANK.queries, 16), np.uint16), Cells(RANK)
    )  # fmt: skip
    output = type(output)(**{**vars(output), "output": np.array([[0x3FC0]])})
    assert output.values(BF16).tolist() == [[1.5]]
