"""Golden dot-product unit against a float32 evaluation in the same order, scalar by scalar."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.oracles import from_bits, to_bits
from pimsim.stimulus import stimulus
from pimspec.formats import BF16, FP16
from pimspec.golden.dot import MODE_TREE, dot
from pimspec.params.arith import DotParams


def dot_oracle(v, format):
    """Float32 arithmetic of NumPy, one accumulation at a time."""
    rows = []
    acc = None
    for a, b, mode, first, last in zip(v["a"], v["b"], v["mode"], v["first"], v["last"], strict=True):
        terms = from_bits(a, format) * from_bits(b, format)
        if mode == MODE_TREE:
            while len(terms) > 1:
                terms = terms[0::2] + terms[1::2]
        acc = terms if first else acc + terms
        if last:
            rows.append(np.concatenate([acc, np.zeros(len(a) - len(acc), np.float32)]))
    return to_bits(np.array(rows))


@pytest.mark.parametrize("format", [FP16, BF16], ids=str)
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_sequences(format, lanes, count_vectors):
    params = DotParams(format=format, lanes=lanes)
    v = stimulus(params, 20_000, seed=lanes)
    y, mode = dot(v["a"], v["b"], v["mode"], v["first"], v["last"], format)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, dot_oracle(v, format))
    np.testing.assert_array_equal(mode, v["mode"][v["last"] == 1])
    count_vectors(f"golden dot {format}: operand sets", 20_000)


def test_a_single_term_is_kept_as_it_is():
    minus_zero, one = 0x8000, 0x3C00
    y, _ = dot([[minus_zero]], [[one]], [1], [1], [1], FP16)
    assert y[0, 0] == 0x80000000
