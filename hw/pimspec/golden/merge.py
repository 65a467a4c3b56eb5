"""Golden merge of unnormalised attention results (flash-decoding, exact), and the division by the sum."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..formats import FP32, FloatFormat
from .exp2 import exp2
from .fp_add import fp_add
from .fp_max import fp_max
from .fp_mul import fp_mul
from .fp_narrow import fp_narrow
from .reciprocal import reciprocal
from .rounding import Bits

__all__ = ["Partial", "empty_partial", "log_sum_exp", "merge", "merge_all", "normalise", "weight"]


class Partial(NamedTuple):
    """Attention over some of the tokens, before normalisation; FP32 bit patterns.

    With x the scores times ``log2(e) * softmax_scale``: ``m = max x``, ``l = sum 2**(x - m)``,
    ``o = sum 2**(x - m) v``.
    """

    o: Bits  # (..., head_dim)
    m: Bits  # (...,)
    l: Bits  # noqa: E741  (...,) the name of the literature


def empty_partial(batch: tuple[int, ...], head_dim: int) -> Partial:
    """Result over no tokens: m = -Inf, l = +0, o = +0. It merges with any finite result without changing it."""
    return Partial(
        np.zeros((*batch, head_dim), np.int64),
        np.full(batch, FP32.inf | FP32.sign_mask, np.int64),
        np.zeros(batch, np.int64),
    )


def weight(m: Bits, maximum: Bits) -> Bits:
    """``exp2(m - maximum)``, and exactly 1 where the comparator finds them equal (-Inf and -Inf included)."""
    equal = fp_max(m, maximum)[2]
    return np.where(equal == 1, FP32.one, exp2(fp_add(m, np.bitwise_xor(maximum, FP32.sign_mask))))


def merge(first: Partial, second: Partial) -> Partial:
    """Result over the union of two disjoint sets of tokens; shapes alike.

    ``m = maximum(m1, m2)``, ``a_i = weight(m_i, m)``, ``l = l1*a1 + l2*a2``, ``o = o1*a1 + o2*a2``: FP32, each
    operation rounded once. Symmetric in its operands; not associative to the last bit. A NaN in either m makes
    everything NaN. Merging with an empty result keeps m, l and o, but for a -0 in o, which becomes +0.
    """
    maximum = fp_max(first.m, second.m)[0]
    a1, a2 = weight(first.m, maximum), weight(second.m, maximum)
    total = fp_add(fp_mul(first.l, a1, FP32), fp_mul(second.l, a2, FP32))
    o = fp_add(fp_mul(first.o, a1[..., None], FP32), fp_mul(second.o, a2[..., None], FP32))
    return Partial(o, maximum, total)


def merge_all(partials: Iterable[Partial]) -> Partial:
    """Results merged from left to right; a single result is returned as it is."""
    listed = list(partials)
    require(len(listed) >= 1, "partials", len(listed), "at least one result")
    return reduce(merge, listed)


def normalise(partial: Partial, format: FloatFormat = FP32) -> Bits:
    """``RNE(o * RNE(1 / l))`` in FP32, then rounded to `format` if that is narrower; shape (..., head_dim).

    An empty result gives NaN (0 * Inf): attention over no tokens is not defined.
    """
    output = fp_mul(partial.o, reciprocal(partial.l, FP32)[..., None], FP32)
    return output if format == FP32 else fp_narrow(output, format)


def log_sum_exp(partial: Partial) -> NDArray[np.float64]:
    """Log-sum-exp (`lse`) of GPU kernels, ``(m + log2 l) * ln 2``, in float64; shape (...,). -Inf where empty.

    It is for comparison with other software; no hardware computes it.
    """
    m, total = (np.asarray(v).astype(np.uint32).view(np.float32).astype(np.float64) for v in (partial.m, partial.l))
    with np.errstate(divide="ignore"):
        return np.asarray((m + np.log2(total)) * np.log(2.0))
