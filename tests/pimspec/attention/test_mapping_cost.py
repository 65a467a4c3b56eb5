"""Mapping cost: by hand, against bursts counted one by one, and the choice of mapping."""

from __future__ import annotations

import pytest

from pimspec.attention.mapping_cost import RowSchedule, candidate_mappings, choose_mapping, mapping_cost
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape, KvMapping, SideBySide
from pimspec.dram import limits
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError

DDR4, DDR4_16GB, DDR5 = (dram_preset(n) for n in ("ddr4-3200-x8-8gb", "ddr4-3200-x8-16gb", "ddr5-4800-x8-16gb"))
HEADS = SideBySide.KV_HEADS


def shape_of(gqa=1, kv_heads=8, head_dim=128):
    return AttentionShape(num_q_heads=gqa * kv_heads, num_kv_heads=kv_heads, head_dim=head_dim)


def test_token_per_chip_equals_a_count_by_hand():
    """MHA-128, 8K tokens, DDR4: 16 rows of 1072 CK in each bank, and 114 to open the last one."""
    cost = mapping_cost(shape_of(), TOKEN_PER_CHIP, DDR4, 8192)
    assert cost.num_passes == 8
    assert cost.k_stream_cycles == cost.v_stream_cycles == 16 * 1072 + 114
    assert cost.k_bus_cycles == 8192 * 4 // 64 * 4
    assert cost.v_bus_cycles == 8192 * 2 // 64 * 4
    assert cost.q_cycles == 128 * 2 // 8 * 4
    assert cost.output_cycles == 128 * 4 // 8 * 4
    assert cost.cycles_without_refresh == 8 * 2 * 17266 + 128 + 256
    assert cost.cycles == -(-cost.cycles_without_refresh * 12480 // (12480 - 560))
    assert cost.peak_cycles == 8 * 8192 * 512 / 128
    assert cost.utilization_of_peak == pytest.approx(cost.peak_cycles / cost.cycles)


def test_serial_phases_add_up():
    cost = mapping_cost(shape_of(kv_heads=2), TOKEN_PER_CHIP, DDR4, 8192, overlapped=False, turnaround_cycles=50)
    assert cost.cycles_without_refresh == 2 * (2 * 17266 + 2048 + 1024 + 128 + 256 + 50)


def test_lockstep_opens_all_banks_at_each_row():
    cost = mapping_cost(shape_of(), TOKEN_PER_CHIP, DDR4, 8192, schedule=RowSchedule.LOCKSTEP)
    assert cost.k_stream_cycles == 16 * (1072 + 114)


def test_a_partial_last_row_costs_its_columns():
    """576 tokens: a bank has one more K token than a row's 4, at most 4; V 8 more than a row's 64."""
    cost = mapping_cost(shape_of(), TOKEN_PER_CHIP, DDR4, 576)
    timing = DDR4.timing
    assert cost.k_stream_cycles == 2 * 1072 + 114
    assert cost.v_stream_cycles == 1072 + limits.row_period_cycles(timing, 8 * 2) + 114
    dealt = mapping_cost(shape_of(), KvMapping(k_tokens_per_deal=1), DDR4, 576)
    assert dealt.k_stream_cycles == 1072 + limits.row_period_cycles(timing, 32) + 114


@pytest.mark.parametrize("gqa", [1, 4, 8])
@pytest.mark.parametrize("mapping", candidate_mappings(DDR4.organization), ids=lambda m: m.name)
def test_bus_cycles_are_bursts(mapping, gqa):
    """Bytes that each chip sends or takes, 8 bytes a burst, the chips side by side."""
    tokens = 4096
    cost = mapping_cost(shape_of(gqa), mapping, DDR4, tokens)
    in_chip = tokens // mapping.token_chips(DDR4.organization)
    assert cost.k_bus_cycles == in_chip * gqa * 4 // 8 * 4
    assert cost.v_bus_cycles == in_chip * gqa * 2 // 8 * 4


def test_fewer_lanes_than_queries_take_turns():
    full = mapping_cost(shape_of(8), TOKEN_PER_CHIP, DDR4, 8192)
    quarter = mapping_cost(shape_of(8), TOKEN_PER_CHIP, DDR4, 8192, concurrent_queries=2)
    assert quarter.k_stream_cycles == 16 * limits.row_period_cycles(DDR4.timing, 4 * 128) + 114
    assert full.k_stream_cycles == 16 * 1072 + 114


def test_chime_uses_heads_on_one_chip_for_gqa_8():
    """CHIME: N_hc at most 8 for MHA and 1 for GQA-8, by bus load alone."""
    for chips in (1, 2, 4, 8):
        mapping = KvMapping(chips_per_vector=chips, side_by_side=HEADS)
        mha = mapping_cost(shape_of(1), mapping, DDR4, 8192)
        gqa = mapping_cost(shape_of(8), mapping, DDR4, 8192)
        assert mha.k_bus_cycles <= mha.k_stream_cycles
        assert (gqa.k_bus_cycles <= gqa.k_stream_cycles) == (chips == 1)
    chosen = choose_mapping(shape_of(8), DDR4, 8192).mapping
    assert (chosen.chips_per_vector, chosen.side_by_side) == (1, HEADS)


def test_few_kv_heads_lie_token_per_chip():
    smol = AttentionShape(num_q_heads=9, num_kv_heads=3, head_dim=64)
    assert choose_mapping(smol, DDR4, 8192).mapping == TOKEN_PER_CHIP
    assert choose_mapping(shape_of(8, kv_heads=1), DDR4, 8192).mapping == TOKEN_PER_CHIP


@pytest.mark.parametrize("tokens", [1, 100, 512, 8192, 131_072])
@pytest.mark.parametrize("gqa", [1, 3, 8])
@pytest.mark.parametrize("preset", [DDR4, DDR4_16GB, DDR5], ids=lambda p: p.name)
def test_the_choice_is_within_a_hundredth_of_the_best(preset, gqa, tokens):
    shape = shape_of(gqa)
    chosen = choose_mapping(shape, preset, tokens)
    costs = [mapping_cost(shape, m, preset, tokens) for m in candidate_mappings(preset.organization)]
    assert chosen.cycles <= 1.01 * min(c.cycles for c in costs)
    assert chosen in costs


@pytest.mark.parametrize(("preset", "goal"), [(DDR4, 0.88), (DDR4_16GB, 0.86)], ids=["8gb", "16gb"])
@pytest.mark.parametrize("gqa", [1, 8])
def test_the_goal_is_within_the_ceiling(preset, goal, gqa):
    """Goal of the project (at 8K tokens) <= prediction <= row efficiency times refresh."""
    cost = choose_mapping(shape_of(gqa), preset, 8192)
    ceiling = limits.row_efficiency(preset.timing, 128) * limits.refresh_efficiency(preset.timing)
    assert goal <= cost.utilization_of_peak <= ceiling


def test_shapes_that_fit_no_mapping_are_refused():
    short = shape_of(head_dim=16)
    assert choose_mapping(short, DDR4, 512).mapping.chips_per_vector <= 4
    with pytest.raises(ParameterError, match="some mapping on ddr4-3200-x8-8gb can hold"):
        choose_mapping(short, DDR4, 512, candidates=[KvMapping(chips_per_vector=8)])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokens": 0}, "tokens must be 1 or more, not 0"),
        ({"concurrent_queries": 0}, "concurrent_queries must be 1 or more, not 0"),
        ({"turnaround_cycles": -1}, "turnaround_cycles must be 0 or more, not -1"),
    ],
)
def test_bad_parameters_are_refused(change, text):
    with pytest.raises(ParameterError) as caught:
        mapping_cost(**{"shape": shape_of(), "mapping": TOKEN_PER_CHIP, "preset": DDR4, "tokens": 8, **change})
    assert text in str(caught.value)
