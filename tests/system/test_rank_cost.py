"""Cost formula and ablation, compared with the clocks of the RTL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dimmpim.ranks import open_rank
from dimmpim.studies.ablation import DESIGNS, host_relayout_clocks, measure, rank_level_clocks
from pimhost.driver.decode_step import run_step
from pimhost.kv_file import synthetic_step
from pimspec.attention.mapping_cost import mapping_cost
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram.organization import dram_preset
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank


def shape_of(group, heads, head_dim):
    return AttentionShape(num_q_heads=group * heads, num_kv_heads=heads, head_dim=head_dim)


def measured_over_predicted(sim, shape, tokens):
    params = sim.params
    part = replace(dram_preset(params.dram), organization=params.organization)
    run = run_step(sim, synthetic_step(shape, tokens, 1), normalise=False)
    return run.clocks * params.ck_per_clock / mapping_cost(shape, TOKEN_PER_CHIP, part, tokens).cycles


def test_the_cost_formula_predicts_the_clocks():
    with open_rank(TINY) as sim:
        for group, heads, tokens in [(1, 4, 256), (1, 4, 1024), (2, 2, 640), (2, 8, 512)]:
            ratio = measured_over_predicted(sim, shape_of(group, heads, 16), tokens)
            assert 0.95 <= ratio <= 1.1, (group, heads, tokens)  # the formula's lines keep tCCD_S


@pytest.mark.slow
@pytest.mark.parametrize(("group", "least", "most"), [(1, 0.97, 1.03), (8, 0.88, 1.03)])
def test_the_cost_formula_predicts_a_full_rank(group, least, most):
    """GQA-8 is faster than predicted: scores and probabilities share a bus that the formula fills in turn."""
    shape = shape_of(group, 8, 128)
    with open_rank(preset_named("ddr4-3200-x8-8gb").rank.for_shape(shape), threads=2) as sim:
        for tokens in (512, 2048, 8192):
            assert least <= measured_over_predicted(sim, shape, tokens) <= most, tokens


def test_ablation():
    shape = shape_of(2, 2, 16)
    points = list(measure(TINY, shape, [64, 256]))
    assert [point.tokens for point in points] == [64, 256]
    for point in points:
        assert tuple(point.clocks) == DESIGNS
        assert point.clocks["+Pipeline"] < point.clocks["+Relayout"] < point.clocks["Base"]
        assert point.ratio("Base") == 1
    assert points == list(measure(TINY, shape, [64, 256], backend="timing"))
    assert points[1].clocks["Base"] - points[1].clocks["+Relayout"] == host_relayout_clocks(TINY, shape)
    # 2 * 64 * 2 vectors of 32 bytes over lines of 16 bytes, one a clock.
    assert rank_level_clocks(TINY, shape, 64) == pytest.approx(2 * 64 * 2 * 2 / (1 - 560 / 12480))
    # q and o of 4 heads, K and V of 2, each 2 lines, there and back.
    assert host_relayout_clocks(TINY, shape) == (8 + 4) * 2 * 2
