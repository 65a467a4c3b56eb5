"""Roofline formulas of the kernels: launch + max(flop / (peak * efficiency), bytes / (bandwidth * efficiency)).

Each function takes constants, a GPU, and shapes as scalars or as arrays that broadcast, and returns seconds. The
meaning of each constant is given here; the values are fitted (:mod:`pimhost.gpu.fitting`) and live in
``constants.json``. Elements are 16 bits wide. Block sizes are those of the usual kernels and are not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.errors import ParameterError

from .specs import GpuSpec

__all__ = [
    "AllReduceConstants",
    "Constants",
    "DecodeConstants",
    "GemmConstants",
    "PrefillConstants",
    "all_reduce_s",
    "decode_attention_s",
    "gemm_s",
    "prefill_attention_s",
]

ELEMENT_BYTES = 2

_TILES = ((256, 128), (128, 256), (128, 128), (64, 256), (64, 128), (128, 64), (64, 64), (32, 64), (16, 64))
_SPLITS = (1, 2, 4, 8, 16)
# One candidate for each kernel that a GEMM library might choose: tile of m, tile of n, parts into which k is split.
_TILE_M, _TILE_N, _SPLIT = (np.array(c, float) for c in zip(*((*t, s) for t in _TILES for s in _SPLITS), strict=True))
_TILE_TRAFFIC = 1 / _TILE_M + 1 / _TILE_N
_RELATIVE_TRAFFIC = _TILE_TRAFFIC / _TILE_TRAFFIC.min()

PREFILL_BLOCK = 64
"""Queries in one block of the prefill kernel."""


@dataclass(frozen=True, kw_only=True)
class GemmConstants:
    """Constants of a GEMM.

    Parameters
    ----------
    launch_s : float
    compute : float
        Share of the peak that the largest tile reaches on a long k.
    tile_exponent : float
        Slowdown of smaller tiles. A tile of (a, b) reads ``1/a + 1/b`` operands for each multiplication; this number,
        over that of the largest tile, is raised to the exponent. 0 means no slowdown, 1 that operands set the pace.
    fill_k : float
        Cost of filling and draining a tile, in elements of k.
    throttle : float
        Exponent by which long kernels slow down as the clock falls under load: ``(1 + flop / 1e11) ** throttle``.
    memory : float
        Share of the memory bandwidth.
    """

    launch_s: float
    compute: float
    tile_exponent: float
    fill_k: float
    throttle: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class PrefillConstants:
    """Constants of causal attention over a prompt, with the write of its K and V.

    Parameters
    ----------
    launch_s : float
        Launches of both kernels together.
    compute : float
        Share of the peak.
    block_keys : float
        Cost of the beginning and end of a block, in keys.
    memory : float
        Share of the memory bandwidth.
    """

    launch_s: float
    compute: float
    block_keys: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class DecodeConstants:
    """Constants of attention with one query token for each sequence.

    Parameters
    ----------
    launch_s : float
    memory : float
        Share of the memory bandwidth.
    sequence_tokens : float
        Cost of the beginning and end of a sequence, in tokens.
    full_blocks : float
        Blocks (sequence and kv_head) that use the whole bandwidth, where the kernel does not split a sequence. Where it
        does, the value has no effect and no meaning.
    """

    launch_s: float
    memory: float
    sequence_tokens: float
    full_blocks: float


@dataclass(frozen=True, kw_only=True)
class AllReduceConstants:
    """Constants of an all-reduce within a node: the faster of two protocols, one for short and one for long messages.

    Parameters
    ----------
    launch_s : float
    gpu_s : float
        Time for each GPU.
    short, long : float
        Shares of the link's bandwidth in the two protocols.
    long_s : float
        Time that the protocol for long messages needs before the first byte.
    """

    launch_s: float
    gpu_s: float
    short: float
    long: float
    long_s: float


Constants = GemmConstants | PrefillConstants | DecodeConstants | AllReduceConstants


def gemm_s(c: GemmConstants, gpu: GpuSpec, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Time of the GEMM (m, k) x (k, n): waves of tiles over the SMs, with the best of the usual tiles and k splits."""
    m, n, k = np.asarray(m, float), np.asarray(n, float), np.asarray(k, float)
    column_m, column_n, column_k = m[..., None], n[..., None], k[..., None]
    tiles = np.ceil(column_m / _TILE_M) * np.ceil(column_n / _TILE_N) * _SPLIT
    tile_flop = 2 * _TILE_M * _TILE_N * (column_k / _SPLIT + c.fill_k) * _RELATIVE_TRAFFIC**c.tile_exponent
    compute = (np.ceil(tiles / gpu.num_sms) * tile_flop).min(axis=-1) * gpu.num_sms / (gpu.peak_flop_per_s * c.compute)
    compute *= (1 + 2 * m * n * k / 1e11) ** c.throttle
    num_bytes = ELEMENT_BYTES * (m * k + k * n + m * n)
    return c.launch_s + np.maximum(compute, num_bytes / (gpu.bandwidth_bytes_per_s * c.memory))


def prefill_attention_s(
    c: PrefillConstants,
    gpu: GpuSpec,
    batch: ArrayLike,
    tokens: ArrayLike,
    num_q_heads: ArrayLike,
    num_kv_heads: ArrayLike,
    head_dim: ArrayLike,
    prefix: ArrayLike = 0,
) -> NDArray[np.float64]:
    """Time of causal attention over `tokens` new tokens after `prefix` earlier ones, for each of `batch` sequences.

    First, K and V of the new tokens are written to the cache. Then an SM runs one block for each 64 queries of a head.
    """
    b, t, p, d = (np.asarray(x, float) for x in (batch, tokens, prefix, head_dim))
    q_heads, kv_heads = np.asarray(num_q_heads, float), np.asarray(num_kv_heads, float)
    blocks = np.ceil(t / PREFILL_BLOCK)
    pair_s = 4 * d * gpu.num_sms / (gpu.peak_flop_per_s * c.compute)
    mean_keys = p + (blocks + 1) / 2 * PREFILL_BLOCK + c.block_keys
    longest_keys = p + blocks * PREFILL_BLOCK + c.block_keys
    sweep = np.maximum(1, b * q_heads * blocks / gpu.num_sms) * mean_keys
    compute = pair_s * PREFILL_BLOCK * np.maximum(sweep, longest_keys)
    bandwidth = gpu.bandwidth_bytes_per_s * c.memory
    kv_bytes = 2 * ELEMENT_BYTES * b * kv_heads * d
    num_bytes = 2 * ELEMENT_BYTES * b * q_heads * d * t + kv_bytes * (p + t)
    return c.launch_s + np.maximum(compute, num_bytes / bandwidth) + 2 * kv_bytes * t / bandwidth


def decode_attention_s(
    c: DecodeConstants,
    gpu: GpuSpec,
    batch: ArrayLike,
    tokens: ArrayLike,
    num_q_heads: ArrayLike,
    num_kv_heads: ArrayLike,
    head_dim: ArrayLike,
) -> NDArray[np.float64]:
    """Time of attention with one new token of each of `batch` sequences, which have `tokens` tokens in total.

    Blocks are padded to 64 queries, so their arithmetic stays below the peak while K and V are read.
    """
    b, t, d = (np.asarray(x, float) for x in (batch, tokens, head_dim))
    q_heads, kv_heads = np.asarray(num_q_heads, float), np.asarray(num_kv_heads, float)
    num_bytes = 2 * ELEMENT_BYTES * d * (kv_heads * (t + b * c.sequence_tokens) + b * q_heads)
    share = np.ones_like(b)
    if not gpu.splits_mha_kv:
        share = np.where(q_heads == kv_heads, np.minimum(1, b * kv_heads / c.full_blocks), 1.0)
    memory = num_bytes / (gpu.bandwidth_bytes_per_s * c.memory * share)
    return c.launch_s + np.maximum(4 * q_heads * d * t / gpu.peak_flop_per_s, memory)


def all_reduce_s(c: AllReduceConstants, gpu: GpuSpec, num_bytes: ArrayLike, num_gpus: ArrayLike) -> NDArray[np.float64]:
    """Time of an all-reduce of `num_bytes` bytes over `num_gpus` GPUs of a node.

    Raises
    ------
    ParameterError
        If the GPU has no link to its peers.
    """
    if gpu.peer_link is None:
        raise ParameterError(f"an all-reduce needs a link between GPUs, which {gpu.name} has not")
    g = np.asarray(num_gpus, float)
    wire_s = 2 * (g - 1) / g * np.asarray(num_bytes, float) / gpu.peer_link.bytes_per_s
    return c.launch_s + c.gpu_s * g + np.minimum(wire_s / c.short, c.long_s + wire_s / c.long)
