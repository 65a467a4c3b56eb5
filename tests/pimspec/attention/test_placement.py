"""Placement: a bijection, whole rows, appends that touch only their own bytes, and data that reads back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimspec.attention.placement import (
    Address,
    KvElement,
    KvKind,
    KvLayout,
    KvPlacement,
    KvRegion,
    StackAddress,
    chips_of_line,
    line_of_chips,
    relayout_line,
)
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape, KvMapping, SideBySide, attention_order
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError

DDR4, DDR5 = (dram_preset(n).organization for n in ("ddr4-3200-x8-8gb", "ddr5-4800-x8-16gb"))
K, V = KvKind.K, KvKind.V
MHA = AttentionShape(num_q_heads=3, num_kv_heads=3, head_dim=64)
MAPPINGS = [KvMapping(chips_per_vector=n, side_by_side=side) for n in (1, 2, 4, 8) for side in SideBySide]
MAPPINGS += [KvMapping(k_tokens_per_deal=1), KvMapping(chips_per_vector=8, v_banks_per_vector=1)]
STACKS = [(m, o) for m in MAPPINGS for o in (DDR4, DDR5) if m.chips_per_vector <= o.chips_per_rank]


def name_of(given):
    """Name for test ids."""
    if isinstance(given, KvMapping):
        return given.name + "/v1" * bool(given.v_banks_per_vector) + "/k1" * bool(given.k_tokens_per_deal)
    return given.standard.value if given in (DDR4, DDR5) else None


def shape_of(head_dim, heads=3):
    return AttentionShape(num_q_heads=heads, num_kv_heads=heads, head_dim=head_dim)


def layout_of(mapping, kind, head_dim=128, organization=DDR4):
    return KvLayout(organization=organization, shape=shape_of(head_dim), mapping=mapping, kind=kind)


def placement_of(mapping, shape=MHA, organization=DDR4, rows=4, requests=(5,)):
    """K and V of some requests, in rows from both ends of two ranks."""
    probe = KvPlacement(organization=organization, shape=shape, mapping=mapping, regions=())
    stacks = [(r, kind, s) for r in requests for kind in KvKind for s in range(probe.num_head_sets)]
    regions = []
    for i, (request, kind, head_set) in enumerate(stacks):
        base = 100 + i * rows
        owned = range(base, base + rows) if kind is K else [organization.rows - 1 - r for r in range(base, base + rows)]
        regions.append(KvRegion(request=request, kind=kind, head_set=head_set, rank=i % 2, rows=owned))
    return KvPlacement(organization=organization, shape=shape, mapping=mapping, regions=regions)


class Cells:
    """Arrays of a rank, sparse by row, that obey the mask of a burst."""

    def __init__(self, organization):
        self.organization, self.rows, self.touched = organization, {}, set()

    def write(self, bursts):
        o = self.organization
        for rank, group, bank, row, column, mask, data in zip(*bursts, strict=True):
            assert column % o.burst_length == 0
            first = column // o.burst_length * o.column_access_bytes
            for chip in (c for c in range(o.chips_per_rank) if mask >> c & 1):
                key = (rank, chip, group, bank, row)
                page = self.rows.setdefault(tuple(map(int, key)), np.zeros(o.page_bytes, np.uint8))
                page[first : first + o.column_access_bytes] = data[chip]
                self.touched.add((*map(int, key), int(first)))

    def read(self, at):
        words = np.zeros(at.row.shape, np.uint16)
        for i in np.ndindex(at.row.shape):
            page = self.rows[tuple(int(x[i]) for x in at[:5])]
            first = at.column_byte[i]
            words[i] = int(page[first]) | int(page[first + 1]) << 8
        return words


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("kind", KvKind)
@pytest.mark.parametrize(("mapping", "organization"), STACKS, ids=name_of)
def test_a_stack_is_a_bijection(mapping, kind, head_dim, organization):
    """Every byte of two rows of all banks and chips is one byte of one element, and comes back."""
    layout, o = layout_of(mapping, kind, head_dim, organization), organization
    shape = (o.chips_per_rank, o.banks_per_chip, 2, o.page_bytes)
    address = StackAddress(*(x.ravel() for x in np.indices(shape)))
    head, token, dim, byte = layout.element(address)
    back = layout.locate(head, token, dim)
    for got, want in zip(back._replace(column_byte=back.column_byte + byte), address, strict=True):
        np.testing.assert_array_equal(got, want)
    # Onto: the elements are all of the first tokens, each byte once.
    tokens = 2 * layout.tokens_per_stack_row
    number = ((head * tokens + token) * head_dim + dim) * 2 + byte
    np.testing.assert_array_equal(np.sort(number), np.arange(layout.heads * tokens * head_dim * 2))


def test_token_per_chip_as_specified():
    """DDR4 x8, head_dim 128: K 4 tokens a row, 32 column accesses; V 64 tokens a row, 2 in each of 16 banks."""
    k, v = layout_of(TOKEN_PER_CHIP, K), layout_of(TOKEN_PER_CHIP, V)
    assert (k.tokens_per_row, k.accesses_per_token, k.dims_per_bank) == (4, 32, 128)
    assert (v.tokens_per_row, v.accesses_per_token, v.dims_per_bank) == (64, 2, 8)
    assert (k.tokens_per_stack_row, v.tokens_per_stack_row) == (512, 512)
    assert k.locate(0, 8 * 3 + 5, 7) == (5, 0, 0, 3 * 256 + 14)  # the fourth token of chip 5: same row of bank 0
    assert k.locate(0, 8 * 4 + 5, 0) == (5, 1, 0, 0)  # the fifth: next bank
    assert k.locate(0, 8 * 64, 0) == (0, 0, 1, 0)  # all banks have a row: next row
    assert v.locate(0, 8 * 3 + 5, 9) == (5, 1, 0, 3 * 16 + 2)
    assert v.locate(0, 8 * 64, 127) == (0, 15, 1, 14)


def test_head_dim_64():
    v = layout_of(TOKEN_PER_CHIP, V, 64)
    assert (v.tokens_per_row, v.accesses_per_token, v.dims_per_bank) == (128, 1, 4)


def test_dims_over_chips():
    """CHIME's MHA mapping: 16 of 128 dims in each chip; V over 4 banks, so that 4 tokens are side by side."""
    mapping = KvMapping(chips_per_vector=8)
    k, v = layout_of(mapping, K), layout_of(mapping, V)
    assert (k.dims_per_chip, k.accesses_per_token, k.tokens_per_row) == (16, 4, 32)
    assert (v.vector_banks, v.token_banks, v.accesses_per_token) == (4, 4, 1)
    assert k.locate(0, 33, 17) == (1, 1, 0, 32 + 2)
    assert v.locate(0, 6, 17 + 5) == (1, 4 + 2, 0, 8 + 2 * 2)


def test_kv_heads_side_by_side():
    layout = layout_of(KvMapping(side_by_side=SideBySide.KV_HEADS), K)
    assert layout.heads == 8
    assert layout.locate(6, 1, 0) == (6, 0, 0, 256)


@pytest.mark.parametrize("kind", KvKind)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=name_of)
def test_busiest_bank(mapping, kind):
    layout = layout_of(mapping, kind)
    for tokens in (0, 1, 7, 8, 9, 100, 511, 512, 513, 3000):
        at = layout.locate(np.zeros(tokens, int), np.arange(tokens), np.zeros(tokens, int))
        _, counts = np.unique(at.chip * 1000 + at.bank, return_counts=True)
        assert layout.busiest_bank_tokens(tokens) == max(counts, default=0)
        assert layout.num_rows(tokens) == at.row.max(initial=-1) + 1


@pytest.mark.parametrize("mapping", MAPPINGS, ids=name_of)
def test_v_sums_as_the_golden_model_does(mapping):
    """Token t is in set ``t % token_chips`` and in bank class ``(t // token_chips) % token_banks``."""
    layout = layout_of(mapping, V)
    order = attention_order(layout.shape, mapping, DDR4)
    tokens = np.arange(600)
    for dim in (0, 31, 127):
        at = layout.locate(0, tokens, dim)
        chip_set, bank = at.chip // mapping.chips_per_vector, at.bank % layout.token_banks
        np.testing.assert_array_equal(chip_set, tokens % order.token_chips)
        np.testing.assert_array_equal(bank, tokens // order.token_chips % order.token_banks)
        assert (np.diff(at.row[(chip_set == 0) & (bank == 0)] * 1024 + at.column_byte[:: order.token_ways]) > 0).all()


@pytest.mark.parametrize("shape", [MHA, shape_of(128, 9)], ids=["3x64", "9x128"])
@pytest.mark.parametrize("mapping", MAPPINGS, ids=name_of)
def test_prefill_and_append_read_back(mapping, shape):
    placement, rng = placement_of(mapping, shape, requests=(5, 9)), np.random.default_rng(0)
    cells = Cells(DDR4)
    stored = {}
    for request in (5, 9):
        for kind in KvKind:
            data = rng.integers(0, 1 << 16, (shape.num_kv_heads, 40, shape.head_dim)).astype(np.uint16)
            cells.write(placement.writes(request, kind, 0, data[:, :37]))
            for token in (37, 38, 39):
                before, cells.touched = cells.touched, set()
                cells.write(placement.writes(request, kind, token, data[:, token : token + 1]))
                assert len(cells.touched) * 8 == shape.num_kv_heads * shape.vector_bytes
                assert not before & cells.touched, "an append touched bytes of another token"
                cells.touched |= before
            stored[request, kind] = data
    for (request, kind), data in stored.items():
        for head in (0, shape.num_kv_heads - 1):
            at = placement.locate(request, kind, head, *np.ix_(np.arange(40), np.arange(shape.head_dim)))
            np.testing.assert_array_equal(cells.read(at), data[head])


def test_an_append_is_the_fewest_bursts():
    """Token-per-chip, head_dim 128: K 32 bursts to one bank; V 2 to each of 16 banks; one chip each."""
    placement = placement_of(TOKEN_PER_CHIP, shape_of(128, 1))
    vectors = np.arange(128, dtype=np.uint16).reshape(1, 1, 128)
    k, v = (placement.writes(5, kind, 11, vectors) for kind in KvKind)
    assert len(k.row) == len(v.row) == 32
    assert (k.chip_mask == 1 << 3).all()
    assert (v.chip_mask == 1 << 3).all()
    assert len({*zip(k.bank_group.tolist(), k.bank.tolist(), strict=True)}) == 1
    assert len({*zip(v.bank_group.tolist(), v.bank.tolist(), strict=True)}) == 16
    assert bytes(k.data[0, 3]) == bytes([0, 0, 1, 0, 2, 0, 3, 0])


def test_a_prefill_shares_bursts():
    placement = placement_of(TOKEN_PER_CHIP, shape_of(128, 1))
    bursts = placement.writes(5, K, 0, np.ones((1, 512, 128), np.float16))
    assert len(bursts.row) == 512 * 256 // 64
    assert (bursts.chip_mask == 0xFF).all()
    place = ((bursts.row * 4 + bursts.bank_group) * 4 + bursts.bank) * 1024 + bursts.column
    assert (np.diff(place) > 0).all()


@settings(max_examples=200, deadline=None)
@given(
    mapping=st.sampled_from(MAPPINGS),
    kind=st.sampled_from(KvKind),
    head=st.integers(0, 2),
    token=st.integers(0, 900),
    dim=st.integers(0, 63),
    byte=st.integers(0, 1),
)
def test_addresses_name_their_elements(mapping, kind, head, token, dim, byte):
    placement = placement_of(mapping, rows=8)
    at = placement.locate(5, kind, head, token, dim)
    element = placement.element(at._replace(column_byte=at.column_byte + byte))
    assert element == KvElement(5, kind, head, token, dim, byte)


def test_rows_without_an_owner_have_no_element():
    placement = placement_of(TOKEN_PER_CHIP)
    assert placement.element(Address(0, 0, 0, 0, 3, 0)) is None
    side = placement_of(KvMapping(side_by_side=SideBySide.KV_HEADS))
    assert side.element(Address(0, 2, 0, 0, 100, 0)).kv_head == 2
    assert side.element(Address(0, 3, 0, 0, 100, 0)) is None, "3 kv_heads for 8 chips"


REGION = KvRegion(request=1, kind=K, head_set=0, rank=0, rows=range(4))


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        ([REGION, dataclasses.replace(REGION, kind=V, rows=[9, 3])], "row must be in one region only (rank 0), not 3"),
        ([dataclasses.replace(REGION, rows=[4, 4])], "row must be in one region only (rank 0), not 4"),
        ([REGION, REGION], "region must be given once"),
        ([dataclasses.replace(REGION, head_set=3)], "head_set must be in 0..2, not 3"),
        ([dataclasses.replace(REGION, rank=2)], "rank must be in 0..1, not 2"),
        ([dataclasses.replace(REGION, rows=[65536])], "row must be in 0..65535, not 65536"),
    ],
)
def test_regions_that_are_refused(regions, text):
    with pytest.raises(ParameterError) as caught:
        KvPlacement(organization=DDR4, shape=MHA, mapping=TOKEN_PER_CHIP, regions=regions)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: p.locate(5, K, 3, 0, 0), "kv_head must be in 0..2, not 3"),
        (lambda p: p.locate(5, K, 0, 0, 64), "dim must be in 0..63, not [64]"),
        (lambda p: p.locate(5, K, 0, -1, 0), "token must be 0 or more, not [-1]"),
        (lambda p: p.locate(6, K, 0, 0, 0), "request 6 has no rows for K of head set 0"),
        (lambda p: p.locate(5, V, 0, 5000, 0), "rows of request 5, V must be at least 5, not 4"),
        (lambda p: p.element(Address(0, 8, 0, 0, 0, 0)), "chip must be in 0..7, not 8"),
        (lambda p: p.writes(5, K, 0, np.zeros((3, 64))), "vectors.shape must be (3, n, 64), not (3, 64)"),
        (lambda p: p.writes(5, K, -1, np.zeros((3, 1, 64))), "first_token must be 0 or more, not -1"),
    ],
)
def test_calls_that_are_refused(call, text):
    with pytest.raises(ParameterError) as caught:
        call(placement_of(TOKEN_PER_CHIP))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"chips_per_vector": 3}, "chips_per_vector must be 1, 2, 4 or 8, not 3"),
        ({"v_banks_per_vector": 3}, "v_banks_per_vector must be a power of two, not 3"),
        ({"v_banks_per_vector": 32}, "v_banks_per_vector must be at most 16"),
        ({"k_tokens_per_deal": 16}, "k_tokens_per_deal must be a divisor of 8, not 16"),
    ],
)
def test_mappings_that_are_refused(change, text):
    with pytest.raises(ParameterError) as caught:
        layout_of(KvMapping(**change), K, 64)
    assert text in str(caught.value)


def test_a_vector_too_short_for_its_chips_is_refused():
    with pytest.raises(ParameterError, match="head_dim must be a multiple of 32 for 8-chip-vectors/tokens"):
        layout_of(KvMapping(chips_per_vector=8), K, 16)


def test_relayout_of_ddr4():
    """Chip 2j gets the elements 8i + j, chip 2j+1 the elements 8i + 4 + j, low byte first."""
    line = np.arange(32, dtype="<u2").tobytes()
    chips = chips_of_line(line).view("<u2")
    for j in range(4):
        np.testing.assert_array_equal(chips[2 * j], [8 * i + j for i in range(4)])
        np.testing.assert_array_equal(chips[2 * j + 1], [8 * i + 4 + j for i in range(4)])


@given(st.binary(min_size=64, max_size=64), st.sampled_from([2, 4, 8]))
def test_relayout_is_its_own_inverse(line, chips):
    assert relayout_line(relayout_line(line, chips), chips) == line
    assert sorted(relayout_line(line, chips)) == sorted(line)
    assert line_of_chips(chips_of_line(line, chips)) == line


def test_relayout_delays_no_byte_by_more_than_a_beat():
    """Byte 8b + c of the line after the exchange comes from beat b or its partner: one DDR clock is enough."""
    source = np.frombuffer(relayout_line(bytes(range(64))), np.uint8)
    assert (source // 16 == np.arange(64) // 16).all()


@pytest.mark.parametrize(("size", "chips"), [(0, 8), (63, 8), (24, 8), (64, 3)])
def test_lines_that_are_refused(size, chips):
    with pytest.raises(ParameterError):
        relayout_line(bytes(size), chips)
