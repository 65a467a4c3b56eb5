"""Fit of the GPU model: its error on held-back rows, and recovery of known constants."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from dataclasses import asdict, astuple, fields
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from pimhost.gpu.fitting import Rows, document, fit_all, fit_rows, measure_error, split
from pimhost.gpu.llm_cost import LlmCost
from pimhost.gpu.model import CONSTANTS_FILE, GpuModel, load_constants
from pimhost.gpu.operators import DecodeConstants, decode_attention_s, gemm_s
from pimhost.gpu.profiles import OPERATORS, read_rows
from pimhost.gpu.specs import GPUS
from pimhost.models import shape_named
from pimspec.errors import ParameterError

PROFILES = Path(__file__).parents[4] / "shared" / "data" / "gpu_profiles"
needs_profiles = pytest.mark.skipif(not PROFILES.is_dir(), reason=f"no measured kernel times in {PROFILES}")
SLICES = Path(__file__).parents[2] / "data" / "gpu_profiles"
"""Some rows of the same tables; origin and licence are in the README beside them."""
ALLOWED = 0.10
FITS = [(gpu, name) for gpu in GPUS for name in OPERATORS if (gpu, name) != ("L40S", "all_reduce")]


@pytest.fixture(params=["slices", "tables"])
def measured(request):
    """The folder of measured kernel times: rows that are part of the project, and all where they are at hand."""
    if request.param == "tables" and not PROFILES.is_dir():
        pytest.skip(f"no measured kernel times in {PROFILES}")
    return SLICES if request.param == "slices" else PROFILES


def _documented(gpu, name):
    return json.loads(CONSTANTS_FILE.read_text())["gpus"][gpu][name]


def test_the_free_constants_are_listed():
    free = {name: [f.name for f in fields(operator.initial)] for name, operator in OPERATORS.items()}
    assert free == {
        "gemm": ["launch_s", "compute", "tile_exponent", "fill_k", "throttle", "memory"],
        "prefill_attention": ["launch_s", "compute", "block_keys", "memory"],
        "decode_attention": ["launch_s", "memory", "sequence_tokens", "full_blocks"],
        "all_reduce": ["launch_s", "gpu_s", "short", "long", "long_s"],
    }


def test_every_gpu_and_operator_has_constants():
    assert [(gpu, name) for gpu, ops in load_constants().items() for name in ops] == FITS


@pytest.mark.parametrize(("gpu", "name"), FITS)
def test_the_documented_error_stays_within_the_bound(gpu, name):
    error = _documented(gpu, name)["error"]
    print(
        f"{gpu} {name}: median {error['median']:.1%}, 90 % below {error['p90']:.1%}, {error['held_back_trusted']} rows"
    )
    assert error["median"] <= ALLOWED
    assert error["median"] <= error["median_all"] or error["held_back_rows"] == error["held_back_trusted"]


@needs_profiles
@pytest.mark.parametrize(("gpu", "name"), FITS)
def test_error_on_rows_held_back(gpu, name):
    rows = read_rows(PROFILES, name, GPUS[gpu])
    error = measure_error(load_constants()[gpu][name], OPERATORS[name], GPUS[gpu], rows)
    print(f"{gpu} {name}: median {error.median:.1%}, 90 % below {error.p90:.1%}, {error.held_back_trusted} rows")
    assert error.median <= ALLOWED
    assert asdict(error) == pytest.approx(_documented(gpu, name)["error"], abs=2e-4)
    assert rows.file == _documented(gpu, name)["file"]


@pytest.mark.parametrize("name", OPERATORS)
def test_error_on_a_slice(name):
    """Rows from all over the tables of H100, those that were fitted among them."""
    gpu, operator = GPUS["H100"], OPERATORS[name]
    rows = read_rows(SLICES, name, gpu)
    error = np.abs(operator.time_s(load_constants()["H100"][name], gpu, *rows.shape) / rows.time_s - 1)[rows.trusted]
    print(f"{name}: median {np.median(error):.1%} of {len(error)} rows")
    assert len(error) >= 30
    assert np.median(error) <= ALLOWED


@needs_profiles
def test_fit_gives_the_documented_constants():
    names = ("prefill_attention", "decode_attention", "all_reduce")
    for fitted in fit_all(PROFILES, gpus=("H100",), operators=names):
        assert asdict(fitted.constants) == pytest.approx(_documented("H100", fitted.operator)["constants"], rel=0.01)


def test_the_fit_finds_known_constants():
    gpu, operator = GPUS["L40S"], OPERATORS["decode_attention"]
    known = DecodeConstants(launch_s=7e-6, memory=0.7, sequence_tokens=60.0, full_blocks=30.0)
    rng = np.random.default_rng(5)
    batch, kv_heads = 2.0 ** rng.integers(0, 9, 600), 2.0 ** rng.integers(0, 4, 600)
    shape = (batch, batch * 2.0 ** rng.integers(5, 18, 600), kv_heads * 2.0 ** rng.integers(0, 2, 600), kv_heads)
    shape = (*shape, np.full(600, 128.0))
    noise = np.exp(rng.normal(0, 0.02, 600))
    noise[::20] *= 5  # outliers
    rows = Rows(file="", shape=shape, time_s=operator.time_s(known, gpu, *shape) * noise, trusted=np.ones(600, bool))
    training, held_back = split(600)
    assert not set(training) & set(held_back)
    found = fit_rows(operator, gpu, rows, training)
    assert astuple(found) == pytest.approx(astuple(known), rel=0.05)
    assert measure_error(found, operator, gpu, rows).median < 0.03


def test_foreign_tables_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="has no table that fits"):
        fit_all(tmp_path)
    path = tmp_path / "aic_h100_sxm_gemm_bf16.csv.gz"
    for content in (gzip.compress(b"m,n,k\n1,2,3\n"), gzip.compress(b"m,n,k,latency_ms\n1,2,x,1\n"), b"m,n,k"):
        path.write_bytes(content)
        with pytest.raises(ParameterError, match="not a table of gemm"):
            fit_all(tmp_path)


def test_the_same_rows_give_the_same_document(tmp_path):
    rng = np.random.default_rng(3)
    lines = [f"{2**a},{2**b},{2**c},{rng.uniform(0.01, 1):.6f}" for a, b, c in rng.integers(5, 14, (80, 3))]
    table = "\n".join(["m,n,k,latency_ms", *lines]).encode()
    (tmp_path / "aic_a100_sxm_gemm_bf16.csv.gz").write_bytes(gzip.compress(table))
    first, second = (json.dumps(document(fit_all(tmp_path))) for _ in range(2))
    assert first == second


def _serving(folder, hardware, batch_size):
    """Measured ms of Llama-2-70B for one batch size, by (kind, tp_size, prompt tokens)."""
    measured = defaultdict(list)
    with gzip.open(folder / "splitwise_perf_model.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            if (row["model"], row["hardware"], row["batch_size"]) == ("llama2-70b", hardware, batch_size):
                for kind in ("prompt", "token"):
                    key = (kind, int(row["tensor_parallel"]), int(row["prompt_size"]))
                    measured[key].append(float(row[f"{kind}_time"]))
    return {key: median(values) for key, values in measured.items()}


@pytest.mark.parametrize(
    ("gpu", "batch", "least", "most"),
    [("A100", 1, 0.74, 1.02), ("A100", 32, 0.46, 0.82), ("H100", 1, 0.52, 0.90), ("H100", 32, 0.42, 0.78)],
)
def test_prompts_agree_with_measured_serving(measured, gpu, batch, least, most):
    """Model over measurement (splitwise-sim), nothing fitted: the model has the kernels alone.

    The gap is largest for H100 and for batches of 32; these bounds record it, its cause is not established. Decode
    steps are not compared: with 4 and 8 GPUs they were measured as equal, so the host seems to dominate them.
    """
    times = _serving(measured, f"{gpu.lower()}-80gb", str(batch))
    compared = 0
    for tp in (2, 4, 8):
        cost = LlmCost(gpu=GpuModel.named(gpu), shape=shape_named("Llama-2-70B"), tp_size=tp)
        for tokens in (512, 2048):
            if ("prompt", tp, tokens) not in times:
                continue
            layer_ns = cost.layer_ns(batch * tokens) + cost.prefill_attention_ns(tokens, batch=batch)
            ratio = (80 * layer_ns + cost.lm_head_ns(batch)) / 1e6 / times["prompt", tp, tokens]
            print(f"{gpu} tp {tp}, {batch} x {tokens} tokens: model / measured {ratio:.2f}")
            assert least <= ratio <= most
            compared += 1
    assert compared >= 2


def _vidur(folder, name, *columns):
    with gzip.open(folder / name, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[column] or "nan") for row in rows]) for column in columns]


@pytest.mark.parametrize(("gpu", "allowed"), [("A100", 0.10), ("H100", 0.25)])
def test_gemms_agree_with_vidur(measured, gpu, allowed):
    """vidur's projections of Llama-2-70B, weights of 20 MB or more; its H100 ran large GEMMs a sixth slower."""
    m, tp, *times = _vidur(
        measured,
        f"vidur_{gpu.lower()}_Llama-2-70b-hf_mlp.csv.gz",
        "num_tokens",
        "num_tensor_parallel_workers",
        *(f"time_stats.{op}.median" for op in ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")),
    )
    shapes = ((10240 / tp, 8192), (8192, 8192 / tp), (2 * 28672 / tp, 8192), (8192, 28672 / tp))
    for (n, k), ms in zip(shapes, times, strict=True):
        error = np.abs(gemm_s(load_constants()[gpu]["gemm"], GPUS[gpu], m, n, k) / ms * 1e3 - 1)
        counted = error[(2 * n * k >= 2e7) & (ms > 0)]
        print(f"{gpu}: median {np.median(counted):.1%} of {len(counted)} rows")
        assert np.median(counted) <= allowed


def test_decode_attention_agrees_with_vidur(measured):
    """vidur's paged FlashAttention on A100, 32 q_heads and 4 kv_heads a GPU, K and V of 0.2 GB or more."""
    names = ("batch_size", "kv_cache_size", "time_stats.attn_decode.median")
    batch, length, ms = _vidur(measured, "vidur_a100_attention_q64kv8.csv.gz", *names)
    chosen = (batch * length * 4 * 512 >= 2e8) & (ms > 0)
    batch, length, ms = batch[chosen], length[chosen], ms[chosen]
    constants = load_constants()["A100"]["decode_attention"]
    time_s = decode_attention_s(constants, GPUS["A100"], batch, batch * length, 32, 4, 128)
    assert np.median(np.abs(time_s / ms * 1e3 - 1)) <= 0.12


def test_all_reduce_agrees_with_vidur(measured):
    """Vidur's times on a DGX A100, in bytes: long messages show whether the fitted tables' sizes were understood."""
    gpu, rows = GpuModel.named("A100"), 0
    with gzip.open(measured / "vidur_a100_dgx_all_reduce.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            size, gpus = int(float(row["size"])), int(row["num_workers"])
            if size >= 1 << 22 and int(row["devices_per_node"]) == gpus:
                ratio = gpu.all_reduce_ns(size, gpus) / 1e6 / float(row["time_stats.all_reduce.median"])
                assert 0.65 < ratio < 1.15, f"{gpus} GPUs, {size} bytes"
                rows += 1
    assert rows > 20


@pytest.mark.parametrize(
    "text", ["garbage\n", "m,n,k,latency_ms\n", "m,n,k,latency_ms\n1,2,3,-1\n", "m,n,k,latency_ms\n1,2,3,nan\n"]
)
def test_a_table_without_times_is_refused(tmp_path, text):
    (tmp_path / "aic_h100_sxm_gemm_bf16.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ParameterError, match=r"gemm_bf16\.csv\.gz: not a table of gemm: "):
        fit_all(tmp_path)
