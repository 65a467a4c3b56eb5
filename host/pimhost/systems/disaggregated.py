"""Disaggregated decode attention: two sub-batches alternate, one on the GPU while the other attends beside it.

K and V of one layer of a request lie in a *lane*. A lane is on one rank of one channel, or of each of several channels
with some of the kv_heads on each. Layer l of lane (pool, offset) lies in rankset ``(offset + l) mod R``. So the R lanes
of a pool use all its ranks in every layer, and share its memory. The time of a layer is that of the slowest lane.

In a layer, phase A has sub-batch 0 on the GPU while 1 attends, phase B the reverse. A phase ends when both are done.
Queries, K and V of new tokens go to the DIMMs, and outputs come back. While one rankset serves a transfer, the other R
- 1 compute: of a transfer of t seconds, attention loses t / R, which is all of it if R is 1. K and V of prompts are
transferred in the phase in which the GPU computes them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import require

from ..gpu.operators import ELEMENT_BYTES
from ..models import ModelShape
from ..serving.batch import Load, Times
from ..serving.memory import MemoryGeometry
from .base import VLLM_CHUNK_TOKENS, ServingSystem, Turn, spread_chunks
from .node import Node
from .pim_latency import AttentionLatency

__all__ = ["Disaggregated", "OnePool"]

IntArray = NDArray[np.int64]


class Disaggregated(ServingSystem):
    """System with K and V outside the GPU, and attention where they are."""

    num_sub_batches = 2
    has_pim = True

    def __init__(self, shape: ModelShape, node: Node) -> None:
        super().__init__(shape, node)
        self.latency = self.attention_latency()
        self.memory = self.geometry()
        spread, ranksets = self.channels_per_request, self.num_ranksets
        require(self.num_channels % spread == 0, "channels", self.num_channels, f"a multiple of {spread} a request")
        self.num_lanes = self.memory.num_pools * ranksets
        self.lane_kv_heads = -(-shape.num_kv_heads // spread)
        kv_bytes = 2 * shape.num_kv_heads * shape.head_dim * ELEMENT_BYTES
        q_bytes = shape.num_q_heads * shape.head_dim * ELEMENT_BYTES
        self.down_bytes, self.up_bytes, self.prefill_bytes = q_bytes + kv_bytes, q_bytes, kv_bytes

    # Provided by each system.

    @abstractmethod
    def attention_latency(self) -> AttentionLatency:
        """Attention latency of one rank, or of the device in its place."""

    @property
    @abstractmethod
    def num_ranksets(self) -> int:
        """Number of ranksets, R; 1 if a transfer stops all attention."""

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """Number of channels over which a request can be spread."""

    @property
    @abstractmethod
    def channels_per_request(self) -> int:
        """Number of channels over which a request is spread."""

    @property
    @abstractmethod
    def memory_bytes_per_s(self) -> float:
        """Bandwidth of all channels together, between host and DIMMs."""

    # Shared by all disaggregated systems.

    @property
    def lanes_per_pool(self) -> int:
        return self.num_ranksets

    def plan(self, turn: Turn) -> None:
        spread_chunks(turn, VLLM_CHUNK_TOKENS, self.num_sub_batches)

    def attention_ps(self, load: Load, steps: int) -> tuple[IntArray, IntArray]:
        """Attention times of one layer: of the slowest lane, and the mean over the lanes; each of shape (steps,)."""
        if not load.decodes:
            zero = np.zeros(steps, np.int64)
            return zero, zero
        if steps == 1:
            each = self.latency.request_ps(self.lane_kv_heads, load.context)
            lanes = np.bincount(load.lane, weights=each, minlength=self.num_lanes)[None, :].astype(float)
        else:
            contexts = load.context[None, :] + np.arange(steps)[:, None]
            each = self.latency.request_ps(self.lane_kv_heads, contexts)
            of_lane = np.zeros((load.decodes, self.num_lanes))
            of_lane[np.arange(load.decodes), load.lane] = 1
            lanes = each.astype(float) @ of_lane  # integers below 2**53: exact in any order
        return lanes.max(axis=1).astype(np.int64), (lanes.sum(axis=1) / self.num_lanes).astype(np.int64)

    def transfer_ns(self, decodes: int, prefill_tokens: int) -> int:
        """Transfer time of a layer and phase: new tokens of the attending sub-batch, K and V of the other's prompts."""
        down = decodes * self.down_bytes + prefill_tokens * self.prefill_bytes
        up = decodes * self.up_bytes
        links = self.node.tp_size * self.node.host_link.bytes_per_s
        return round(max(down / links, up / links, (down + up) / self.memory_bytes_per_s) * 1e9)

    def attending_ns(self, attention_ns: IntArray, decodes: int, prefill_tokens: int) -> IntArray:
        """Time of a phase on the attention device, transfers included."""
        transfer = self.transfer_ns(decodes, prefill_tokens)
        both_ways = 2 * self.node.host_link.latency_ns if decodes else 0
        return np.maximum(transfer, attention_ns + transfer // self.num_ranksets) + both_ways

    def times(self, loads: Sequence[Load], steps: int) -> Times:
        layers, one, two = self.shape.num_layers, *loads
        gpu = [self.dense_layer_ns(load) for load in loads]
        attention = [self.attention_ps(load, steps) for load in loads]
        phase_a = np.maximum(gpu[0], self.attending_ns(attention[1][0] // 1000, two.decodes, one.prefill_tokens))
        phase_b = np.maximum(gpu[1], self.attending_ns(attention[0][0] // 1000, one.decodes, two.prefill_tokens))
        heads = sum(self.head_ns(load) for load in loads)
        moved = sum(
            x.decodes * (self.down_bytes + self.up_bytes) + x.prefill_tokens * self.prefill_bytes for x in loads
        )
        return Times(
            duration=layers * (phase_a + phase_b) + heads,
            gpu=np.full(steps, layers * sum(gpu) + heads, np.int64),
            pim=layers * ((attention[0][0] + attention[1][0]) // 1000),
            pim_mean=layers * ((attention[0][1] + attention[1][1]) // 1000),
            link_bytes=np.full(steps, layers * moved, np.int64),
        )


class OnePool(Disaggregated):
    """System with K and V in one memory, in blocks of tokens; a transfer stops all attention."""

    @property
    def num_ranksets(self) -> int:
        return 1

    @property
    def num_channels(self) -> int:
        return 1

    @property
    def channels_per_request(self) -> int:
        return 1

    @property
    @abstractmethod
    def pool_bytes(self) -> int:
        """Capacity of the memory."""

    def geometry(self) -> MemoryGeometry:
        return self.paged_geometry(self.pool_bytes, self.shape.kv_bytes_per_token())
