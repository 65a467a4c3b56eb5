"""`--gpu-model` and `dimmpim gpu-times` as a user meets them."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from pimhost.gpu.registry import gpu_times

TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,300,20\n0.5,2000,5\n0.6,40,1\n"
REQUESTS = ("--model", "Llama-3.1-70B", "--trace", "t.csv")
MEASURED = ("--gpu-model", "aiconfigurator")


@pytest.fixture
def dimmpim(tmp_path, monkeypatch, in_process):
    (tmp_path / "t.csv").write_text(TRACE)
    monkeypatch.chdir(tmp_path)
    return in_process


def test_the_default_is_recorded(dimmpim, tmp_path):
    status, _, err = dimmpim("serve", "--system", "GPU", *REQUESTS, "--json", "a.json")
    assert status == 0, err
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["node"]["gpu_model"] == "roofline"
    assert document["gpu_times"].startswith("fitted on ai-dynamo/aiconfigurator")


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--system", "L3", *REQUESTS, *MEASURED, "--json", "out.json"),
        ("compare", "--systems", "GPU,L3", *REQUESTS, *MEASURED, "--json", "out.json"),
        ("sweep", "serve", "--system", "L3", *REQUESTS, "--gpu-model", "roofline", *MEASURED, "--out", "out.csv"),
        ("gpu-times", "--model", "Llama-3-8B"),
    ],
)
def test_a_missing_package_is_reported(dimmpim, tmp_path, monkeypatch, arguments):
    for name in ("aiconfigurator_core", "aiconfigurator_core.sdk"):
        monkeypatch.setitem(sys.modules, name, None)
    gpu_times.cache_clear()
    status, out, err = dimmpim(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("dimmpim: error: the GPU model 'aiconfigurator' needs aiconfigurator-core")
    assert err.endswith("pip install 'dimmpim[aiconfigurator]'\n")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_an_unknown_model_is_refused(dimmpim):
    status, _, err = dimmpim("serve", "--system", "L3", *REQUESTS, "--gpu-model", "abacus")
    assert status == 2
    assert "'abacus' is not one of 'roofline', 'aiconfigurator'" in err


def test_serve_compare_and_sweep_agree(dimmpim, tmp_path):
    pytest.importorskip("aiconfigurator_core")
    for name in ("a.json", "b.json"):
        status, _, err = dimmpim("serve", "--system", "GPU", *REQUESTS, *MEASURED, "--json", name)
        assert (status, err) == (0, "")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    served = json.loads((tmp_path / "a.json").read_text())
    assert served["gpu_times"].startswith("aiconfigurator-core 0.")
    status, _, err = dimmpim("compare", "--systems", "GPU,L3", *REQUESTS, *MEASURED, "--json", "c.json", "--jobs", "2")
    assert (status, err) == (0, "")
    runs = json.loads((tmp_path / "c.json").read_text())["runs"]
    assert runs[0] == served
    assert runs[1]["figures"]["finished"] == 3
    both = ("--gpu-model", "roofline", *MEASURED)
    status, _, err = dimmpim("sweep", "serve", "--system", "GPU", *REQUESTS, *both, "--out", "d.csv", "--jobs", "1")
    assert (status, err) == (0, "")
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert [row["gpu_model"] for row in rows] == ["roofline", "aiconfigurator"]
    assert float(rows[1]["seconds"]) == served["figures"]["seconds"] != float(rows[0]["seconds"])


def test_gpu_times_prints_every_kernel(dimmpim):
    pytest.importorskip("aiconfigurator_core")
    status, out, err = dimmpim("gpu-times", "--gpu", "H200", "--model", "Llama-3-70B", "--tp", "8")
    assert (status, err) == (0, "")
    assert "Llama-3.1-70B on 8 H200: one layer on one GPU, us" in out
    assert out.count("GEMM ffn_out") == 4
    assert out.count("all-reduce") == 4
    assert "aiconfigurator: aiconfigurator-core 0." in out


def test_a_shape_that_was_not_measured_is_reported(dimmpim, tmp_path):
    pytest.importorskip("aiconfigurator_core")
    arguments = ("--model", "SmolLM2-135M", "--trace", "t.csv", "--tp", "1", "--gpu", "A100")
    status, _, err = dimmpim("serve", "--system", "GPU", *arguments, *MEASURED, "--json", "a.json")
    assert status == 2
    assert err.startswith("dimmpim: error: aiconfigurator-core 0.")
    assert "has no prefill_attention of 9 q_heads and 3 kv_heads of 64" in err
    assert not (tmp_path / "a.json").exists()
