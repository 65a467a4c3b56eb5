"""GPU power: a constant part, and energy of the arithmetic and of the bytes that kernels move.

A GPU draws :attr:`GpuPower.static_w` whether it works or not. Each operation and each byte of its memory adds a fixed
energy, up to the TDP. The three constants are fitted on measured power of whole GPUs (:mod:`pimhost.gpu.power_fit`).
They include the memory, the links to other GPUs and all else on the board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import require

from .llm_cost import LlmCost
from .operators import ELEMENT_BYTES

__all__ = ["GPU_POWER", "GpuPower", "GpuWork", "attention_work", "dense_work", "head_work", "power_of"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GpuPower:
    """Power constants of one GPU.

    Parameters
    ----------
    static_w : float
        Power drawn all the time, at the clocks of a serving GPU.
    flop_pj, byte_pj : float
        Energy of one 16-bit floating-point operation, and of one byte read from or written to its memory.
    source : str
    """

    static_w: float
    flop_pj: float
    byte_pj: float
    source: str

    def __post_init__(self) -> None:
        for what in ("static_w", "flop_pj", "byte_pj"):
            require(getattr(self, what) > 0, what, getattr(self, what), "above 0")

    def work_nj(self, work: GpuWork, busy_ns: IntArray, tdp_w: float) -> tuple[IntArray, IntArray]:
        """Energy of the arithmetic and of the bytes, without the static power; each of shape (iterations,).

        Work that would take the GPU above its TDP is scaled down to it, as the GPU's own power control does.
        """
        flop, moved = work.flop * (self.flop_pj / 1e3), work.num_bytes * (self.byte_pj / 1e3)
        share = np.minimum(1.0, (tdp_w - self.static_w) * busy_ns / np.maximum(flop + moved, 1e-9))
        return np.floor(flop * share).astype(np.int64), np.floor(moved * share).astype(np.int64)


GPU_POWER: Mapping[str, GpuPower] = MappingProxyType(
    {
        "A100": GpuPower(
            static_w=114.5,
            flop_pj=1.405,
            byte_pj=145.7,
            source="Mutinifni/splitwise-sim (8f99e7d, MIT): mean power of A100-SXM4-80G under Llama-2-70B and "
            "BLOOM-176B; `dimmpim fit-gpu`",
        )
    }
)
"""Power constants by GPU name; the table has only this GPU, and no other table was found."""


def power_of(name: str) -> GpuPower | None:
    """Power constants of the GPU of this name, or None if it was not measured."""
    return GPU_POWER.get(name)


@dataclass(frozen=True)
class GpuWork:
    """Work of one GPU.

    Parameters
    ----------
    flop, num_bytes : array or float
        Operations, and bytes read from and written to its memory; each operand of a kernel counts once.
    """

    flop: NDArray[np.float64] | float
    num_bytes: NDArray[np.float64] | float

    def __add__(self, other: GpuWork) -> GpuWork:
        return GpuWork(self.flop + other.flop, self.num_bytes + other.num_bytes)

    def times(self, count: int) -> GpuWork:
        """This work, `count` times."""
        return GpuWork(self.flop * count, self.num_bytes * count)


def _gemm(m: int, n: int, k: int) -> GpuWork:
    return GpuWork(2.0 * m * n * k, float(ELEMENT_BYTES) * (m * k + k * n + m * n))


def dense_work(cost: LlmCost, tokens: int) -> GpuWork:
    """Work of one layer without its attention, for `tokens` new tokens."""
    total = GpuWork(0.0, float(sum(cost.elementwise_bytes(tokens))))
    for _, m, n, k in cost.gemm_shapes(tokens):
        total += _gemm(m, n, k)
    return total


def head_work(cost: LlmCost, sequences: int) -> GpuWork:
    """Work of the lm_head for `sequences` sequences."""
    return _gemm(sequences, -(-cost.shape.vocab_size // cost.tp_size), cost.shape.hidden_size)


def attention_work(
    cost: LlmCost, queries: int, pairs: NDArray[np.float64] | float, kv_tokens: NDArray[np.float64] | float
) -> GpuWork:
    """Attention work of one layer.

    Parameters
    ----------
    cost : LlmCost
    queries : int
        New tokens; their q is read and their output written.
    pairs : array or float
        Pairs of a new token and a token that it attends to, itself included.
    kv_tokens : array or float
        Tokens whose K and V are read.
    """
    q_bytes, kv_bytes = (
        2 * heads * cost.shape.head_dim * ELEMENT_BYTES for heads in (cost.tp_q_heads, cost.tp_kv_heads)
    )
    flop = 4.0 * cost.tp_q_heads * cost.shape.head_dim * pairs
    return GpuWork(flop, float(q_bytes) * queries + float(kv_bytes) * kv_tokens)
