"""Power of a GPU: constants equal to those of the fit, and work counted by hand."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pimhost.gpu.llm_cost import LlmCost
from pimhost.gpu.model import GpuModel
from pimhost.gpu.power import GPU_POWER, GpuPower, GpuWork, attention_work, dense_work, head_work, power_of
from pimhost.gpu.power_fit import POWER_TABLE, fit_power
from pimhost.models import shape_named
from pimspec.errors import ParameterError

PROFILES = Path(__file__).parents[4] / "shared" / "data" / "gpu_profiles"
needs_profiles = pytest.mark.skipif(not PROFILES.is_dir(), reason=f"no measured power in {PROFILES}")


def test_the_free_constants_are_listed():
    assert [f.name for f in fields(GpuPower)] == ["static_w", "flop_pj", "byte_pj", "source"]
    assert {name: (p.static_w, p.flop_pj, p.byte_pj) for name, p in GPU_POWER.items()} == {
        "A100": (114.5, 1.405, 145.7)
    }
    assert all(power.source for power in GPU_POWER.values())
    assert power_of("H100") is None


@needs_profiles
def test_the_constants_are_those_of_the_fit():
    (fit,) = fit_power(PROFILES)
    print(f"{fit.gpu}: error {fit.rms_error:.1%} rms, at most {fit.greatest_error:.1%}, {fit.rows} rows")
    power = GPU_POWER[fit.gpu]
    assert (fit.static_w, fit.flop_pj, fit.byte_pj) == (power.static_w, power.flop_pj, power.byte_pj)
    assert fit.rms_error < 0.03
    assert fit.greatest_error < 0.07


def test_without_a_table_nothing_is_fitted(tmp_path):
    assert fit_power(tmp_path) == []
    (tmp_path / POWER_TABLE).write_bytes(b"nothing")
    with pytest.raises(ParameterError, match="not a table of measured power"):
        fit_power(tmp_path)


def test_work_equals_a_count_by_hand():
    """Llama-2-7B on two GPUs: 16 of 32 heads each, an FFN of 5,504, and half of the vocabulary."""
    cost = LlmCost(gpu=GpuModel.named("A100"), shape=shape_named("Llama-2-7B"), tp_size=2)
    layer = dense_work(cost, 3)
    weights = 4096 * 6144 + 2048 * 4096 + 4096 * 11_008 + 5504 * 4096
    assert layer.flop == 2 * 3 * weights
    assert layer.num_bytes > 2 * weights
    assert head_work(cost, 3).flop == 2 * 3 * 4096 * 16_000
    attention = attention_work(cost, 5, 15.0, 5.0)
    assert attention.flop == 4 * 16 * 128 * 15
    assert attention.num_bytes == 2 * (2 * 5 + 2 * 5) * 16 * 128


def test_no_gpu_draws_more_than_its_tdp():
    power = GpuPower(static_w=100.0, flop_pj=1.0, byte_pj=100.0, source="s")
    work = GpuWork(np.array([1e12, 1e14]), np.array([1e9, 1e9]))
    arithmetic, moved = power.work_nj(work, np.array([10**7, 10**7], np.int64), 400.0)
    assert (arithmetic[0], moved[0]) == (10**9, 10**8)  # 1.1 J in 10 ms: 110 W more
    assert arithmetic[1] + moved[1] == pytest.approx(300 * 10**7, abs=2)
    assert arithmetic[1] == pytest.approx(1000 * moved[1], rel=1e-6)


@pytest.mark.parametrize("what", ["static_w", "flop_pj", "byte_pj"])
def test_constants_must_be_positive(what):
    constants = {"static_w": 1.0, "flop_pj": 1.0, "byte_pj": 1.0} | {what: 0.0}
    with pytest.raises(ParameterError, match=f"{what} must be above 0"):
        GpuPower(**constants, source="s")
