"""Reference decode attention in float64, against which the golden model's error is measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.errors import require

__all__ = ["ReferenceAttention", "reference_attention", "relative_l2_error"]

Floats = NDArray[np.float64]


class ReferenceAttention(NamedTuple):
    """Attention of all heads of one layer."""

    output: Floats  # (num_q_heads, head_dim)
    lse: Floats  # (num_q_heads,) natural logarithm of the sum of exp(scaled score)


def reference_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, softmax_scale: float | None = None
) -> ReferenceAttention:
    """``softmax(q k^T * softmax_scale) v`` for one query token.

    Parameters
    ----------
    q : array of shape (num_q_heads, head_dim)
        q_head h attends to kv_head ``h // (num_q_heads // num_kv_heads)``. Values of any float type.
    k, v : arrays of shape (num_kv_heads, T, head_dim)
        Keys and values of T tokens, 1 or more; every token counts.
    softmax_scale : float, optional
        ``head_dim ** -0.5`` by default.

    Raises
    ------
    ParameterError
        If the shapes do not match.
    """
    queries, keys, values = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    require(queries.ndim == 2, "q.shape", queries.shape, "(num_q_heads, head_dim)")
    require(
        keys.ndim == 3 and keys.shape == values.shape and keys.shape[1] >= 1,
        "k.shape and v.shape",
        (keys.shape, values.shape),
        "equal, (num_kv_heads, T, head_dim), with 1 or more tokens",
    )
    num_kv_heads, _, head_dim = keys.shape
    require(
        queries.shape[1] == head_dim and len(queries) % num_kv_heads == 0,
        "q.shape",
        queries.shape,
        f"(a multiple of {num_kv_heads}, {head_dim})",
    )
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    scores = scale * (queries.reshape(num_kv_heads, -1, head_dim) @ keys.swapaxes(1, 2))
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    return ReferenceAttention(
        (weights @ values / total).reshape(queries.shape), (largest + np.log(total)).reshape(len(queries))
    )


def relative_l2_error(actual: ArrayLike, expected: ArrayLike) -> Floats:
    """``|actual - expected| / |expected|`` of each vector: shapes (..., head_dim) to (...,).

    The error is 0 where both are zero, and infinite where only `expected` is.
    """
    a, e = (np.asarray(x, dtype=np.float64) for x in (actual, expected))
    difference, norm = np.linalg.norm(a - e, axis=-1), np.linalg.norm(e, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((difference == 0) & (norm == 0), 0.0, difference / norm)
