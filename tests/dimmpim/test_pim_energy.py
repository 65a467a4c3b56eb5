"""`dimmpim pim-energy`: the shipped constants are those of the timing model, and hold for other lengths."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from click.testing import CliRunner

from dimmpim.cli import cli
from dimmpim.ranks import open_timing
from dimmpim.studies.pim_energy import GROUPS, TOKENS, fit_energy
from dimmpim.studies.rank_energy import step_energy
from pimhost.driver.decode_step import time_step
from pimhost.systems.memory_energy import PIM_ENERGY_FILE, pim_energy
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError
from pimspec.params.presets import preset_named

PRESET = preset_named("ddr4-3200-x8-8gb")


@pytest.mark.parametrize("group", [1, 8])
def test_the_shipped_constants_are_those_of_the_timing_model(group):
    found, error = fit_energy(PRESET, group)
    assert asdict(found) == pytest.approx(asdict(pim_energy(PIM_ENERGY_FILE)[PRESET.name, group]), rel=1e-3)
    assert error <= json.loads(PIM_ENERGY_FILE.read_text())["greatest_error"] <= 0.03


def test_constants_hold_for_several_kv_heads_of_another_length():
    shape, tokens = AttentionShape(num_q_heads=12, num_kv_heads=3, head_dim=128, format=PRESET.format), 3300
    assert tokens not in TOKENS
    with open_timing(PRESET.rank.for_shape(shape)) as model:
        run = time_step(model, shape, tokens)
        energy = step_energy(run, model.finished[-1])
    line = pim_energy(PIM_ENERGY_FILE)[PRESET.name, 4]
    expected = 3 * line.head_nj + line.byte_pj * shape.kv_bytes(tokens) / 1e3
    assert energy.total_nj - energy.refresh_nj - energy.standby_nj == pytest.approx(expected, rel=0.02)


def test_the_file_is_what_the_command_writes(tmp_path):
    done = CliRunner().invoke(cli, ["pim-energy", "--out", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(PIM_ENERGY_FILE.read_text())
    assert {group for _, group in pim_energy(tmp_path / "a.json")} == set(GROUPS)


def test_parts_without_currents_and_other_files_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="part of the preset must be one of ddr4-3200-x8-8gb"):
        fit_energy(preset_named("ddr4-3200-x8-16gb"), 1)
    for text in ("{", "{}", '{"preset": "x", "gqa_group_size": {"1": {"head_nj": 1}}}'):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ParameterError, match="not written by `dimmpim pim-energy`"):
            pim_energy(tmp_path / "b.json")
