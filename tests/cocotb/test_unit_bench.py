"""The cocotb bench of the units under both simulators."""

from __future__ import annotations

import pytest

from pimhw.generate import write_unit
from pimsim.cocotb_run import run_bench
from pimsim.tools import icarus_available
from pimspec.params.presets import preset_named


def run(unit: str, simulator: str, folder, vectors: int, **options):
    source, sidecar = write_unit(preset_named("tiny").unit(unit), unit, folder)
    environment = {"DIMMPIM_SIDECAR": str(sidecar), "DIMMPIM_VECTORS": str(vectors), "DIMMPIM_SEED": "7"}
    return run_bench(
        simulator=simulator, sources=[source], top=unit, bench="pimsim.benches.unit_bench", folder=folder,
        environment=environment, **options,
    )  # fmt: skip


@pytest.mark.parametrize("unit", preset_named("tiny").units)
def test_icarus(unit, tmp_path, count_vectors):
    if not icarus_available():
        pytest.skip("Icarus Verilog is not installed (iverilog, vvp)")
    vectors = 100 if unit == "reciprocal" else 500
    outcome = run(unit, "icarus", tmp_path, vectors)
    assert (outcome.num_tests, outcome.num_failures) == (4, 0), outcome.log.read_text()[-3000:]
    count_vectors("RTL in cocotb under Icarus", 4 * vectors)


@pytest.mark.parametrize(("unit", "name"), [("fp32_add", "a folder with a space"), ("dot", "folder")])
def test_verilator(unit, name, tmp_path, count_vectors):
    folder = tmp_path / name
    outcome = run(unit, "verilator", folder, 2000)
    assert {path.parent for path in (outcome.log, outcome.results_xml)} == {folder}
    assert (outcome.num_tests, outcome.num_failures) == (4, 0), outcome.log.read_text()[-3000:]
    count_vectors("RTL in cocotb under Verilator", 4 * 2000)


def test_waveform_is_written(tmp_path):
    if not icarus_available():
        pytest.skip("Icarus Verilog is not installed (iverilog, vvp)")
    outcome = run("fp32_max", "icarus", tmp_path, 20, waves=True)
    assert outcome.waveform is not None
    assert outcome.waveform.stat().st_size > 100


def test_the_bench_fails_on_broken_hardware(tmp_path):
    if not icarus_available():
        pytest.skip("Icarus Verilog is not installed (iverilog, vvp)")
    source, sidecar = write_unit(preset_named("tiny").unit("fp32_max"), "fp32_max", tmp_path)
    text = source.read_text()
    broken = text.replace("assign o[34] = out_unordered;", "assign o[34] = ~out_unordered;", 1)
    assert broken != text
    source.write_text(broken)
    environment = {"DIMMPIM_SIDECAR": str(sidecar), "DIMMPIM_VECTORS": "50", "DIMMPIM_SEED": "7"}
    outcome = run_bench(
        simulator="icarus", sources=[source], top="fp32_max", bench="pimsim.benches.unit_bench", folder=tmp_path,
        environment=environment,
    )  # fmt: skip
    assert outcome.num_failures == 4
