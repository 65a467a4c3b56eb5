"""Backends that compute attention by a function over stored K and V."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from pimspec.attention.shape import ELEMENT_BYTES, AttentionShape
from pimspec.golden.merge import normalise
from pimspec.golden.native import fast_attention_partial
from pimspec.hostif.device import DeviceCost, Float16s, Float32s
from pimspec.params.pim_rank import PimRankParams

from ..driver.kv_cache import Intervention
from ..reference import reference_attention
from .base import DeviceBase

__all__ = ["GoldenDevice", "ReferenceDevice"]


class _Stored(DeviceBase):
    """Base of backends with K and V in arrays that double when they are full."""

    def __init__(self, rank: PimRankParams, shape: AttentionShape, num_layers: int) -> None:
        super().__init__(rank, shape, num_layers)
        # By request: shape (num_layers, 2, num_kv_heads, room, head_dim).
        self._memory: dict[int, Float16s] = {}

    def _open(self, request: int) -> None:
        empty = (self.num_layers, 2, self.shape.num_kv_heads, 0, self.shape.head_dim)
        self._memory[request] = np.empty(empty, np.float16)

    def _release(self, request: int, granted: Intervention | None) -> None:
        del self._memory[request]

    def _write(
        self,
        request: int,
        layer: int,
        first_token: int,
        k: Float16s,
        v: Float16s,
        granted: Sequence[Intervention],
    ) -> DeviceCost:
        memory, end = self._memory[request], first_token + k.shape[1]
        room = memory.shape[3]
        if end > room:
            more = max(end, 2 * room) - room
            memory = np.concatenate([memory, np.empty((*memory.shape[:3], more, memory.shape[4]), np.float16)], axis=3)
            self._memory[request] = memory
        memory[layer, 0, :, first_token:end] = k
        memory[layer, 1, :, first_token:end] = v
        return DeviceCost(host_bus_bytes=k.nbytes + v.nbytes)

    def _attend(self, layer: int, queries: Mapping[int, Float16s]) -> tuple[Mapping[int, Float32s], DeviceCost]:
        outputs: dict[int, Float32s] = {}
        cost = DeviceCost()
        for request, q in queries.items():
            tokens = self.tokens(request, layer)
            k, v = self._memory[request][layer, :, :, :tokens]
            outputs[request] = self._compute(q, k, v)
            vectors = 2 * q.size * ELEMENT_BYTES  # q and o
            cost += DeviceCost(bytes_streamed=self.shape.kv_bytes(tokens), host_bus_bytes=vectors)
        return outputs, cost

    @abstractmethod
    def _compute(self, q: Float16s, k: Float16s, v: Float16s) -> Float32s:
        """Attention of one request, shape (num_q_heads, head_dim)."""


class ReferenceDevice(_Stored):
    """Reference backend: float64 attention on the float16 vectors as written, rounded to float32 at the end."""

    name = "reference"

    def _compute(self, q: Float16s, k: Float16s, v: Float16s) -> Float32s:
        return reference_attention(q, k, v, self.shape.scale).output.astype(np.float32)


class GoldenDevice(_Stored):
    """Golden backend: the rank's results, bit for bit, as normalised FP16 outputs."""

    name = "golden"

    def _compute(self, q: Float16s, k: Float16s, v: Float16s) -> Float32s:
        shape = self.shape
        grouped = q.reshape(shape.num_kv_heads, -1, shape.head_dim)
        part = fast_attention_partial(grouped, k, v, shape.scale_bits, self.rank.attention_order())
        bits = normalise(part, shape.format).astype(np.uint16)
        return bits.view(np.float16).reshape(q.shape).astype(np.float32)
