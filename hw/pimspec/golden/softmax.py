"""Golden softmax unit of the rank PU. Hardware: ``pimhw.rank_pu.softmax``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..attention.shape import AttentionOrder
from ..formats import FP32, FloatFormat
from .attention import maximum_of, prob_sum, probabilities
from .fp_mul import fp_mul
from .rounding import Bits

__all__ = ["MINUS_INF", "SoftmaxResults", "softmax"]

MINUS_INF = FP32.inf | FP32.sign_mask


class SoftmaxResults(NamedTuple):
    """Unnormalised probabilities, and the statistics of each query."""

    probs: Bits  # (..., T), of the format asked for
    m: Bits  # (...,), FP32
    l: Bits  # noqa: E741  (...,), FP32: the name of the literature


def softmax(
    scores: ArrayLike, scale: ArrayLike, lanes: int, format: FloatFormat, keep: ArrayLike | None = None
) -> SoftmaxResults:
    """Unnormalised probabilities of one segment of each query: steps 2 to 5 of :mod:`.attention`.

    Parameters
    ----------
    scores : array of shape (..., T)
        FP32 bit patterns, T at least 1; the leading axes are queries.
    scale : int or array of shape (...,)
        FP32 bit pattern of ``log2(e) * softmax_scale``.
    lanes : int
        Tokens of a line, which are added pairwise before they join the sum.
    format : FloatFormat
        Format of the probabilities.
    keep : array of shape (..., T), optional
        1 for a token that exists; by default, all do. The others have no influence, and probability +0.

    Returns
    -------
    SoftmaxResults
        With x = RNE(score * scale): ``m`` = maximum of x over the tokens (-Inf for none, NaN if one is NaN, +0 over
        -0); ``p = narrow(exp2(RNE(x - m)))``; ``l`` = the p, widened, summed by a pairwise tree over each line and line
        after line, FP32, one rounding an addition, the first line stored as it is. If m is -Inf or +Inf, x - m is NaN
        where x equals it, and so are p and l.
    """
    scores = np.asarray(scores, dtype=np.int64)
    kept = np.ones(scores.shape, np.int64) if keep is None else np.asarray(keep, dtype=np.int64)
    x = fp_mul(scores, np.asarray(scale, dtype=np.int64)[..., None], FP32)
    m = maximum_of(np.where(kept == 1, x, MINUS_INF))
    probs = np.where(kept == 1, probabilities(x, m, format), 0)
    return SoftmaxResults(probs, m, prob_sum(probs, AttentionOrder(format=format, prob_lanes=lanes)))
