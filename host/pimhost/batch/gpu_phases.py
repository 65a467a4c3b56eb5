"""GPU phases: times of the GPU between two attentions of a sub-batch."""

from __future__ import annotations

from dataclasses import dataclass

from pimhost.gpu.base import GpuTimes
from pimhost.gpu.llm_cost import LlmCost
from pimhost.llm.config import LlamaConfig
from pimhost.models import ModelShape

__all__ = ["FixedPhases", "GpuPhases", "ModelledPhases", "model_shape"]


def model_shape(name: str, config: LlamaConfig) -> ModelShape:
    """Model shape for the GPU model, from a Llama's configuration."""
    return ModelShape(
        name=name,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_q_heads=config.num_q_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        ffn_size=config.intermediate_size,
        gated_ffn=True,
        vocab_size=config.vocab_size,
        max_context=config.context_length,
        source="the model file",
    )


@dataclass(frozen=True, kw_only=True)
class ModelledPhases:
    """Phase times by the GPU model, on one GPU.

    A decode step of n requests has one phase before the attention of the first layer (norm, Q, K and V, rotary
    embedding). It has one phase between those of two layers (all of a layer but its attention). It has one after the
    last (output projection, FFN, and the logits). The transfer between GPU and memory controller is not counted.
    """

    gpu: GpuTimes
    shape: ModelShape

    @property
    def _cost(self) -> LlmCost:
        return LlmCost(gpu=self.gpu, shape=self.shape)

    def first_ns(self, requests: int) -> int:
        cost = self._cost
        (_, m, n, k), *_ = cost.gemm_shapes(requests)
        norm, _, rotation, _ = cost.elementwise_bytes(requests)
        return self.gpu.gemm_ns(m, n, k) + self.gpu.elementwise_ns(norm) + self.gpu.elementwise_ns(rotation)

    def middle_ns(self, requests: int) -> int:
        return self._cost.layer_ns(requests)

    def last_ns(self, requests: int) -> int:
        cost = self._cost
        return cost.layer_ns(requests) - self.first_ns(requests) + cost.lm_head_ns(requests)


@dataclass(frozen=True, kw_only=True)
class FixedPhases:
    """Phases of a fixed time, given by the user, for any number of requests."""

    ns: int

    def first_ns(self, requests: int) -> int:
        return self.ns

    middle_ns = last_ns = first_ns


GpuPhases = ModelledPhases | FixedPhases
