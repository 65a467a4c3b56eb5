"""Golden bank PU: column accesses of one DRAM bank into scores and sums. Hardware: ``pimhw.bank_pu``.

A program is a sequence of operand writes (:func:`write_operand`) and bursts (:func:`burst`) on a :class:`BankState`.

K (``MODE_TREE``), A = head_dim / lanes accesses a token: ``score[r] = dot(column, operands[start + step][r])`` over the
accesses ``step`` = 0..A-1 of a token, in the order of :func:`~.dot.dot`. Each token gives one result.

V (``MODE_LANE``), G = dims_per_bank / lanes accesses a token: access `step` of token t adds, for each query r and lane
j, ``p * column[j]`` to ``sums[set, step, r, j]``, ``p = operands[start + t // lanes][r][t % lanes]``. With `first` the
products of token 0 are stored as they are. A token that does not exist, ``keep[start + t // lanes][t % lanes]`` = 0,
leaves the sums as they are, whatever its operand and its column hold; with `first`, as token 0, it makes them +0. K has
no such tokens.

Words beyond the end of the operand buffer are those from its beginning. A burst with `resume` goes on with the access
that would have followed the previous burst, even in the middle of a token; ``count`` alone is its own. So the result
does not depend on where a burst was cut. A burst of 0 accesses only sets where a resumed one begins. A token that a
burst breaks off for good gives no score; its V products stay added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import require
from ..params.bank_pu import BankPuParams
from .dot import MODE_TREE, tree_sum
from .fp_add import fp_add
from .fp_mul import fp_mul
from .rounding import Bits

__all__ = ["BankState", "Burst", "burst", "column_elements", "empty_bank", "write_operand"]


@dataclass(frozen=True)
class Burst:
    """Command of a burst of `count` column accesses; `first` has a meaning for V only."""

    mode: int
    first: int
    start: int
    count: int
    resume: int = 0
    set: int = 0


@dataclass(frozen=True)
class BankState:
    """State of a bank PU between bursts.

    Parameters
    ----------
    operands : array of shape (operand_words, rows, lanes)
    keep : array of shape (operand_words, lanes)
        1 for an element that exists.
    sums : array of shape (2, dims_per_bank / lanes, rows, lanes)
    last : Burst
        The last burst and those before it that it resumed, as one: the remainder of a token begins there.
    score : array of shape (rows,)
        Sum of K over the accesses of a broken token.
    """

    operands: Bits
    keep: Bits
    sums: Bits
    last: Burst
    score: Bits

    def by_dim(self, which: int = 0) -> Bits:
        """Sums of a set in the order of the dims, shape (dims_per_bank, rows)."""
        sums = self.sums[which]
        return np.moveaxis(sums, 1, 2).reshape(-1, sums.shape[1])


def column_elements(data: ArrayLike) -> Bits:
    """Column words, shape (n, column bytes), as elements, shape (n, lanes): the low byte of an element comes first."""
    pairs = np.asarray(data, dtype=np.int64)
    require(pairs.ndim == 2 and pairs.shape[1] % 2 == 0, "data.shape", pairs.shape, "(n, an even number of bytes)")
    return pairs[:, 0::2] | (pairs[:, 1::2] << 8)


def empty_bank(params: BankPuParams) -> BankState:
    """State of a bank PU before its first operand: nothing exists, everything is 0."""
    p = params
    return BankState(
        operands=np.zeros((p.operand_words, p.queries_at_once, p.lanes), np.int64),
        keep=np.zeros((p.operand_words, p.lanes), np.int64),
        sums=np.zeros((2, p.accesses_per_v, p.queries_at_once, p.lanes), np.int64),
        last=Burst(MODE_TREE, 0, 0, 0),
        score=np.zeros(p.queries_at_once, np.int64),
    )


def write_operand(state: BankState, address: int, row: int, data: ArrayLike, keep: ArrayLike = 1) -> BankState:
    """State after a write of one query's part of a word; a write of a row that does not exist changes nothing.

    Parameters
    ----------
    data : array of shape (lanes,)
        Bit patterns.
    keep : array of shape (lanes,), or 1 for all
        1 for each element of the word that exists, in each query.
    """
    if row >= state.operands.shape[1]:
        return state
    operands, kept = state.operands.copy(), state.keep.copy()
    operands[address % len(operands), row] = data
    kept[address % len(operands)] = keep
    return replace(state, operands=operands, keep=kept)


def burst(
    columns: NDArray[np.integer], command: Burst, state: BankState, params: BankPuParams
) -> tuple[Bits, BankState]:
    """Scores and next state of a bank PU after one burst.

    Parameters
    ----------
    columns : array of shape (command.count, lanes)
        Bit patterns of ``params.format``.
    command : Burst
    state : BankState

    Returns
    -------
    scores : array of shape (n, rows)
        FP32 bit patterns, one row for each token that the burst ends; none in V.
    state : BankState
        State after the burst.

    Raises
    ------
    ParameterError
        If there are not `count` columns of `lanes` elements.
    """
    p = params
    given = np.asarray(columns, dtype=np.int64)
    require(given.shape == (command.count, p.lanes), "columns.shape", given.shape, f"({command.count}, {p.lanes})")
    done = state.last.count if command.resume else 0  # accesses before those of this burst
    whole = replace(state.last if command.resume else command, count=done + command.count, resume=0)
    access = done + np.arange(command.count)
    if whole.mode == MODE_TREE:
        scores, score = _scores(given, access, whole.start, state, p)
        return scores, replace(state, last=whole, score=score)
    return np.zeros((0, p.queries_at_once), np.int64), replace(
        state, last=whole, sums=_sums(given, access, whole, state, p)
    )


def _scores(columns: Bits, access: Bits, start: int, state: BankState, p: BankPuParams) -> tuple[Bits, Bits]:
    """Scores of the tokens that end, and the partial score of a broken one."""
    step = access % p.accesses_per_k
    operands = state.operands[(start + step) % p.operand_words]
    terms = tree_sum(fp_mul(columns[:, None, :], operands, p.format))
    token = access // p.accesses_per_k
    token -= token[:1]
    acc = np.zeros((int(token.max(initial=0)) + 1, p.queries_at_once), np.int64)
    acc[0] = state.score
    for s in range(p.accesses_per_k):  # tokens are independent
        here = np.flatnonzero(step == s)
        acc[token[here]] = terms[here] if s == 0 else fp_add(acc[token[here]], terms[here])
    return acc[token[step == p.accesses_per_k - 1]], acc[-1]


def _sums(columns: Bits, access: Bits, whole: Burst, state: BankState, p: BankPuParams) -> Bits:
    """Sums after the accesses."""
    token, step = np.divmod(access, p.accesses_per_v)
    word = (whole.start + token // p.lanes) % p.operand_words
    products = fp_mul(state.operands[word, :, token % p.lanes][:, :, None], columns[:, None, :], p.format)
    present = state.keep[word, token % p.lanes] != 0
    every = state.sums.copy()
    sums = every[whole.set]
    for t in np.unique(token):  # the accesses of a token are independent
        here = np.flatnonzero(token == t)
        live, term, exists = sums[step[here]], products[here], present[here][:, None, None]
        if whole.first and t == 0:
            sums[step[here]] = np.where(exists, term, 0)
        else:
            sums[step[here]] = np.where(exists, fp_add(live, term), live)
    return every
