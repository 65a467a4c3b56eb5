"""Golden decode attention: a rank's results, bit for bit.

The steps below give the order of operations of one kv_head and one segment (at most ``order.segment_tokens`` tokens).
Every operation is one of the golden units', so it rounds once, to FP32 unless stated:

1. score: a chip runs over its dims, ``order.lanes`` at a time: ``acc = tree(q*k)``, then ``acc = acc + tree(q*k)``; the
   partial scores of the ``order.vector_chips`` chips that hold a vector are added pairwise in chip order.
2. ``x = score * scale``, scale being ``log2(e) * softmax_scale``.
3. ``m = maximum of x``.
4. ``p = narrow(exp2(x + (-m)))``, rounded to the format of V.
5. ``l``: the rounded probabilities, widened, in token order: ``order.prob_lanes`` at a time pairwise (the tail filled
   with +0), added to the running sum; the first such sum is stored as it is.
6. ``o``: token t belongs to chip ``t % token_chips`` and there to bank ``(t // token_chips) % token_banks``, which
   accumulates ``acc = acc + p*v`` in order of t, its first product stored as it is. The chip adds its banks' sums
   pairwise, then the rank those of the chips. A bank without a token contributes +0.

Segments are computed separately and merged from left to right (:mod:`.merge`); :func:`~.merge.normalise` ends it.

Special values follow the units: a NaN score, or a score of +Inf, makes m, l and o of its query NaN; so does a context
whose every score is -Inf. Infinite and NaN elements of V reach only their own dim.

Error of an output against float64, for finite scores and FP16. A probability has three errors: the rounding to 11 bits
(relative, rms: 2**-11 / sqrt(3) times the rms of 1/significand, 0.735: 2.07e-4; below 2**-14 up to 2**-25 absolute),
exp2 (below 2**-14), and the rounding of x (about ``|x| * 2**-24 * head_dim / lanes``). l sums the rounded
probabilities, so a common factor cancels. If the V vectors cancel like noise, the output keeps that rms, 2.07e-4. If
they agree, or one token dominates, errors average out or vanish. BF16, with 8 bits, is eight times worse.
``tests/pimspec/golden/test_attention.py`` measures it: real data 4.4e-5 in the median and 3.0e-4 at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..attention.shape import AttentionOrder
from ..errors import require
from ..formats import FP32, FloatFormat
from .dot import tree_sum
from .exp2 import exp2
from .fp_add import fp_add
from .fp_max import fp_max
from .fp_mul import fp_mul
from .fp_narrow import fp_narrow
from .merge import Partial, empty_partial, merge_all, normalise
from .rounding import Bits

__all__ = [
    "attention_partial",
    "decode_attention",
    "maximum_of",
    "prob_sum",
    "probabilities",
    "scores",
    "segment_partial",
    "weighted_sum",
]

_CHUNK = 1 << 15  # elements worked on at once: temporaries of 256 KiB stay in a core's cache

AnyBits = NDArray[np.integer]


def _chunks(total: int, elements_each: int) -> list[slice]:
    step = max(1, _CHUNK // max(1, elements_each))
    return [slice(i, min(i + step, total)) for i in range(0, total, step)]


def scores(q: AnyBits, k: AnyBits, order: AttentionOrder) -> Bits:
    """Scores before scaling (step 1).

    Parameters
    ----------
    q : array of shape (..., g, d)
        Bit patterns of ``order.format``.
    k : array of shape (..., T, d)

    Returns
    -------
    array of shape (..., g, T)
        FP32 bit patterns.
    """
    split = (order.vector_chips, q.shape[-1] // (order.vector_chips * order.lanes), order.lanes)
    queries = q.reshape(*q.shape[:-1], 1, *split)
    keys = k.reshape(*k.shape[:-2], 1, k.shape[-2], *split)
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    result = np.empty((*batch, q.shape[-2], k.shape[-2]), np.int64)
    for part in _chunks(k.shape[-2], math.prod(batch) * q.shape[-2] * order.vector_chips * order.lanes):
        acc = None
        for s in range(split[1]):
            term = tree_sum(fp_mul(queries[..., s, :], keys[..., part, :, s, :], order.format))
            acc = term if acc is None else fp_add(acc, term)
        assert acc is not None
        result[..., part] = tree_sum(acc)
    return result


def maximum_of(x: Bits) -> Bits:
    """``maximum`` over the last axis, which is not empty (step 3); the order does not matter."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        y = fp_max(x[..., :half], x[..., half : 2 * half])[0]
        x = np.concatenate([y, x[..., 2 * half :]], axis=-1)
    return x[..., 0]


def probabilities(x: Bits, m: Bits, format: FloatFormat) -> Bits:
    """``narrow(exp2(x - m))`` (step 4).

    Parameters
    ----------
    x : array of shape (..., T)
        FP32 bit patterns.
    m : array of shape (...,)
    format : FloatFormat

    Returns
    -------
    array of shape (..., T)
        Bit patterns of `format`.
    """
    return fp_narrow(exp2(fp_add(x, np.bitwise_xor(m, FP32.sign_mask)[..., None])), format)


def prob_sum(p: Bits, order: AttentionOrder) -> Bits:
    """Sum of probabilities (step 5): shape (..., T) of ``order.format`` to (...,) of FP32; T is not 0."""
    wide = fp_mul(p, order.format.one, order.format)  # exact: FP32 holds every FP16 and BF16 number
    fill = -p.shape[-1] % order.prob_lanes
    wide = np.concatenate([wide, np.zeros((*p.shape[:-1], fill), np.int64)], axis=-1)
    terms = tree_sum(wide.reshape(*p.shape[:-1], -1, order.prob_lanes))
    total = terms[..., 0]
    for i in range(1, terms.shape[-1]):
        total = fp_add(total, terms[..., i])
    return total


def weighted_sum(p: Bits, v: AnyBits, order: AttentionOrder) -> Bits:
    """Unnormalised output of a segment (step 6).

    Parameters
    ----------
    p : array of shape (..., g, T)
        Bit patterns of ``order.format``.
    v : array of shape (..., T, d)

    Returns
    -------
    array of shape (..., g, d)
        FP32 bit patterns.
    """
    ways, (tokens, dims) = order.token_ways, v.shape[-2:]
    acc = np.zeros((*p.shape[:-1], ways, dims), np.int64)
    for part in _chunks(-(-tokens // ways), acc.size):
        here = slice(part.start * ways, min(part.stop * ways, tokens))
        products = fp_mul(p[..., here, None], v[..., None, here, :], order.format)
        for i in range(0, products.shape[-2], ways):
            term = products[..., i : i + ways, :]
            live = acc[..., : term.shape[-2], :]
            live[...] = term if here.start + i == 0 else fp_add(live, term)
    over_banks = acc.reshape(*p.shape[:-1], order.token_banks, order.token_chips, dims)
    over_chips = tree_sum(np.moveaxis(over_banks, -3, -1))
    return tree_sum(np.moveaxis(over_chips, -2, -1))


def segment_partial(q: AnyBits, k: AnyBits, v: AnyBits, scale_bits: int, order: AttentionOrder) -> Partial:
    """Attention over one segment; shapes as in :func:`attention_partial`, T in 1..``order.segment_tokens``."""
    x = fp_mul(scores(q, k, order), scale_bits, FP32)
    m = maximum_of(x)
    p = probabilities(x, m, order.format)
    return Partial(weighted_sum(p, v, order), m, prob_sum(p, order))


def _bit_patterns(given: ArrayLike, what: str, format: FloatFormat) -> AnyBits:
    array = np.asarray(given)
    if array.dtype == np.float16 and format.name == "fp16":
        array = array.view(np.uint16)
    require(
        np.issubdtype(array.dtype, np.integer), f"{what}.dtype", str(array.dtype), f"an integer type ({format} bits)"
    )
    return array


SegmentFunction = Callable[[AnyBits, AnyBits, AnyBits, int, AttentionOrder], Partial]


def attention_partial(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale_bits: int,
    order: AttentionOrder,
    segment: SegmentFunction = segment_partial,
) -> Partial:
    """Attention before normalisation, over any number of tokens.

    Parameters
    ----------
    q : array of shape (..., g, d)
        Bit patterns of ``order.format``, or float16 values if that is FP16. Leading axes (such as kv_heads) broadcast.
    k, v : arrays of shape (..., T, d)
        Likewise.
    scale_bits : int
        FP32 bits of ``log2(e) * softmax_scale``: ``AttentionShape.scale_bits``.
    order : AttentionOrder
    segment : callable
        Function that computes a segment; :mod:`.native` has a faster one.

    Returns
    -------
    Partial
        o of shape (..., g, d), m and l of shape (..., g). Without tokens: the empty result.

    Raises
    ------
    ParameterError
        If shapes do not match each other or the lanes, or a type is not integer.
    """
    q, k, v = (_bit_patterns(x, what, order.format) for x, what in ((q, "q"), (k, "k"), (v, "v")))
    require(q.ndim >= 2, "q.shape", q.shape, "(..., g, d)")
    require(k.ndim >= 2 and k.shape == v.shape, "k.shape and v.shape", (k.shape, v.shape), "equal, (..., T, d)")
    step = order.vector_chips * order.lanes
    require(
        q.shape[-1] == k.shape[-1] and q.shape[-1] % step == 0,
        "head_dim of q and k",
        (q.shape[-1], k.shape[-1]),
        f"equal and a multiple of {step}",
    )
    tokens, longest = k.shape[-2], order.segment_tokens
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    full, rest = divmod(tokens, longest)
    partials = []
    # Full segments are one more leading axis, in blocks small enough for the cache.
    for block in _chunks(full, math.prod(batch) * math.prod(q.shape[-2:]) * order.token_ways):
        here = slice(block.start * longest, block.stop * longest)
        shape = (*k.shape[:-2], block.stop - block.start, longest, k.shape[-1])
        part = segment(
            q[..., None, :, :], k[..., here, :].reshape(shape), v[..., here, :].reshape(shape), scale_bits, order
        )
        axis = len(batch)
        partials += [Partial(*(np.take(a, i, axis=axis) for a in part)) for i in range(shape[-3])]
    if rest:
        tail = slice(full * longest, None)
        partials.append(segment(q, k[..., tail, :], v[..., tail, :], scale_bits, order))
    return merge_all(partials) if partials else empty_partial((*batch, q.shape[-2]), q.shape[-1])


def decode_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, scale_bits: int, order: AttentionOrder, format: FloatFormat = FP32
) -> Bits:
    """Attention of all heads of one layer.

    Parameters
    ----------
    q : array of shape (num_q_heads, head_dim)
        q_head h belongs to kv_head ``h // (num_q_heads // num_kv_heads)``. Types as :func:`attention_partial`.
    k, v : arrays of shape (num_kv_heads, T, head_dim)
    scale_bits : int
    order : AttentionOrder
    format : FloatFormat
        Format of the output.

    Returns
    -------
    array of shape (num_q_heads, head_dim)
        Bit patterns of `format`.
    """
    queries, keys = np.asarray(q), np.asarray(k)
    require(
        queries.ndim == 2 and keys.ndim == 3 and len(queries) % len(keys) == 0,
        "q.shape and k.shape",
        (queries.shape, keys.shape),
        "(num_q_heads, head_dim) and (num_kv_heads, T, head_dim), q_heads a multiple of kv_heads",
    )
    grouped = queries.reshape(len(keys), -1, queries.shape[-1])
    output = normalise(attention_partial(grouped, keys, v, scale_bits, order), format)
    return output.reshape(queries.shape)
