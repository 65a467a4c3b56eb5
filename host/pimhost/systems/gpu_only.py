"""Everything on the GPU, with paged K and V: the way of vLLM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import ParameterError

from ..gpu.operators import DecodeConstants, decode_attention_s
from ..serving.batch import Load, Times
from ..serving.memory import MemoryGeometry
from .base import VLLM_CHUNK_TOKENS, ServingSystem, Turn, spread_chunks

__all__ = ["GpuOnly"]

IntArray = NDArray[np.int64]


class GpuOnly(ServingSystem):
    """Continuous batching with chunked prefill; K and V in what the weights leave of the GPUs' memory."""

    name = "GPU"
    kv_read_pj_per_bit = 3.59
    """A bit of HBM from its cell to the GPU: all six parts of the path, AttAcc after FGDRAM (hardware facts, 6)."""

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
        """Of one layer, decoding requests only."""
        if not load.decodes:
            return np.zeros(steps, np.int64)
        constants = self.cost.gpu.constants.get("decode_attention")
        if not isinstance(constants, DecodeConstants):
            raise ParameterError(f"{self.node.gpu} has no measured decode_attention")
        tokens = load.context_sum + load.decodes * np.arange(steps)
        heads = (self.cost.tp_q_heads, self.cost.tp_kv_heads, self.shape.head_dim)
        seconds = decode_attention_s(constants, self.cost.gpu.spec, load.decodes, tokens, *heads)
        return np.rint(seconds * 1e9).astype(np.int64)
