"""GPU model: its formulas, its constants, and the cost of a layer."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pimhost.gpu.interconnect import DDR4_3200_CHANNEL, LINKS, PCIE4_X16, link_named
from pimhost.gpu.llm_cost import LlmCost
from pimhost.gpu.model import GpuModel, load_constants
from pimhost.gpu.specs import GPUS
from pimhost.models import shape_named
from pimspec.errors import ParameterError, UnknownNameError

pytestmark = pytest.mark.filterwarnings("error")
NAMES = tuple(GPUS)


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_beats_the_data_sheet(name):
    gpu = GpuModel.named(name)
    peak, bandwidth = gpu.spec.peak_flop_per_s, gpu.spec.bandwidth_bytes_per_s
    for m, n, k in ((1, 8192, 8192), (17, 28672, 8192), (4096, 8192, 28672), (32768, 65536, 65536)):
        assert gpu.gemm_ns(m, n, k) >= 1e9 * max(2 * m * n * k / peak, 2 * (m * n + n * k + m * k) / bandwidth)
    for batch, tokens, q, kv in ((1, 131072, 64, 8), (256, 256 * 4096, 8, 1), (64, 64 * 8192, 12, 12)):
        assert gpu.decode_attention_ns(batch, tokens, q, kv, 128) >= 1e9 * 4 * tokens * kv * 128 / bandwidth
    for tokens in (1, 512, 16384):
        assert gpu.prefill_attention_ns(4, tokens, 64, 8, 128) >= 1e9 * 4 * 64 * tokens**2 * 128 * 2 / peak


@pytest.mark.parametrize("name", NAMES)
def test_more_work_takes_longer(name):
    gpu = GpuModel.named(name)
    sizes = [2**e for e in range(18)]
    for times in (
        [gpu.gemm_ns(m, 8192, 8192) for m in sizes],
        [gpu.decode_attention_ns(1, tokens, 64, 8, 128) for tokens in sizes],
        [gpu.prefill_attention_ns(1, tokens, 64, 8, 128) for tokens in sizes],
        [gpu.prefill_attention_ns(1, 512, 64, 8, 128, prefix=prefix) for prefix in sizes],
        [gpu.elementwise_ns(num_bytes) for num_bytes in sizes],
    ):
        assert all(a <= b for a, b in pairwise(times))
        assert times[0] < times[-1]
        assert all(isinstance(ns, int) and ns >= 500 for ns in times)


def test_chunks_of_a_prompt_take_longer_than_the_prompt():
    gpu = GpuModel.named("H100")
    whole = gpu.prefill_attention_ns(1, 8192, 64, 8, 128)
    chunks = [gpu.prefill_attention_ns(1, 1024, 64, 8, 128, prefix=p) for p in range(0, 8192, 1024)]
    assert whole < sum(chunks) < 2 * whole


def test_all_reduce():
    gpu = GpuModel.named("A100")
    assert gpu.all_reduce_ns(1 << 20, 1) == gpu.all_reduce_ns(0, 8) == 0
    # A ring of 8 sends 7/4 of a message: NCCL reaches 0.6 to 0.9 of NVLink with long ones.
    assert 0.6 < (1 << 28) * 7 / 4 / gpu.all_reduce_ns(1 << 28, 8) / 300 < 0.9
    assert gpu.all_reduce_ns(256, 2) < gpu.all_reduce_ns(256, 8) < gpu.all_reduce_ns(1 << 20, 8)
    with pytest.raises(ParameterError, match="L40S has no measured all_reduce"):
        GpuModel.named("L40S").all_reduce_ns(1024, 2)


def test_arguments_out_of_range_are_refused():
    gpu = GpuModel.named("H100")
    with pytest.raises(UnknownNameError, match="did you mean 'H100'"):
        GpuModel.named("H10")
    with pytest.raises(ParameterError, match="m must be 1 or more, not 0"):
        gpu.gemm_ns(0, 1, 1)
    with pytest.raises(ParameterError, match="at least one for each of 4"):
        gpu.decode_attention_ns(4, 3, 8, 8, 128)
    with pytest.raises(ParameterError, match=r"1\.\.8"):
        gpu.all_reduce_ns(1, 16)


@pytest.mark.parametrize("text", ["", "[]", '{"gpus": {"H100": {"gemm": {}}}}', '{"gpus": {"H100": {"nonsense": {}}}}'])
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ParameterError, match=r"c\.json: not written by"):
        load_constants(tmp_path / "c.json")


def test_links():
    assert PCIE4_X16.bytes_per_s == pytest.approx(31.5e9, rel=1e-3)
    assert DDR4_3200_CHANNEL.bytes_per_s == 25.6e9
    assert DDR4_3200_CHANNEL.transfer_ns(0) == 0
    assert DDR4_3200_CHANNEL.transfer_ns(25_600) == 30 + 1000
    assert all(link.source and link_named(name) is link for name, link in LINKS.items())
    with pytest.raises(UnknownNameError):
        link_named("CXL")


def test_gemms_of_a_layer_hold_its_weights():
    for name, tp in (("Llama-3.1-70B", 8), ("GPT-175B", 8), ("OPT-66B", 2), ("Qwen2.5-72B", 4), ("Llama-3.1-8B", 1)):
        shape = shape_named(name)
        cost = LlmCost(gpu=GpuModel.named("A100"), shape=shape, tp_size=tp)
        assert tp * sum(n * k for _, _, n, k in cost.gemm_shapes(1)) == shape.layer_parameters


def test_layer_cost_adds_up():
    gpu, shape = GpuModel.named("H100"), shape_named("Llama-3.1-8B")
    cost = LlmCost(gpu=gpu, shape=shape)
    gemms = sum(gpu.gemm_ns(m, n, k) for _, m, n, k in cost.gemm_shapes(64))
    assert gemms < cost.layer_ns(64) < 1.3 * gemms
    layers = 32 * (cost.layer_ns(64) + cost.decode_attention_ns(64, 64_000))
    assert cost.decode_step_ns(64, 64_000) == layers + cost.lm_head_ns(64)
    two = LlmCost(gpu=gpu, shape=shape, tp_size=2)
    assert cost.layer_ns(4096) / 2 < two.layer_ns(4096) < cost.layer_ns(4096)
    assert cost.weight_bytes == 2 * two.weight_bytes


def test_uneven_splits_are_refused():
    gpu = GpuModel.named("A100")
    with pytest.raises(ParameterError, match="tp_size must be a divisor of the q_heads"):
        LlmCost(gpu=gpu, shape=shape_named("SmolLM2-135M"), tp_size=2)
    assert LlmCost(gpu=gpu, shape=shape_named("Qwen2.5-7B"), tp_size=4).tp_kv_heads == 1
