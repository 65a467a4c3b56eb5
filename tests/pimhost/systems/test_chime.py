"""Comparison with L3/CHIME: its chosen constants, and one set-up for every cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pimhost.models import shape_named
from pimhost.systems.chime import (
    COMPARED,
    FREE_CONSTANTS,
    PARALLELISM,
    REFERENCE,
    SYSTEM_ORDER,
    THROUGHPUT,
    bandwidth_bound,
    chime_node,
    chime_workload,
    table_one,
)
from pimhost.systems.node import DGX_A100
from pimhost.systems.registry import SYSTEMS
from pimhost.workloads.workload import Workload

TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"

CHOSEN = {
    "GPU memory share": 0.9,
    "block tokens": 16,
    "chunk tokens": 2048,
    "prefill block": 64,
    "admission": "grow",
    "channels": 16,
    "ranks of a channel": 4,
    "bytes of a rank": 32 << 30,
    "preset": "ddr4-3200-x8-8gb",
    "HBM-PIM bandwidth ratio": 16,
    "HBM-PIM-EXT modules": 20,
    "HBM-PIM-EXT bytes of a module": 16 * 10**9,
    "HBM-PIM-EXT bandwidth of a module": 6.52e12,
    "kv_heads of a request in a rank": 8,
    "points of the predictor": 1000,
    "training share of the predictor": 0.8,
    "requests": 1000,
    "seed": 1,
    "out of memory": 0.5,
    "longest prompt of the power fit": 512,
    "pJ a bit over data pins": 5.5,
    "pJ a bit over PCIe 4.0": 167.9,
    "pJ a bit of HBM to its bank": 0.55,
    "pJ a bit of HBM": 3.59,
    "W of a CPU": 225,
    "memory channels of a CPU": 8,
}


def test_the_chosen_constants_are_listed():
    """A constant that is added or changed must be added or changed here too, with its reason."""
    assert {name: constant.value for name, constant in FREE_CONSTANTS.items()} == CHOSEN
    assert all(constant.why for constant in FREE_CONSTANTS.values())


def test_nothing_but_the_published_parallelism_differs_between_models():
    for model, (tp_size, dp_size) in PARALLELISM.items():
        assert replace(chime_node(model), tp_size=8, dp_size=1) == DGX_A100
        assert tp_size * dp_size == 8
        shape_named(model)
    for lengths in THROUGHPUT:
        assert np.array_equal(chime_workload(lengths).output_tokens, chime_workload(lengths).output_tokens)
        assert len(chime_workload(lengths)) == 1000


def test_the_published_figures_are_complete():
    assert {system for system, _ in COMPARED} == set(SYSTEMS)
    assert {published for _, published in COMPARED} == set(SYSTEM_ORDER)
    for models in THROUGHPUT.values():
        assert set(models) == set(PARALLELISM) == set(REFERENCE)
        for model, row in models.items():
            assert len(row) == len(SYSTEM_ORDER)
            assert row[SYSTEM_ORDER.index(REFERENCE[model])] == 1.0


def test_table_one_follows_from_first_principles():
    for row in table_one():
        assert row.ours == pytest.approx(row.published, rel=0.016)  # R-PIM is printed with two digits: 1.6
        if row.system != "R-PIM":
            assert row.ours == pytest.approx(row.published, rel=0.001)
    rates = {row.system: row.ours for row in table_one()}
    assert rates["L3"] == pytest.approx(8 * rates["R-PIM"])
    assert rates["L3"] == pytest.approx(64 * 128 * 8 / 5.04e-9)
    jedec = {row.system: row.ours for row in table_one(tck_ns=0.625)}
    assert jedec["L3"] == pytest.approx(64 * 204.8e9)


def test_the_bandwidth_bound_equals_a_count_by_hand():
    """Two requests of 10 + 3 and 20 + 1 tokens: the first attends to 11 and 12 tokens, the second to none."""
    work = Workload.of("w", "", synthetic=True, arrival_ns=[0, 0], prompt_tokens=[10, 20], output_tokens=[3, 1])
    bound = bandwidth_bound("R-PIM", "GPT-175B", work)
    rate = {row.system: row.ours for row in table_one()}["R-PIM"]
    assert bound == pytest.approx(rate * 4 / (23 * 4_718_592), rel=1e-9)
    assert bandwidth_bound("GPU", "GPT-175B", work) is None
