"""Mutation tests: the golden model must notice each fault in hardware, the oracles each fault in a golden model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pimspec.params.arith import UnitParams

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
mutants = importlib.util.module_from_spec(_spec)
sys.modules["mutants"] = mutants
_spec.loader.exec_module(mutants)

CHECK = """
import json, sys
from pimhw.generate import unit_verilog
from pimsim.verify import check_unit
from pimsim.verilated import StreamSimulationError
from pimspec.sidecar import params_from_sidecar
params = params_from_sidecar(json.loads(sys.argv[1]))
verilog = unit_verilog(params, "unit")
for seed, stall in ((0, 0.0), (1, 0.3)):
    try:
        check = check_unit(verilog, "unit", params, count=50_000, seed=seed, idle=stall, refuse=stall)
    except StreamSimulationError as error:
        sys.exit(f"killed: {error}")
    if check.num_mismatches:
        sys.exit(f"killed: {check.message}")
print("survived")
"""


def mutated_tree(mutant, folder: Path) -> Path:
    tree = folder / "hw"
    shutil.copytree(ROOT / "hw", tree, ignore=shutil.ignore_patterns("__pycache__"))
    path = tree / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) >= 1, f"{mutant.file} no longer holds {mutant.old!r}: renew the mutant"
    path.write_text(text.replace(mutant.old, mutant.new))
    return tree


def run_python(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def hardware_check(tree: Path, params: UnitParams) -> subprocess.CompletedProcess:
    import json  # noqa: PLC0415

    from pimspec.sidecar import unit_sidecar  # noqa: PLC0415

    return run_python(tree, "-c", CHECK, json.dumps(unit_sidecar(params, "unit")))


HARDWARE = [m for m in mutants.MUTANTS if m.params is not None]
GOLDEN = [m for m in mutants.MUTANTS if m.params is None]


def first_ones(faults, of):
    """Test parameters: the first fault of each unit in the quick tests, the others with the slow ones."""
    seen = set()
    for m in faults:
        marks = pytest.mark.slow if of(m) in seen else []
        seen.add(of(m))
        yield pytest.param(m, id=f"{m.file.split('/')[-1]}: {m.what}", marks=marks)


@pytest.mark.parametrize("params", {m.params: m.params for m in HARDWARE}, ids=lambda p: type(p).__name__)
def test_the_check_passes_without_a_fault(params, tmp_path):
    shutil.copytree(ROOT / "hw", tmp_path / "hw", ignore=shutil.ignore_patterns("__pycache__"))
    done = hardware_check(tmp_path / "hw", params)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "survived"


@pytest.mark.parametrize("mutant", [*first_ones(HARDWARE, of=lambda m: m.params)])
def test_hardware_fault_is_noticed(mutant, tmp_path):
    done = hardware_check(mutated_tree(mutant, tmp_path), mutant.params)
    assert done.returncode == 1, f"the fault survived\n{done.stdout}{done.stderr}"
    assert done.stderr.startswith("killed"), done.stderr


@pytest.mark.parametrize("mutant", [*first_ones(GOLDEN, of=lambda m: m.file)])
def test_golden_fault_is_noticed(mutant, tmp_path):
    name = Path(mutant.file).stem
    suite = "fp_narrow" if name == "rounding" else name
    done = run_python(
        mutated_tree(mutant, tmp_path), "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider",
        f"tests/pimspec/golden/test_{suite}.py",
    )  # fmt: skip
    assert done.returncode == 1, f"the fault survived\n{done.stdout}"
    assert "1 failed" in done.stdout, done.stdout
