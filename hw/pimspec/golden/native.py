"""Fast golden attention in the machine's float32: the same operations in the same order, some thirty times faster.

A processor's float32 addition and multiplication follow IEEE 754 as the units do (ties to even, gradual underflow).
Only NaNs have other bits, so a result with a NaN is computed again in integers. Small arrays (exp2, narrowing, maximum,
merge) go through the golden functions themselves. ``tests/pimspec/golden/test_native.py`` compares it with
:mod:`.attention`, bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..attention.shape import AttentionOrder
from ..formats import FP16, FP32, FloatFormat
from .attention import AnyBits, attention_partial, maximum_of, probabilities
from .merge import Partial
from .rounding import Bits

__all__ = ["fast_attention_partial"]

Float32s = NDArray[np.float32]

_CHUNK = 1 << 18  # elements worked on at once: temporaries of 1 MiB


def _widen(bits: AnyBits, format: FloatFormat) -> Float32s:
    """Float32 values of bit patterns; exact, as float32 holds every FP16 and BF16 number."""
    if format == FP16:
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bits(values: Float32s) -> Bits:
    return np.ascontiguousarray(values).view(np.uint32).astype(np.int64)


def _tree_sum(terms: Float32s) -> Float32s:
    while terms.shape[-1] > 1:
        terms = terms[..., 0::2] + terms[..., 1::2]
    return terms[..., 0]


def _scores(q: Float32s, k: Float32s, order: AttentionOrder) -> Float32s:
    """Scores as by :func:`.attention.scores`: shapes (..., g, d) and (..., T, d) to (..., g, T)."""
    split = (order.vector_chips, q.shape[-1] // (order.vector_chips * order.lanes), order.lanes)
    queries = q.reshape(*q.shape[:-1], 1, *split)
    keys = k.reshape(*k.shape[:-2], 1, k.shape[-2], *split)
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    result = np.empty((*batch, q.shape[-2], k.shape[-2]), np.float32)
    step = max(1, _CHUNK // (result[..., 0].size * q.shape[-1]))
    for first in range(0, k.shape[-2], step):
        terms = _tree_sum(queries * keys[..., first : first + step, :, :, :])
        acc = terms[..., 0]
        for s in range(1, split[1]):
            acc = acc + terms[..., s]
        result[..., first : first + step] = _tree_sum(acc)
    return result


def _prob_sum(p: Float32s, order: AttentionOrder) -> Float32s:
    """Sum as by :func:`.attention.prob_sum`."""
    fill = np.zeros((*p.shape[:-1], -p.shape[-1] % order.prob_lanes), np.float32)
    terms = _tree_sum(np.concatenate([p, fill], axis=-1).reshape(*p.shape[:-1], -1, order.prob_lanes))
    return np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1]


def _weighted_sum(p: Float32s, v: Float32s, order: AttentionOrder) -> Float32s:
    """Output as by :func:`.attention.weighted_sum`."""
    ways, (tokens, dims) = order.token_ways, v.shape[-2:]
    acc = np.zeros((*p.shape[:-1], ways, dims), np.float32)
    for first in range(0, tokens, ways):
        here = slice(first, min(first + ways, tokens))
        term = p[..., here, None] * v[..., None, here, :]
        live = acc[..., : term.shape[-2], :]
        live[...] = term if first == 0 else live + term
    over_banks = acc.reshape(*p.shape[:-1], order.token_banks, order.token_chips, dims)
    over_chips = _tree_sum(np.moveaxis(over_banks, -3, -1))
    return _tree_sum(np.moveaxis(over_chips, -2, -1))


def _segment_partial(q: AnyBits, k: AnyBits, v: AnyBits, scale_bits: int, order: AttentionOrder) -> Partial:
    format, scale = order.format, np.array(scale_bits, np.uint32).view(np.float32)
    x = _bits(_scores(_widen(q, format), _widen(k, format), order) * scale)
    m = maximum_of(x)
    p = _widen(probabilities(x, m, format), format)
    return Partial(_bits(_weighted_sum(p, _widen(v, format), order)), m, _bits(_prob_sum(p, order)))


def fast_attention_partial(q: ArrayLike, k: ArrayLike, v: ArrayLike, scale_bits: int, order: AttentionOrder) -> Partial:
    """Result of :func:`.attention.attention_partial`, equal in every bit."""
    with np.errstate(all="ignore"):
        part = attention_partial(q, k, v, scale_bits, order, _segment_partial)
    has_nan = any(np.any((bits & (FP32.sign_mask - 1)) > FP32.inf) for bits in part)
    return attention_partial(q, k, v, scale_bits, order) if has_nan else part
