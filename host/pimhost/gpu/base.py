"""GPU model interface: times of kernels on one GPU, for 16-bit elements.

There are two implementations: the project's roofline (:mod:`pimhost.gpu.model`) and measured tables
(:mod:`pimhost.gpu.aiconfigurator`). A subclass computes seconds; this base class checks arguments and rounds to ns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.errors import require

__all__ = ["GpuTimes"]

IntArray = NDArray[np.int64]


class GpuTimes(ABC):
    """Kernel times of a GPU, in ns. All methods raise ParameterError where the model has no answer."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Origin of the times, with the version of whatever could change them."""

    def gemm_ns(self, m: int, n: int, k: int) -> int:
        """Time of the GEMM (m, k) x (k, n), where k x n are the weights."""
        _require_positive(m=m, n=n, k=k)
        return _ns(self._gemm_s(m, n, k))

    def prefill_attention_ns(
        self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int, *, prefix: int = 0
    ) -> int:
        """Time of causal attention of `batch` sequences, each with `tokens` new tokens after `prefix` cached ones."""
        shape = {"batch": batch, "tokens": tokens}
        _require_positive(**shape, num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        require(prefix >= 0, "prefix", prefix, "0 or more")
        return _ns(self._prefill_attention_s(batch, tokens, num_q_heads, num_kv_heads, head_dim, prefix))

    def decode_attention_ns(self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int) -> int:
        """Time of attention for one new token of each of `batch` sequences; `tokens` is the sum of their lengths."""
        return int(self.decode_attentions_ns(batch, tokens, num_q_heads, num_kv_heads, head_dim))

    def decode_attentions_ns(
        self, batch: int, tokens: ArrayLike, num_q_heads: int, num_kv_heads: int, head_dim: int
    ) -> IntArray:
        """Times of :meth:`decode_attention_ns` for each sum of lengths in `tokens`, shape (steps,)."""
        _require_positive(batch=batch, num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        least = np.min(tokens)
        require(bool(least >= batch), "tokens", int(least), f"at least one for each of {batch} sequences")
        seconds = self._decode_attention_s(batch, np.asarray(tokens), num_q_heads, num_kv_heads, head_dim)
        return np.rint(seconds * 1e9).astype(np.int64)

    def all_reduce_ns(self, num_bytes: int, num_gpus: int) -> int:
        """Time of an all-reduce of `num_bytes` on each of `num_gpus` GPUs of one node; 0 for one GPU."""
        require(num_bytes >= 0, "num_bytes", num_bytes, "0 or more")
        require(1 <= num_gpus <= 8, "num_gpus", num_gpus, "1..8, for the measurements are of one node")
        return 0 if num_gpus == 1 or num_bytes == 0 else _ns(self._all_reduce_s(num_bytes, num_gpus))

    def elementwise_ns(self, num_bytes: int) -> int:
        """Time of a kernel that only moves bytes: norm, activation, rotary embedding, residual addition."""
        require(num_bytes >= 0, "num_bytes", num_bytes, "0 or more")
        return _ns(self._elementwise_s(num_bytes))

    # Provided by a subclass.

    @abstractmethod
    def _gemm_s(self, m: int, n: int, k: int) -> Any: ...

    @abstractmethod
    def _prefill_attention_s(
        self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int, prefix: int
    ) -> Any: ...

    @abstractmethod
    def _decode_attention_s(
        self, batch: int, tokens: IntArray, num_q_heads: int, num_kv_heads: int, head_dim: int
    ) -> NDArray[np.float64]:
        """Seconds, in the shape of `tokens`."""

    @abstractmethod
    def _all_reduce_s(self, num_bytes: int, num_gpus: int) -> Any: ...

    @abstractmethod
    def _elementwise_s(self, num_bytes: int) -> Any: ...


def _ns(seconds: Any) -> int:
    return round(float(seconds) * 1e9)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        require(value >= 1, name, value, "1 or more")
