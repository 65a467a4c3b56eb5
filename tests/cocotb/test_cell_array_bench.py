"""Cell arrays behind the chips of a cocotb bench, and the cache of bench builds."""

from __future__ import annotations

import re

import pytest

from pimsim.cocotb_run import run_bench
from pimsim.rank.bench_top import PARTS
from pimsim.tools import icarus_available

NEEDS_ICARUS = pytest.mark.skipif(not icarus_available(), reason="Icarus Verilog is not installed (iverilog, vvp)")
SIZES = {"ROW_BITS": 6, "COLUMN_BITS": 2, "ACCESS_BYTES": 4, "ROWS_HELD": 9}


def verilog():
    """Verilog with other defaults of the parameters."""
    (module,) = re.findall(r"^module cell_array.*?^endmodule", PARTS.read_text(), re.M | re.S)
    for name, value in SIZES.items():
        module, count = re.subn(rf"\b{name} = 1\b", f"{name} = {value}", module)
        assert count == 1
    return module


def run(folder, text, simulator, seed=1):
    source = folder / "cell_array.v"
    source.write_text(text)
    environment = {"DIMMPIM_SEED": str(seed), "DIMMPIM_ROWS_HELD": str(SIZES["ROWS_HELD"]), "COCOTB_ANSI_OUTPUT": "0"}
    return run_bench(
        simulator=simulator, sources=[source], top="cell_array", bench="pimsim.benches.cell_array_bench",
        folder=folder, environment=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "simulator", [pytest.param("icarus", marks=NEEDS_ICARUS), pytest.param("verilator", marks=pytest.mark.slow)]
)
def test_cell_array_equals_a_dictionary(simulator, tmp_path):
    outcome = run(tmp_path, verilog(), simulator)
    assert (outcome.num_tests, outcome.num_failures) == (1, 0), outcome.log.read_text()[-3000:]


@NEEDS_ICARUS
def test_a_build_is_kept_until_its_sources_change(tmp_path):
    assert run(tmp_path, verilog(), "icarus").num_failures == 0
    (binary,) = (tmp_path / "icarus").glob("*.vvp")
    before = binary.stat().st_mtime_ns
    assert run(tmp_path, verilog(), "icarus", seed=2).num_failures == 0
    assert binary.stat().st_mtime_ns == before
    wrong = verilog().replace("if (!mask[k])", "if (mask[k])")
    assert run(tmp_path, wrong, "icarus").num_failures == 1
    assert binary.stat().st_mtime_ns > before
    assert run(tmp_path, verilog(), "icarus").num_failures == 0
