"""The shipped host code on the rank as one Verilog top under cocotb: equal to the fast harness, clock for clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dimmpim.studies.cosimulation import DeviceWork, do_work, on_fast_harness, under_cocotb
from dimmpim.studies.rank_speed import replay_fast, small_rank_speeds
from pimhost.devices.stored import GoldenDevice
from pimsim.rank.bench_top import OPS_HELD
from pimsim.tools import icarus_available
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.errors import RankError
from pimspec.params.presets import preset_named

needs_icarus = pytest.mark.skipif(not icarus_available(), reason="Icarus Verilog is not installed (iverilog, vvp)")

SHORT = DeviceWork(
    rank=preset_named("tiny").rank.with_dpa(),
    shape=AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16),
    num_layers=1,
    prompts=(3, 90),
    steps=2,
)
"""The rank is that of `dimmpim generate` on the preset tiny: one build for both."""
LONG = replace(
    SHORT,
    shape=AttentionShape(num_q_heads=6, num_kv_heads=3, head_dim=16),
    num_layers=2,
    prompts=(33, 1, 300),
    steps=12,
    seed=2,
)


def check(work, simulator, folder):
    """Outputs equal those of the golden device, and everything else equals the fast harness."""
    golden = do_work(GoldenDevice(work.rank, work.shape, work.num_layers), work)
    fast, _ = on_fast_harness(work)
    got = under_cocotb(work, simulator=simulator, folder=folder)
    assert len(got.outputs) == work.steps * work.num_layers * len(work.prompts)
    for a, b in zip(got.outputs, golden.outputs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert got.costs == fast.costs
    assert got.host_commands == fast.host_commands
    assert got.commands == fast.commands
    assert got.clocks == fast.clocks
    codes = [command for _, command, *_ in got.host_commands]
    assert work.shape.kv_bytes(max(work.prompts)) // work.rank.line_bytes > OPS_HELD  # in a batch
    assert {Command.ACT, Command.RD, Command.WR, Command.PREab, Command.REFab} <= set(codes)
    kinds = {command.command for command in got.commands}
    assert {Command.WR, Command.REFab, Command.PIM_MAC, Command.PIM_WR_SB, Command.PIM_RD_RB} <= kinds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One build for all tests under Icarus."""
    return tmp_path_factory.mktemp("device")


@needs_icarus
def test_icarus_equals_the_fast_harness(folder):
    check(SHORT, "icarus", folder)


@needs_icarus
def test_a_failure_in_the_bench_is_reported(folder):
    with pytest.raises(RankError, match="words of the programs of all layers must be at most 1024"):
        under_cocotb(replace(SHORT, num_layers=80), simulator="icarus", folder=folder)


@pytest.mark.slow
def test_verilator_equals_the_fast_harness(tmp_path):
    check(LONG, "verilator", tmp_path)


def test_a_recorded_run_can_be_replayed():
    """The fast harness repeats a recorded run; a differing line is noticed."""
    _, document = on_fast_harness(SHORT)
    assert len(document["lines"]) > 50
    assert replay_fast(SHORT, document) > 0
    clock, data = document["lines"][-1]
    document["lines"][-1] = clock + 1, data
    with pytest.raises(RankError, match="lines, not the"):
        replay_fast(SHORT, document)


@pytest.mark.slow
@needs_icarus
def test_backends_of_bench_take_the_same_clocks(tmp_path):
    """All backends that `dimmpim bench` compares, under Icarus."""
    rows = small_rank_speeds(tmp_path, replace(SHORT, prompts=(5, 9), steps=1), simulator="icarus")
    assert len({row.clocks for row in rows}) == 1
    rates = [row.clocks_per_second for row in rows]
    assert min(rates[0], rates[2]) > max(rates[1], rates[3])
