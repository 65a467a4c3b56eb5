"""A timing model with one delay, margin or depth off by one is not the RTL's: the comparison would notice it."""

from __future__ import annotations

import pytest
from test_timing_model import Work, params_of

from pimsim import timing_config
from pimsim.timing_model import TimingSimulator

SEEDS = range(12)

NOTICED = (
    "scores_per_sum", "query_pause", "segments_ahead", "score_wait", "row_wait", "operand_ready", "score_cycles",
    "prob_cycles", "reduce_cycles", "weigh_cycles", "merge_depth", "normal_depth", "reciprocal_cycles", "interval",
    "margin_PREab", "margin_MAC", "margin_ACT", "margin_PREpb", "prob_slots", "write_clocks", "read_clocks",
    "refresh_clocks",
)  # fmt: skip
"""Not in these cases: what only matters when a queue of descriptors is full, a bank starves, or `stats` is refused."""


def runs():
    """What random work gives: ends of descriptors, and all commands."""
    for seed in SEEDS:
        params = params_of(seed)
        with TimingSimulator(params) as model:
            yield Work(params, seed).do(model), model.trace().tobytes()


@pytest.fixture(scope="module")
def right():
    return list(runs())


@pytest.mark.parametrize("name", NOTICED)
def test_noticed(name, right, monkeypatch):
    numbers = timing_config.rank_numbers
    monkeypatch.setattr(timing_config, "rank_numbers", lambda *given: off_by_one(numbers(*given), name))
    assert any(got != expected for got, expected in zip(runs(), right, strict=True))


def off_by_one(values, name):
    return values | {name: values[name] + 1}
