"""`dimmpim workload` and `dimmpim fit-gpu` as a user meets them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

VIDUR = "num_prefill_tokens,num_decode_tokens\n3772,54\n2015,156\n"


def dimmpim(*arguments, cwd):
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_synthetic_lengths(tmp_path):
    arguments = ("workload", "--lengths", "OpenR1", "--requests", "50", "--seed", "7", "--rate", "2")
    first = dimmpim(*arguments, "--out", "a.csv", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "OpenR1 (synthetic): 50 requests" in first.stdout
    second = dimmpim(*arguments, "--out", "b.csv", cwd=tmp_path)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert first.stdout == second.stdout
    again = dimmpim("workload", "--trace", "a.csv", cwd=tmp_path)
    assert "a.csv (synthetic): 50 requests" in again.stdout


def test_trace(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(VIDUR.encode()))
    done = dimmpim("workload", "--trace", "t.csv.gz", "--out", "out.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 requests in 0.0 s, all at once" in " ".join(done.stdout.split())
    assert "2,893.5" in done.stdout
    assert (tmp_path / "out.csv").read_text().splitlines()[2:] == ["0,3772,54", "0,2015,156"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--trace", "t.csv"), "t.csv:4: num_decode_tokens must be 1..2147483648, not -3"),
        (("--trace", "t.csv", "--lengths", "OpenR1"), "give either --trace or --lengths"),
        ((), "give either --trace or --lengths"),
        (("--lengths", "OpenR1", "--format", "azure"), "--format requires --trace"),
        (
            ("--lengths", "OpenR1", "--rate", "-1"),
            "Invalid value for '--rate': -1.0 is not in the range 0<x<=1000000000.0.",
        ),
        (("--lengths", "nothing"), "unknown length set 'nothing'; allowed: Dolphin-r1, OpenR1, OpenThoughts"),
    ],
)
def test_refusals_write_nothing(tmp_path, arguments, reason):
    (tmp_path / "t.csv").write_text(VIDUR + "17,-3\n")
    done = dimmpim("workload", *arguments, "--out", "out.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dimmpim: error: {reason}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_fit_gpu(tmp_path):
    rows = [
        f"{size},{gpus},{0.01 * gpus + size * 1e-8:.6f}" for size in (2**e for e in range(8, 28)) for gpus in (2, 4)
    ]
    table = "\n".join(["message_size,num_gpus,latency_ms", *rows])
    (tmp_path / "aic_h100_sxm_nccl_half.csv.gz").write_bytes(gzip.compress(table.encode()))
    done = dimmpim("fit-gpu", "--profiles", ".", "--out", "constants.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all_reduce" in done.stdout
    document = json.loads((tmp_path / "constants.json").read_text())
    assert set(document["gpus"]["H100"]) == {"all_reduce"}
    (tmp_path / "none").mkdir()
    done = dimmpim("fit-gpu", "--profiles", "none", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr == "dimmpim: error: none has no table that fits, such as aic_h100_sxm_gemm_bf16.csv.gz\n"
