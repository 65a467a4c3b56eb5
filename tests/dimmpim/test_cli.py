"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pimsim.build_cache import build_root
from pimspec.params.presets import PRESETS


def dimmpim(*arguments, cwd):
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    environment = {**os.environ, "DIMMPIM_BUILD_DIR": str(build_root())}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_presets_are_listed(tmp_path):
    done = dimmpim("presets", cwd=tmp_path)
    assert done.returncode == 0
    for name in PRESETS:
        assert name in done.stdout.replace("\n", "")
    document = json.loads(dimmpim("presets", "--json", cwd=tmp_path).stdout)
    assert [p["name"] for p in document] == list(PRESETS)


def test_verilog_of_one_unit(tmp_path):
    done = dimmpim("verilog", "--preset", "tiny", "--unit", "fp32_max", "--out", "rtl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "rtl").iterdir()) == ["fp32_max.json", "fp32_max.v"]
    assert "module fp32_max(" in (tmp_path / "rtl" / "fp32_max.v").read_text()


def test_simulate_fast(tmp_path):
    arguments = ("--preset", "tiny", "--unit", "fp32_max", "--simulator", "fast", "--vectors", "5000")
    done = dimmpim("simulate", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5000 results from 5000 operand sets equal the golden model" in done.stdout


def test_ablation(tmp_path):
    shape = ("--preset", "tiny", "--group", "2", "--kv-heads", "2", "--head-dim", "16", "--tokens", "64")
    done = dimmpim("ablation", *shape, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for design in ("R-DP", "Base", "+Relayout", "+Pipeline"):
        assert design in done.stdout
    (point,) = json.loads((tmp_path / "out.json").read_text())["points"]
    assert (point["name"], point["tokens"]) == ("GQA-2", 64)
    assert f"{point['clocks']['+Pipeline'] / point['clocks']['Base']:.3f}" in done.stdout


def test_scheduling_of_a_full_rank_takes_seconds(tmp_path):
    shape = ("--preset", "ddr4-3200-x8-8gb-gqa8", "--group", "8", "--kv-heads", "2", "--tokens", "1024,2048")
    done = dimmpim("scheduling", *shape, "--backend", "timing", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "out.json").read_text())["points"]
    assert [point["dynamic_share"] for point in points] == pytest.approx([0.373, 0.548], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("verilog", "--preset", "nope", "--out", "x"), "unknown preset 'nope'; allowed: ddr4"),
        (("verilog", "--preset", "tiny", "--unit", "nope", "--out", "x"), "unknown unit of preset tiny 'nope'"),
        (("verilog", "--preset", "tiny"), "Missing option '--out'"),
        (("simulate", "--preset", "tiny", "--unit", "dot", "--vectors", "0"), "0 is not in the range 1<=x<=100000000"),
        (("simulate", "--preset", "tiny", "--unit", "dot", "--vectors", "x"), "'x' is not a valid integer"),
        (("simulate", "--preset", "tiny", "--unit", "dot", "--simulator", "vcs"), "'vcs' is not one of"),
        (("simulate", "--preset", "tiny", "--unit", "dot", "--seed", "-1"), "-1 is not in the range 0<=x<="),
        (("area", "--preset", "tiny", "--liberty", "gone.lib"), "No such file or directory: gone.lib"),
        (("ablation", "--tokens", "64,x"), "--tokens must be whole numbers separated by commas, not '64,x'"),
        (
            ("ablation", "--preset", "tiny", "--backend", "timing"),
            "head_dim must be at most 64: a vector of K in a row",
        ),
        (("ablation", "--json", "nowhere/x"), "--json must be a file in a folder that exists"),
        (("scheduling", "--requests", "0"), "0 is not in the range 1<=x<=256"),
        (("scheduling", "--group", "8"), "requests x kv_heads must be at most 8, what the rank's query buffer holds"),
        (("scheduling", "--seed", "-1"), "-1 is not in the range 0<=x<="),
        (("pim-energy", "--preset", "tiny"), "head_dim must be at most 64"),
        (("ablation", "--tokens", "0"), "--tokens must be 1..1048576, not 0"),
        (("ablation", "--group", "3", "--head-dim", "100"), "head_dim must be a power of two in 16..256, not 100"),
        (("frobnicate",), "No such command 'frobnicate'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, text, tmp_path):
    done = dimmpim(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("mine")
    done = dimmpim("verilog", "--preset", "tiny", "--unit", "fp32_max", "--out", "taken", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_interrupt_while_modules_load_is_one_line(tmp_path):
    code = """
import signal, sys
from dimmpim.cli import main

class Stop:
    def find_spec(self, name, path, target=None):
        if name == "dimmpim.commands.serve":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Stop())
main(["presets"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.split()) == (130, "", ["dimmpim:", "interrupted"])
