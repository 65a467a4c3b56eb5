"""Golden dot-product unit of a bank PU. Hardware: ``pimhw.arith.dot``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..formats import FloatFormat
from .fp_add import fp_add
from .fp_mul import fp_mul
from .rounding import Bits

MODE_TREE = 0
MODE_LANE = 1


def tree_sum(terms: Bits) -> Bits:
    """Pairwise FP32 sum over the last axis (a power of two long): ((t0+t1)+(t2+t3))+..."""
    while terms.shape[-1] > 1:
        terms = fp_add(terms[..., 0::2], terms[..., 1::2])
    return terms[..., 0]


def dot(
    a: ArrayLike, b: ArrayLike, mode: ArrayLike, first: ArrayLike, last: ArrayLike, format: FloatFormat
) -> tuple[Bits, Bits]:
    """Results of the dot-product unit for a sequence of operand sets.

    Parameters
    ----------
    a, b : array of shape (num_sets, lanes)
        Bit patterns of `format`.
    mode, first, last : array of shape (num_sets,)
        `mode` is constant from a set with `first` to the one with `last`. `first` starts a new accumulation, `last`
        delivers it.

    Returns
    -------
    lanes, mode : arrays of shape (num_results, lanes) and (num_results,)
        FP32 bit patterns, one row for each set with `last`. In tree mode lane 0 is ``acc = acc + tree(a*b)`` and the
        other lanes are 0; in lane mode ``acc[j] = acc[j] + a[j]*b[j]``. The first set is stored without an addition, so
        that a sum of one term is that term (a -0 stays -0). Every addition rounds to FP32.
    """
    mode, first, last = (np.asarray(v, dtype=np.int64) for v in (mode, first, last))
    products = fp_mul(a, b, format)
    terms = np.zeros_like(products)
    tree = mode == MODE_TREE
    terms[tree, 0] = tree_sum(products[tree])
    terms[~tree] = products[~tree]
    # Accumulations are independent: take their k-th operand sets all at once.
    starts, ends = np.flatnonzero(first == 1), np.flatnonzero(last == 1)
    acc = terms[starts]
    for k in range(1, int((ends - starts).max(initial=0)) + 1):
        running = starts + k <= ends
        acc[running] = fp_add(acc[running], terms[starts[running] + k])
    acc[mode[ends] == MODE_TREE, 1:] = 0
    return acc, mode[ends]
