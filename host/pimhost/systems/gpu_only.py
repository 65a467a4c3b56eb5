"""GPU-only system with a paged KV cache, as vLLM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..serving.batch import Load, Times
from ..serving.memory import MemoryGeometry
from .base import VLLM_CHUNK_TOKENS, ServingSystem, Turn, spread_chunks

__all__ = ["GpuOnly"]

IntArray = NDArray[np.int64]


class GpuOnly(ServingSystem):
    """Continuous batching with chunked prefill; K and V lie in the GPU memory that the weights leave free."""

    name = "GPU"

    def geometry(self) -> MemoryGeometry:
        return self.gpu_geometry()

    def plan(self, turn: Turn) -> None:
        spread_chunks(turn, VLLM_CHUNK_TOKENS)

    def times(self, loads: Sequence[Load], steps: int) -> Times:
        (load,) = loads
        fixed = self.shape.num_layers * self.dense_layer_ns(load) + self.head_ns(load)
        duration = fixed + self.shape.num_layers * self.attention_ns(load, steps)
        nothing = np.zeros_like(duration)
        return Times(duration=duration, gpu=duration, pim=nothing, pim_mean=nothing, link_bytes=nothing)

    def attention_ns(self, load: Load, steps: int) -> IntArray:
        """Attention time of one layer, for decoding requests only."""
        if not load.decodes:
            return np.zeros(steps, np.int64)
        tokens = load.context_sum + load.decodes * np.arange(steps)
        heads = (self.cost.tp_q_heads, self.cost.tp_kv_heads, self.shape.head_dim)
        return self.cost.gpu.decode_attentions_ns(load.decodes, tokens, *heads)
