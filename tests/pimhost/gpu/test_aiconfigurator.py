"""GPU times from measured tables: the mapping on invented tables, and the package itself where it is installed."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from pimhost.gpu.aiconfigurator import MeasuredGpu, NotMeasuredError
from pimhost.gpu.llm_cost import LlmCost
from pimhost.gpu.registry import GPU_MODELS, gpu_times
from pimhost.gpu.specs import GPUS
from pimhost.models import shape_named
from pimhost.systems.node import Node
from pimspec.errors import ParameterError, UnknownNameError


class Invented:
    """Invented tables whose times encode the query."""

    name = "invented"

    def __init__(self):
        self.asked = []

    def gemm_ms(self, m, n, k):
        if k == 13:
            raise NotMeasuredError("no such k")
        return 0.002 * m + n * k * 1e-9

    def prefill_ms(self, batch, tokens, prefix, heads):
        return self._attention(("prefill", batch, tokens, prefix, heads), batch * tokens * (prefix + tokens) * 1e-6)

    def decode_ms(self, batch, length, heads):
        return self._attention(("decode", batch, length, heads), batch * length**2 * 1e-6)

    def _attention(self, asked, ms):
        self.asked.append(asked)
        _, kv_heads, head_dim = asked[-1]
        if head_dim not in (64, 128) or kv_heads not in (1, 2, 8):
            raise NotMeasuredError("no such heads")
        return ms

    def all_reduce_ms(self, elements, num_gpus):
        if num_gpus not in (2, 4, 8):
            raise NotMeasuredError("no such number")
        return elements * num_gpus * 1e-6

    def elementwise_ms(self, elements):
        return 0.003 + elements * 1e-9


@pytest.fixture
def tables():
    return Invented()


@pytest.fixture
def gpu(tables):
    return MeasuredGpu(tables)


@pytest.fixture
def absent(monkeypatch):
    """The package as if not installed."""
    for name in ("aiconfigurator_core", "aiconfigurator_core.sdk"):
        monkeypatch.setitem(sys.modules, name, None)
    gpu_times.cache_clear()
    yield
    gpu_times.cache_clear()


def test_table_times_are_converted_to_ns(gpu):
    assert gpu.gemm_ns(3, 1000, 1000) == 7_000
    assert gpu.all_reduce_ns(2000, 4) == 4_000_000 / 1e3
    assert gpu.all_reduce_ns(1999, 4) == gpu.all_reduce_ns(2000, 4)
    assert gpu.all_reduce_ns(2000, 1) == gpu.all_reduce_ns(0, 8) == 0
    assert gpu.elementwise_ns(2_000_000) == 4_000
    assert gpu.prefill_attention_ns(2, 10, 8, 2, 64, prefix=40) == 1_000_000 / 1e3
    assert gpu.source == "invented"


def test_sequences_are_looked_up_by_their_mean_length(gpu, tables):
    assert gpu.decode_attention_ns(4, 400, 8, 2, 64) == 4 * 100**2
    assert tables.asked == [("decode", 4, 100, (8, 2, 64))]
    between = gpu.decode_attention_ns(4, 403, 8, 2, 64)
    assert between == pytest.approx(4 * (0.25 * 100**2 + 0.75 * 101**2))
    assert tables.asked[1:] == [("decode", 4, 101, (8, 2, 64))]  # the other one is cached


def test_many_steps_equal_single_steps(gpu):
    tokens = 4 * 50 + 3 + 4 * np.arange(20)
    many = gpu.decode_attentions_ns(4, tokens, 8, 2, 64)
    assert many.dtype == np.int64
    assert many.tolist() == [gpu.decode_attention_ns(4, int(t), 8, 2, 64) for t in tokens]
    assert all(a < b for a, b in pairwise(many))
    fitted = gpu_times("roofline", "H100")
    many = fitted.decode_attentions_ns(4, tokens, 8, 2, 128)
    assert many.tolist() == [fitted.decode_attention_ns(4, int(t), 8, 2, 128) for t in tokens]


def test_missing_rows_are_reported_with_alternatives(gpu):
    with pytest.raises(ParameterError, match=r"invented has no gemm of 4 x 8 x 13$"):
        gpu.gemm_ns(4, 8, 13)
    with pytest.raises(ParameterError, match=r"num_gpus must be one of 2, 4, 8 in the all_reduce of invented, not 3$"):
        gpu.all_reduce_ns(1024, 3)
    for attention in (gpu.decode_attention_ns, gpu.prefill_attention_ns):
        with pytest.raises(ParameterError, match=r"head_dim must be one of 64, 128 in the .* of invented, not 72$"):
            attention(2, 100, 8, 2, 72)
        with pytest.raises(ParameterError, match=r"num_kv_heads must be one of 1, 2, 8 in the .* of invented, not 4$"):
            attention(2, 100, 8, 4, 64)
        with pytest.raises(ParameterError, match=r"invented has no .* of 9 q_heads and 3 kv_heads of 72, 2 x "):
            attention(2, 100, 9, 3, 72)


def test_arguments_are_checked_before_the_tables(gpu):
    with pytest.raises(ParameterError, match="m must be 1 or more, not 0"):
        gpu.gemm_ns(0, 1, 1)
    with pytest.raises(ParameterError, match="at least one for each of 4"):
        gpu.decode_attention_ns(4, 3, 8, 8, 128)
    with pytest.raises(ParameterError, match=r"1\.\.8"):
        gpu.all_reduce_ns(1, 16)


def test_a_layer_is_the_sum_of_its_kernels(gpu):
    cost = LlmCost(gpu=gpu, shape=shape_named("Llama-3.1-8B"), tp_size=2)
    gemms = sum(gpu.gemm_ns(m, n, k) for _, m, n, k in cost.gemm_shapes(64))
    small = sum(gpu.elementwise_ns(num_bytes) for num_bytes in cost.elementwise_bytes(64))
    assert cost.layer_ns(64) == gemms + small + 2 * gpu.all_reduce_ns(64 * 4096 * 2, 2)


def test_a_missing_package_is_reported(absent):
    with pytest.raises(ParameterError, match=r"cannot be imported .*: pip install 'dimmpim\[aiconfigurator\]'$"):
        gpu_times("aiconfigurator", "H100")
    assert gpu_times("roofline", "H100").gemm_ns(1, 4096, 4096) > 0
    node = Node(gpu_model="aiconfigurator")
    with pytest.raises(ParameterError, match="needs aiconfigurator-core"):
        _ = node.gpu_times


def test_names():
    assert tuple(GPU_MODELS) == ("roofline", "aiconfigurator")
    with pytest.raises(UnknownNameError, match=r"unknown GPU model 'rooflin'.*did you mean 'roofline'"):
        gpu_times("rooflin", "H100")
    with pytest.raises(UnknownNameError, match="unknown GPU 'H10'"):
        gpu_times("aiconfigurator", "H10")


@pytest.fixture(scope="module", params=tuple(GPUS))
def measured(request):
    pytest.importorskip("aiconfigurator_core")
    return request.param, gpu_times("aiconfigurator", request.param)


def test_more_work_takes_longer(measured):
    _, gpu = measured
    sizes = [4**e for e in range(8)]
    for times in (
        [gpu.gemm_ns(m, 8192, 8192) for m in sizes[2:]],
        [gpu.decode_attention_ns(8, 8 * tokens, 64, 8, 128) for tokens in sizes[3:]],
        [gpu.prefill_attention_ns(1, tokens, 64, 8, 128) for tokens in sizes[3:]],
        [gpu.prefill_attention_ns(1, 512, 64, 8, 128, prefix=prefix) for prefix in sizes[3:]],
        [gpu.elementwise_ns(4096 * tokens) for tokens in sizes],
        [gpu.all_reduce_ns(65536 * tokens, 2) for tokens in sizes],
    ):
        assert all(a < b for a, b in pairwise(times))
        assert all(isinstance(ns, int) and ns >= 500 for ns in times)


def test_no_kernel_that_streams_beats_the_data_sheet(measured):
    name, gpu = measured
    spec = GPUS[name]
    for m, n, k in ((1, 28672, 8192), (64, 28672, 8192), (4096, 28672, 8192)):
        num_bytes, flop = 2 * (m * n + n * k + m * k), 2 * m * n * k
        assert gpu.gemm_ns(m, n, k) >= 1e9 * max(flop / spec.peak_flop_per_s, num_bytes / spec.bandwidth_bytes_per_s)
    assert (
        gpu.decode_attention_ns(64, 64 * 8192, 64, 8, 128) >= 1e9 * 4 * 64 * 8192 * 8 * 128 / spec.bandwidth_bytes_per_s
    )


def test_times_agree_with_the_roofline(measured):
    """Kernels that dominate a large model; the roofline was fitted on older tables of the same origin."""
    name, gpu = measured
    fitted = gpu_times("roofline", name)
    for m in (1, 64, 4096):
        assert gpu.gemm_ns(m, 28672, 8192) == pytest.approx(fitted.gemm_ns(m, 28672, 8192), rel=0.25)
    for batch, length in ((64, 4096), (32, 16384)):
        shape = (batch, batch * length, 64, 8, 128)
        assert gpu.decode_attention_ns(*shape) == pytest.approx(fitted.decode_attention_ns(*shape), rel=0.25)


def test_shapes_that_the_package_lacks_are_refused(measured):
    _, gpu = measured
    with pytest.raises(ParameterError, match=r"head_dim must be one of .*128.* in the decode_attention of .*, not 72$"):
        gpu.decode_attention_ns(4, 4000, 32, 8, 72)
    with pytest.raises(ParameterError, match=r"num_gpus must be one of 2, 4, 8 in the all_reduce of .*, not 3$"):
        gpu.all_reduce_ns(1 << 20, 3)


def test_the_source_names_versions(measured):
    name, gpu = measured
    package, system, framework, data_type = gpu.source.split(", ")
    assert package.startswith("aiconfigurator-core 0.")
    assert system.startswith(name.lower())
    assert framework.startswith("vllm ")
    assert data_type == "bfloat16"


def test_a_gpu_without_tables_is_refused(monkeypatch):
    pytest.importorskip("aiconfigurator_core")
    monkeypatch.setattr("pimhost.gpu.aiconfigurator.SYSTEM_NAMES", {"A100": "a100_sxm", "H100": "h99"})
    with pytest.raises(ParameterError, match=r"GPU must be one of A100, which .* has tables of, not 'H100'"):
        MeasuredGpu.named("H100")
