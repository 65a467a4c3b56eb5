"""L3/CHIME: DIMMs with a PU at each bank, and a scheduler that keeps GPU and PIM equally busy.

The paper leaves some points open; they are read as follows. All requests in memory decode in every iteration: leaving
one out does not raise the throughput while PIM is the slower side. Then the paper's "add one prefill to each sub-batch,
then decodes until T_PIM > T_GPU, repeat until PIM memory is exhausted" has a defined end. It ends at the least number
of prompts, at least one, with which the GPU is no longer the faster side of the phase. :meth:`DimmSystem.plan` computes
that number. If memory has no room for a further request and the GPU is the slower side, the sub-batch's last prompt is
cut to make both sides equal. An MHA request is spread over all channels, so that one joins at a time. A GQA request
lies on the channels that hold eight kv_heads each (CHIME's N of 1 and 16).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pimspec.attention.shape import AttentionShape
from pimspec.dram import limits
from pimspec.params.presets import preset_named

from ..gpu.operators import PREFILL_BLOCK
from ..serving.batch import Prefill, SubBatch
from ..serving.memory import MemoryGeometry
from .base import VLLM_CHUNK_TOKENS, Turn
from .disaggregated import Disaggregated
from .memory_energy import MemoryEnergy, pim_memory
from .pim_latency import AttentionLatency, measured_latency
from .predictor import PimPredictor, fit_pim_predictor

__all__ = ["L3", "DimmSystem"]

KV_HEADS_OF_A_RANK = 8
"""kv_heads of a GQA request in one rank: one for each chip of a rank of x8 devices, as CHIME maps GQA-8."""


@dataclass
class _Side:
    """One sub-batch during planning: the GPU's work, and the time of its decodes on PIM."""

    decodes: int
    attention_ns: float
    chunks: list[tuple[Prefill, int]]


class DimmSystem(Disaggregated):
    """System with K and V on all DIMMs of the node, and a scheduler that balances GPU and DIMMs."""

    @property
    def num_ranksets(self) -> int:
        return self.node.ranks_per_channel

    @property
    def num_channels(self) -> int:
        return self.node.channels

    @property
    def channels_per_request(self) -> int:
        if self.shape.gqa_group_size == 1:
            return self.num_channels
        wanted = min(self.num_channels, -(-self.shape.num_kv_heads // KV_HEADS_OF_A_RANK))
        return next(n for n in range(wanted, self.num_channels + 1) if self.num_channels % n == 0)

    @property
    def memory_bytes_per_s(self) -> float:
        return self.node.channels * limits.external_bandwidth_bytes_per_s(self.node.dram)

    def geometry(self) -> MemoryGeometry:
        """Geometry of DPA chunks in one rank of a pool, as :class:`pimhost.driver.kv_cache.LazyKvCache` grants them.

        All ranks of a pool hold equally much, unless layers or kv_heads do not divide evenly: then the fullest one
        counts.
        """
        shape = self.shape
        fitted = AttentionShape(num_q_heads=shape.num_q_heads, num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim)
        dpa = preset_named(self.node.preset).rank.for_shape(fitted).with_dpa().require_dpa()
        spread = self.channels_per_request
        layers, heads = -(-shape.num_layers // self.num_ranksets), -(-shape.num_kv_heads // spread)
        return MemoryGeometry(
            num_pools=self.num_channels // spread,
            pool_units=self.node.rank_bytes // (dpa.chunk_rows * dpa.row_step_bytes),
            block_tokens=dpa.row_step_tokens,
            regions=2 * layers * heads,
            unit_rows=dpa.chunk_rows,
            unit_bytes=dpa.chunk_rows * dpa.row_step_bytes * spread * self.num_ranksets,
            token_bytes=shape.kv_bytes_per_token(),
        )

    @cached_property
    def predictor(self) -> PimPredictor:
        return fit_pim_predictor(self)

    # Scheduler.

    def plan(self, turn: Turn) -> None:
        sides = [_Side(len(batch), self._predicted_ns(batch), []) for batch in turn.sub_batches]
        for prefill in turn.prefills:
            self._add(sides[prefill.sub_batch], prefill)
        open_sides = sorted((0, 1), key=lambda b: (turn.sub_batches[b].tokens, b))
        while open_sides:
            for b in list(open_sides):
                side, other = sides[b], sides[1 - b]
                if side.chunks and self._gpu_ns(side) >= self._pim_ns(other, side):
                    open_sides.remove(b)
                    continue
                new = turn.admit(b)
                if new is None:
                    open_sides.clear()
                    break
                self._add(side, new)
        if turn.blocked:
            for b in (0, 1):
                self._cut_last(sides[b], sides[1 - b])
        for side in sides:
            for prefill, tokens in side.chunks:
                turn.chunk(prefill, tokens)

    @staticmethod
    def _add(side: _Side, prefill: Prefill) -> None:
        side.chunks.append((prefill, min(prefill.left, VLLM_CHUNK_TOKENS)))

    def _cut_last(self, side: _Side, other: _Side) -> None:
        """Shorten the last chunk, by whole blocks of the prefill kernel, until the GPU is no longer the slower side."""
        if not side.chunks:
            return
        prefill, tokens = side.chunks[-1]
        least, most = 1, -(-tokens // PREFILL_BLOCK)
        while least < most:
            middle = (least + most + 1) // 2
            side.chunks[-1] = (prefill, min(tokens, middle * PREFILL_BLOCK))
            if self._gpu_ns(side) <= self._pim_ns(other, side):
                least = middle
            else:
                most = middle - 1
        side.chunks[-1] = (prefill, min(tokens, least * PREFILL_BLOCK))

    def _gpu_ns(self, side: _Side) -> int:
        """T_GPU of a phase, predicted by the fitted roofline; CHIME trains random forests on measurements."""
        new = side.decodes + sum(tokens for _, tokens in side.chunks)
        chunks = sum(self._chunk_ns(tokens, prefill.done) for prefill, tokens in side.chunks)
        return (self.cost.layer_ns(new) if new else 0) + chunks

    def _pim_ns(self, attending: _Side, computing: _Side) -> float:
        """T_PIM of the phase in which the GPU computes the other sub-batch."""
        prompts = sum(tokens for _, tokens in computing.chunks)
        return attending.attention_ns + self.predictor.prefill_token_ns * prompts

    def _predicted_ns(self, batch: SubBatch) -> float:
        """T_PIM of the lane with the most tokens, without prompts."""
        if not len(batch):
            return 0.0
        tokens = np.bincount(batch.lane, weights=batch.context, minlength=self.num_lanes)
        slowest = int(tokens.argmax())
        count = int(np.count_nonzero(batch.lane == slowest))
        return self.predictor.attention_ns(float(tokens[slowest]) + count, count, len(batch))


class L3(DimmSystem):
    """L3/CHIME, with latencies measured on the RTL of a rank."""

    name = "L3"

    def attention_latency(self) -> AttentionLatency:
        return measured_latency(self.node.preset, self.shape.gqa_group_size, head_dim=self.shape.head_dim)

    def memory_energy(self) -> MemoryEnergy:
        return pim_memory(self.node, self.shape.gqa_group_size)
