"""`dimmpim attention` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pimsim.build_cache import build_root
from pimsim.rule_checker import RuleChecker
from pimsim.tools import icarus_available
from pimspec.dram.command_trace import read_trace
from pimspec.dram.organization import dram_preset
from pimspec.params.presets import preset_named

SLICE = str(Path(__file__).parents[1] / "data" / "smollm2_slice.npz")
P = ("--preset", "ddr4-3200-x8-8gb")


def attention(*arguments, cwd):
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", "attention", *arguments]
    environment = {**os.environ, "DIMMPIM_BUILD_DIR": str(build_root())}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_real_data(tmp_path):
    done = attention(*P, "--kv", SLICE, "--layer", "10", "--step", "3", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["version"] == 2
    assert (document["num_q_heads"], document["num_tokens"]) == (3, 867)
    assert document["bytes_streamed"] == 867 * 64 * 2 * 2
    assert 0 < document["max_rel_l2_error"] <= 1e-3
    # The bits printed are the bits meant: decode them here.
    words = np.array([[int(word, 16) for word in head] for head in document["output_fp32_bits"]], dtype=np.uint32)
    with np.load(SLICE) as file:
        q, k, v = file["Q10"][3].astype(float), file["K10"][0].astype(float), file["V10"][0].astype(float)
    weights = np.exp(q @ k.T / 8)
    expected = weights / weights.sum(axis=1, keepdims=True) @ v
    np.testing.assert_allclose(words.view(np.float32), expected, rtol=0.05, atol=2e-4)


def test_synthetic_data_is_the_same_for_the_same_seed(tmp_path):
    arguments = (*P, "--shape", "4,2,64,33", "--seed", "5", "--json")
    for name in ("a.json", "b.json"):
        assert attention(*arguments, name, cwd=tmp_path).returncode == 0
    first, second = (json.loads((tmp_path / n).read_text()) for n in ("a.json", "b.json"))
    assert first["output_fp32_bits"] == second["output_fp32_bits"]
    assert attention(*P, "--shape", "4,2,64,33", "--seed", "6", "--json", "c.json", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "c.json").read_text())["output_fp32_bits"] != first["output_fp32_bits"]


def test_rtl(tmp_path):
    arguments = ("--preset", "tiny", "--shape", "6,3,16,150", "--seed", "4", "--json")
    assert attention(*arguments, "golden.json", cwd=tmp_path).returncode == 0
    done = attention(*arguments, "rtl.json", "--backend", "rtl", "--trace-commands", "c.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    golden, rtl = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("golden", "rtl"))
    assert rtl["output_fp32_bits"] == golden["output_fp32_bits"]
    assert rtl["golden_mismatches"] == 0
    assert rtl["ns"] == rtl["cycles"] * 4 * 0.625
    peak = rtl["cycles"] * 2 * 4 * 8 / 2  # 2 chips, 4 banks, 8 bytes every 2 clocks
    assert rtl["utilization_of_peak"] == pytest.approx(150 * 3 * 16 * 2 * 2 / peak)
    assert rtl["bytes_streamed"] == 150 * 3 * 16 * 2 * 2
    assert rtl["utilization_of_peak"] < rtl["utilization_of_legal_limit"] < 1
    params = preset_named("tiny").rank
    part = replace(dram_preset(params.dram), organization=params.organization)
    RuleChecker(part).check_trace(read_trace(tmp_path / "c.csv"))


def test_timing_is_that_of_rtl(tmp_path):
    arguments = ("--preset", "tiny", "--shape", "6,3,16,150", "--static-order")
    for name in ("rtl", "timing"):
        files = ("--json", f"{name}.json", "--trace-commands", f"{name}.csv")
        done = attention(*arguments, "--backend", name, *files, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rtl, timing = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("rtl", "timing"))
    for key in ("cycles", "ns", "bytes_streamed", "utilization_of_peak", "utilization_of_legal_limit"):
        assert timing[key] == rtl[key]
    assert "output_fp32_bits" not in timing
    assert (tmp_path / "timing.csv").read_text() == (tmp_path / "rtl.csv").read_text()


def test_timing_of_a_recording(tmp_path):
    arguments = (*P, "--kv", SLICE, "--layer", "10", "--step", "3", "--backend", "timing", "--json", "out.json")
    assert attention(*arguments, cwd=tmp_path).returncode == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert (document["num_tokens"], document["head_dim"]) == (867, 64)
    assert 0 < document["utilization_of_peak"] < document["utilization_of_legal_limit"] < 1


@pytest.mark.skipif(not icarus_available(), reason="Icarus Verilog is not installed (iverilog, vvp)")
def test_waves(tmp_path):
    shape = ("--preset", "tiny", "--shape", "2,1,16,20", "--backend", "rtl", "--threads", "2")
    done = attention(*shape, "--waves", "waves", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (waveform,) = (tmp_path / "waves").rglob("*.fst")
    assert waveform.stat().st_size > 10_000
    assert waveform.name in done.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*P,), "give one of --kv FILE.npz with --layer and --step, --shape, and --model"),
        ((*P, "--kv", SLICE), "--kv requires --layer and --step"),
        ((*P, "--kv", SLICE, "--layer", "3", "--step", "0"), "--layer must be one of 10 of smollm2_slice.npz, not 3"),
        ((*P, "--kv", SLICE, "--layer", "10", "--step", "4"), "--step must be 0..3, not 4"),
        ((*P, "--kv", "gone.npz", "--layer", "10", "--step", "4"), "--kv must be an existing file, not 'gone.npz'"),
        ((*P, "--kv", __file__, "--layer", "10", "--step", "4"), "is not a readable .npz file"),
        (
            (*P, "--shape", "4,2,64"),
            "--shape must be four numbers: q_heads,kv_heads,head_dim,tokens, none below 0, not '4,2,64'",
        ),
        ((*P, "--shape", "4,2,64,0"), "tokens of --shape must be 1..1048576, not 0"),
        ((*P, "--shape", "4,2,64,5", "--layer", "3"), "--layer requires --kv"),
        ((*P, "--shape", "4,2,64,5", "--json", "nowhere/x"), "--json must be a file in a folder that exists"),
        (
            (*P, "--shape", "4,2,64,5", "--backend", "timing", "--json", "q", "--trace-commands", "q"),
            "--json and --trace-commands must be different files, not 'q'",
        ),
        ((*P, "--shape", "4,3,64,5"), "num_q_heads must be a multiple of num_kv_heads (3), not 4"),
        ((*P, "--shape", "4,2,65,5"), "head_dim must be a power of two in 16..256, not 65"),
        ((*P, "--shape", "4,2,64,5", "--backend", "timing", "--threads", "2"), "--threads 2 requires --backend rtl"),
        ((*P, "--shape", "4,2,64,0", "--backend", "timing"), "tokens of --shape must be 1..1048576, not 0"),
        ((*P, "--shape", "128,128,128,1048576", "--backend", "timing"), "rows of K and V must be at most"),
        ((*P, "--backend", "timing"), "give one of --kv FILE.npz with --layer and --step, --shape, and --model"),
        ((*P, "--shape", "4,2,32,5"), "head_dim must be at least 64"),
        (
            (*P, "--shape", "4,2,64,5", "--static-order"),
            "--static-order requires --backend rtl or timing",
        ),
        ((*P, "--shape", "4,2,64,5", "--waves", "w"), "--waves requires --backend rtl"),
        ((*P, "--shape", "4,2,64,5", "--threads", "2"), "--threads 2 requires --backend rtl"),
        ((*P, "--shape", "4,2,64,5", "--threads", "3"), "3 is not in the range 1<=x<=2"),
        ((*P, "--shape", "4,2,64,5", "--trace-commands", "c.csv"), "--trace-commands requires --backend rtl or timing"),
        (("--preset", "ddr4-3200-x8-8gb-bf16", "--shape", "4,2,64,5"), "format of the preset must be fp16"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, text, tmp_path):
    done = attention(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
