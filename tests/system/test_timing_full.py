"""The timing model equals the RTL of full ranks, 8 chips of 16 banks, on random decode steps. Slow: large builds."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank, open_timing
from pimhost.driver.decode_step import run_step, time_step
from pimhost.kv_file import synthetic_step
from pimspec.attention.shape import AttentionShape
from pimspec.params.presets import preset_named

pytestmark = pytest.mark.slow

NUM_STEPS = 12
CASES = {
    "MHA-128": ("ddr4-3200-x8-8gb", 1),
    "MHA-128-16gb": ("ddr4-3200-x8-16gb", 1),
    "GQA-4": ("ddr4-3200-x8-8gb", 4),
    "GQA-8": ("ddr4-3200-x8-8gb-gqa8", 8),
}


@pytest.mark.parametrize(("preset", "group"), CASES.values(), ids=CASES)
def test_random_steps(preset, group, count_vectors):
    """Steps one after another, each at a random refresh phase.

    The comparison that conftest makes at the end is made here too, so that the first differing step is named.
    """
    rng = np.random.default_rng([len(preset), group])
    params = preset_named(preset).rank.for_shape(AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=128))
    with open_rank(params, threads=2) as rtl, open_timing(params) as model:
        for number in range(NUM_STEPS):
            tokens, heads = int(rng.integers(1, 1025)), int(rng.integers(1, 5))
            wait = int(rng.integers(0, params.engine.refresh_clocks))
            options = {"normalise": bool(rng.integers(0, 2)), "static_order": bool(rng.random() < 0.2)}
            shape = AttentionShape(num_q_heads=heads * group, num_kv_heads=heads, head_dim=128)
            text = f"step {number}: {heads} kv_heads, {tokens} tokens, after {wait} clocks, {options}"
            for sim in (rtl, model):
                sim.run(wait)
            run = run_step(rtl, synthetic_step(shape, tokens, number), **options)
            timed = time_step(model, shape, tokens, trace=True, **options)
            assert timed.clocks == run.clocks, text
            assert timed.commands == run.commands, text
            assert model.clock == rtl.clock, text
        assert model.finished == rtl.finished
    count_vectors("timing model against RTL: decode steps on full ranks", NUM_STEPS)
