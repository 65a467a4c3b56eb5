"""The softmax unit of the rank PU. Hardware: ``pimhw.rank_pu.softmax``."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FP32, FloatFormat
from .dot import tree_sum
from .exp2 import exp2
from .fp_add import fp_add
from .fp_max import total_order_key
from .fp_mul import fp_mul
from .fp_narrow import fp_narrow
from .rounding import Bits

__all__ = ["SoftmaxResults", "maximum_of", "part_ends", "softmax", "widen"]

MINUS_INF = FP32.inf | FP32.sign_mask


class SoftmaxResults(NamedTuple):
    """What the unit delivers: `probs` to `last` beat by beat, `m` to `more` part by part."""

    probs: Bits  # (num_beats, lanes)
    keep: Bits  # (num_beats, lanes)
    last: Bits  # (num_beats,)
    m: Bits  # (num_parts,)
    l: Bits  # noqa: E741 - the name in every text on the subject
    more: Bits  # (num_parts,)


def widen(bits: ArrayLike, fmt: FloatFormat) -> Bits:
    """Bit patterns of FP16 or BF16 as FP32, exactly; NaN becomes canonical."""
    return fp_mul(bits, fmt.one, fmt)


def maximum_of(x: ArrayLike) -> int:
    """``maximum`` (IEEE 754-2019) of any number of FP32 patterns: -Inf for none, NaN if one is NaN, +0 over -0."""
    flat = np.append(np.asarray(x, dtype=np.int64).ravel(), MINUS_INF)
    if ((flat & (FP32.sign_mask - 1)) > FP32.inf).any():
        return FP32.nan
    return int(flat[np.argmax(total_order_key(flat))])


def part_ends(last: ArrayLike, max_beats: int) -> Bits:
    """Whether each beat ends a part: it has `last`, or is the `max_beats`-th of its part."""
    ends, beat = [], 0
    for flag in np.asarray(last, dtype=np.int64):
        beat += 1
        ends.append(int(flag or beat == max_beats))
        beat = 0 if ends[-1] else beat
    return np.array(ends, dtype=np.int64)


def softmax(
    scores: ArrayLike, keep: ArrayLike, last: ArrayLike, scale: ArrayLike, fmt: FloatFormat, max_beats: int
) -> SoftmaxResults:
    """Run a sequence of beats through the unit.

    Parameters
    ----------
    scores : array of shape (num_beats, lanes)
        FP32 bit patterns.
    keep : array of shape (num_beats, lanes)
        1 for a token that counts. The others have no influence, and probability +0.
    last : array of shape (num_beats,)
        1 for the last beat of a segment. A segment of more than `max_beats` beats is cut into parts of that length;
        merging their results (``golden.merge``) gives that of the segment. Beats after the last end are not answered.
    scale : int or array of shape (num_beats,)
        FP32 bit pattern of ``log2(e) * softmax_scale``.
    fmt : FloatFormat
        Of the probabilities.
    max_beats : int

    Returns
    -------
    SoftmaxResults
        With x = RNE(score * scale): ``m`` = maximum of x over the kept tokens of the part (-Inf for none);
        ``p = narrow(exp2(RNE(x - m)))``; ``l`` = the kept p, widened, summed by a pairwise tree over each beat
        (+0 for the others) and beat after beat, FP32, one rounding an addition, the first beat stored as it is.
        If m is -Inf or +Inf, x - m is NaN where x equals it, and so are p and l.
    """
    scores, keep, last = (np.asarray(v, dtype=np.int64) for v in (scores, keep, last))
    x = fp_mul(scores, np.broadcast_to(np.asarray(scale, dtype=np.int64).reshape(-1, 1), scores.shape), FP32)
    ends = part_ends(last, max_beats)
    borders = np.concatenate([[0], np.flatnonzero(ends) + 1])
    probs = np.zeros_like(scores)
    maxima, sums = [], []
    for begin, end in pairwise(borders):
        part = slice(begin, end)
        m = maximum_of(x[part][keep[part] == 1])
        p = fp_narrow(exp2(fp_add(x[part], m ^ FP32.sign_mask)), fmt)
        probs[part] = np.where(keep[part] == 1, p, 0)
        terms = tree_sum(widen(probs[part], fmt))
        total = terms[0]
        for term in terms[1:]:
            total = fp_add(total, term)
        maxima.append(m)
        sums.append(int(total))
    done = int(borders[-1])
    more = (1 - last[:done])[ends[:done] == 1]
    return SoftmaxResults(
        probs[:done], keep[:done], ends[:done], np.array(maxima, np.int64), np.array(sums, np.int64), more
    )
