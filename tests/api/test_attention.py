"""`dimmpim.attention` and `attention_time`: the backends agree, and so does the command line."""

from __future__ import annotations

import numpy as np
import pytest

import dimmpim
from pimhost.reference import reference_attention
from pimsim.rule_checker import RuleChecker

from .conftest import timeless

Q, K, V = dimmpim.synthetic_qkv(num_q_heads=4, num_kv_heads=2, head_dim=16, num_tokens=150, seed=3)
SHAPE = ("--preset", "tiny", "--shape", "4,2,16,150", "--seed", "3")


def on(backend, **options):
    return dimmpim.attention(Q, K, V, backend=backend, preset="tiny", **options)


@pytest.fixture(scope="module")
def rtl():
    return on("rtl", trace=True)


def test_rtl_equals_the_golden_model_and_the_timing_model(rtl):
    golden, timing = on("golden"), on("timing", trace=True)
    np.testing.assert_array_equal(rtl.output, golden.output)
    np.testing.assert_array_equal(rtl.statistics, golden.statistics)
    assert rtl.golden_mismatches == 0
    assert timing.output is None
    for name in ("clocks", "ns", "streamed_bytes", "utilization_of_peak", "utilization_of_legal_limit", "energy"):
        assert getattr(rtl, name) == getattr(timing, name), name
    assert rtl.commands == timing.commands


def test_commands_obey_the_dram_rules(rtl):
    rank = dimmpim.preset("tiny").rank
    checker = RuleChecker((rank.timing, rank.organization), rank.engine.constraints)
    for command in rtl.commands:
        checker.issue(command)


def test_the_reference_is_float64_attention():
    exact = on("reference")
    np.testing.assert_array_equal(exact.output, reference_attention(Q, K, V).output)
    golden = on("golden")
    np.testing.assert_allclose(golden.statistics, exact.statistics, rtol=1e-3)
    assert 0 < golden.max_error < 1e-3
    assert exact.max_error == 0
    difference = np.linalg.norm(golden.output - exact.output, axis=1) / np.linalg.norm(exact.output, axis=1)
    np.testing.assert_allclose(golden.relative_l2_error, difference)


def test_the_softmax_scale_counts():
    assert not np.array_equal(on("golden", softmax_scale=1.0).output, on("golden").output)
    assert on("golden", softmax_scale=1.0).max_error < 1e-2


@pytest.mark.parametrize("backend", ["golden", "rtl", "timing", "reference"])
def test_results_are_those_of_the_command_line(backend, command_json):
    written = command_json("attention", *SHAPE, "--backend", backend)
    own = timeless(on(backend).to_dict())
    assert {**own, "source": written["source"]} == written


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"q": Q.astype(np.float32)}, "q.dtype must be float16, not 'float32'"),
        ({"q": Q[0]}, "q.shape must be (num_q_heads, head_dim)"),
        ({"v": V[:, :9]}, "k.shape and v.shape must be equal"),
        ({"k": K[:, :0], "v": V[:, :0]}, "k.shape and v.shape must be equal"),
        ({"q": Q[:3]}, "num_q_heads must be a multiple of num_kv_heads (2), not 3"),
        ({"q": Q[:, :8]}, "head_dim of k must be that of q, 8, not 16"),
        ({"v": V * np.float16(np.inf)}, "v must be finite"),
        ({"preset": "ddr4-3200-x8-8gb-bf16"}, "format of the preset must be fp16"),
        ({"trace": True}, "backend must be rtl or timing, not 'golden'"),
        ({"threads": 2}, "backend must be rtl, not 'golden'"),
        ({"backend": "gpu"}, "unknown backend 'gpu'"),
    ],
)
def test_wrong_arrays_are_told(change, text):
    given = {"q": Q, "k": K, "v": V, "preset": "tiny", **change}
    with pytest.raises(dimmpim.PimError) as caught:
        dimmpim.attention(**given)
    assert text in str(caught.value)


# The time of a model on ranks.


def test_kv_heads_are_dealt_over_ranks():
    one, three, eight, many = (
        dimmpim.attention_time("Llama-3.1-8B", 4096, ranks=ranks) for ranks in (1, 3, 8, 64)
    )  # fmt: skip
    assert (one.kv_heads_of_ranks, three.kv_heads_of_ranks) == ((8,), (3, 3, 2))
    assert (eight.kv_heads_of_ranks, eight.layer_sets) == ((1,) * 8, 1)
    assert (many.kv_heads_of_ranks, many.layer_sets) == ((1,) * 8, 8)
    assert one.ns > three.ns > eight.ns == many.ns
    assert (three.rank_balance, eight.rank_balance) == (pytest.approx(8 / 9), 1)
    assert one.token_kv_bytes == eight.token_kv_bytes == 4096 * dimmpim.model("Llama-3.1-8B").kv_bytes_per_token()
    assert many.kv_bytes_of_rank * 64 == one.kv_bytes_of_rank == one.token_kv_bytes
    assert one.token_clocks == 32 * one.layer_clocks
    assert one.token_ns == pytest.approx(one.token_clocks * 2.5)


def test_tensor_parallel_gpus_share_ranks_out():
    alone, four = (dimmpim.attention_time("GPT-175B", 2048, ranks=8, tp=tp) for tp in (1, 4))
    assert alone.kv_heads_of_ranks == four.kv_heads_of_ranks == (12,) * 8
    assert alone.clocks == four.clocks
    replicated = dimmpim.attention_time("Llama-3.1-8B", 2048, ranks=16, tp=16)
    assert replicated.kv_heads_of_ranks == (1,) * 16, "a kv_head is kept by two GPUs"


def test_more_queries_than_lanes_take_several_passes():
    large = dimmpim.attention_time("Llama-3.1-405B", 4096, ranks=8)
    small = dimmpim.attention_time("Llama-3.1-70B", 4096, ranks=8)
    assert (large.passes, small.passes) == (2, 1)
    assert large.layer_clocks == 2 * small.layer_clocks


def test_what_bounds_a_rank_is_told():
    def bound(*arguments, **options):
        return dimmpim.attention_time(*arguments, **options).bound

    assert bound("Llama-3.1-8B", 65536) == "banks"
    assert bound("Llama-3.1-8B", 64) == "latency"
    assert bound("Llama-3.1-70B", 2048) == "data bus"  # below, turning the bus around costs as much
    assert bound("Llama-3.1-8B", 8192, static_order=True) == "static order"


def test_a_batch_is_as_many_kv_heads():
    batch = dimmpim.attention_time("Llama-3.1-8B", 1024, ranks=8, batch=8)
    assert batch.layer_clocks == dimmpim.attention_time("Llama-3.1-8B", 1024).layer_clocks
    assert not dimmpim.attention_time("Llama-3.1-70B", 100_000).fits_in_memory


def test_the_time_of_a_model_is_that_of_its_layer():
    """Clocks of `attention` on the timing model, but for the format of the outputs."""
    q, k, v = dimmpim.synthetic_qkv(num_q_heads=9, num_kv_heads=3, head_dim=64, num_tokens=700)
    layer = dimmpim.attention(q, k, v, backend="timing").clocks
    assert dimmpim.attention_time("SmolLM2-135M", 700).layer_clocks == pytest.approx(layer, rel=0.02)


def test_the_command_line_tells_the_same_time(command, command_json):
    options = ("--model", "Llama-3.1-405B", "--ranks", "32", "--tokens", "3000", "--tp", "4", "--batch", "2")
    time = dimmpim.attention_time("Llama-3.1-405B", 3000, ranks=32, tp=4, batch=2)
    assert command_json("attention", *options) == timeless(time.to_dict())
    status, printed, _ = command("attention", *options)
    assert status == 0
    assert f"{time.layer_clocks:,}" in printed
    assert f"{time.token_clocks:,}" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--model", "GPT-1"), "unknown model 'GPT-1'"),
        (("--model", "GPT-175B", "--shape", "1,1,16,3"), "--model and --shape exclude each other"),
        (("--model", "GPT-175B", "--seed", "3"), "--model and --seed exclude each other"),
        (("--model", "GPT-175B", "--backend", "rtl"), "--model requires --backend timing"),
        (("--ranks", "3", "--shape", "1,1,16,3"), "--ranks requires --model"),
        (("--model", "GPT-175B", "--ranks", "3", "--tp", "2"), "ranks must be a multiple of 2"),
        (("--model", "GPT-175B", "--json", "nowhere/x"), "--json must be a file in a folder that exists"),
    ],
)
def test_wrong_options_of_a_model_are_one_line_and_status_2(arguments, text, command):
    status, _, errors = command("attention", *arguments)
    assert status == 2
    assert text in errors
    assert len(errors.strip().splitlines()) == 1
