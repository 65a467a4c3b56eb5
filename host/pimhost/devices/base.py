"""Common base of the backends: checks, accounting of tokens and chunks, and the sum of costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from pimspec.attention.regions import num_regions
from pimspec.attention.shape import AttentionShape
from pimspec.errors import OutOfMemoryError, UnknownNameError, require
from pimspec.formats import FP16
from pimspec.hostif.device import Attention, DeviceClock, DeviceCost, Float16s, Float32s
from pimspec.params.pim_rank import PimRankParams

from ..driver.kv_cache import Intervention, LazyKvCache

__all__ = ["DeviceBase"]


class DeviceBase(ABC):
    """Base of :class:`~pimspec.hostif.device.PimDevice` backends, which add `_write` and `_attend`.

    Chunks of a rank with a DPA controller are granted as tokens arrive, so every backend is full at the same token.

    Parameters
    ----------
    rank : PimRankParams
        A rank with a DPA controller that can compute `shape`; requests are its slots.
    shape : AttentionShape
    num_layers : int

    Raises
    ------
    ParameterError
        If the rank cannot compute the shape, or its format is not FP16.
    """

    name = ""

    def __init__(self, rank: PimRankParams, shape: AttentionShape, num_layers: int) -> None:
        require(num_layers >= 1, "num_layers", num_layers, "1 or more")
        require(shape.format == FP16, "format of the device", shape.format.name, "fp16")
        rank.require_shape(shape)
        self.rank, self.dpa, self.shape, self.num_layers = rank, rank.require_dpa(), shape, num_layers
        self.cache = LazyKvCache(self.dpa, num_regions(shape, num_layers))
        self.clock = DeviceClock.of_rank(rank)
        self.total = DeviceCost()
        self._written: dict[int, list[int]] = {}

    @property
    def max_tokens(self) -> int:
        """Most tokens of one request that has the device to itself."""
        p = self.dpa
        chunks = min(p.num_chunks, p.directory_entries * p.leaf_entries)
        return min(chunks * p.chunk_rows // self.cache.regions * p.row_step_tokens, p.max_tokens)

    def tokens(self, request: int, layer: int) -> int:
        """Number of tokens written to a layer of a request."""
        self._require_layer(layer)
        return self._request(request)[layer]

    def open(self, request: int) -> None:
        require(0 <= request < self.dpa.num_slots, "request", request, f"0..{self.dpa.num_slots - 1}")
        require(request not in self._written, "request", request, "one that is not open")
        self._written[request] = [0] * self.num_layers
        self._open(request)

    def write_kv(self, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> DeviceCost:
        self._require_layer(layer)
        written = self._request(request)
        count = np.shape(k)[1] if np.ndim(k) == 3 else 0
        for what, array in (("k", k), ("v", v)):
            self._require_array(what, array, (self.shape.num_kv_heads, max(1, count), self.shape.head_dim))
        require(first_token == written[layer], "first_token", first_token, f"{written[layer]}, the tokens of the layer")
        tokens, resident = first_token + k.shape[1], max(written)
        if tokens > self.max_tokens:
            raise OutOfMemoryError(f"the device holds {self.max_tokens} tokens of a request, not {tokens}")
        granted: Sequence[Intervention] = ()
        if tokens > resident:
            granted = self.cache.grow(request, tokens) if resident else self.cache.open(request, tokens)
        cost = self._write(request, layer, first_token, k, v, granted)
        written[layer] = tokens
        self.total += cost
        return cost

    def attend(self, layer: int, queries: Mapping[int, Float16s]) -> Attention:
        self._require_layer(layer)
        require(len(queries) >= 1, "queries", {}, "of one or more requests")
        for request, q in queries.items():
            tokens = self._request(request)[layer]
            require(tokens >= 1, f"tokens of request {request} in layer {layer}", tokens, "1 or more")
            self._require_array("q", q, (self.shape.num_q_heads, self.shape.head_dim))
        outputs, cost = self._attend(layer, queries)
        self.total += cost
        return Attention(outputs=outputs, cost=cost)

    def release(self, request: int) -> None:
        written = self._request(request)
        granted = self.cache.release(request) if max(written) else None
        del self._written[request]
        self._release(request, granted)

    def close(self) -> None:
        """Forget all requests; a backend releases its own resources too."""
        self._written.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _write(
        self,
        request: int,
        layer: int,
        first_token: int,
        k: Float16s,
        v: Float16s,
        granted: Sequence[Intervention],
    ) -> DeviceCost:
        """Store tokens; `granted` are the chunks that they need in addition."""

    @abstractmethod
    def _attend(self, layer: int, queries: Mapping[int, Float16s]) -> tuple[Mapping[int, Float32s], DeviceCost]:
        """Outputs by request, and the cost."""

    @abstractmethod
    def _open(self, request: int) -> None:
        """Act on a request that was opened."""

    @abstractmethod
    def _release(self, request: int, granted: Intervention | None) -> None:
        """Act on a request that was closed; `granted` takes its chunks back, if it had tokens."""

    def _request(self, request: int) -> list[int]:
        if request not in self._written:
            raise UnknownNameError("request", str(request), map(str, self._written))
        return self._written[request]

    def _require_layer(self, layer: int) -> None:
        require(0 <= layer < self.num_layers, "layer", layer, f"0..{self.num_layers - 1}")

    @staticmethod
    def _require_array(what: str, array: Any, shape: tuple[int, ...]) -> None:
        given = np.asarray(array)
        require(given.dtype == np.float16, f"{what}.dtype", str(given.dtype), "float16")
        require(given.shape == shape, f"{what}.shape", given.shape, str(shape))
