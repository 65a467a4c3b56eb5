"""The bank PU: column accesses of one DRAM bank into scores and sums. Hardware: ``pimhw.bank_pu``.

A program is a sequence of operand writes (:func:`write_operand`) and bursts (:func:`burst`).

K (``MODE_TREE``), A = head_dim / lanes accesses a token: ``score[r] = dot(column, buffer[start + step][r])`` over the
accesses ``step`` = 0..A-1 of a token, in the order of :func:`~.dot.dot`. Each token of a burst gives one result.

V (``MODE_LANE``), G = dims_per_bank / lanes accesses a token: access `step` of token t of the burst adds, for each
query r and lane j, ``p * column[j]`` to ``sums[step, r, j]``, ``p = buffer[start + t // lanes][r][t % lanes]``. With
`first` the products of token 0 are stored as they are; `last` reads the sums out behind the burst.

Words beyond the end of the operand buffer are those from its begin. A token that a burst breaks off gives no score; its
V products stay added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bank_params import BankPuParams
from ..errors import require
from .dot import MODE_TREE, dot
from .fp_add import fp_add
from .fp_mul import fp_mul
from .rounding import Bits

__all__ = ["Burst", "burst", "column_elements", "empty_buffer", "empty_sums", "write_operand"]


@dataclass(frozen=True)
class Burst:
    """The command of a burst of `count` column accesses. `first` and `last` mean something in V only."""

    mode: int
    first: int
    last: int
    start: int
    count: int


def column_elements(data: ArrayLike) -> Bits:
    """Column words, shape (n, column bytes), as elements, shape (n, lanes): the low byte of an element comes first."""
    pairs = np.asarray(data, dtype=np.int64)
    require(pairs.ndim == 2 and pairs.shape[1] % 2 == 0, "data.shape", pairs.shape, "(n, an even number of bytes)")
    return pairs[:, 0::2] | (pairs[:, 1::2] << 8)


def empty_buffer(params: BankPuParams) -> Bits:
    """An operand buffer of zeros, shape (operand_words, rows, lanes)."""
    return np.zeros((params.operand_words, params.rows, params.lanes), np.int64)


def empty_sums(params: BankPuParams) -> Bits:
    """Sums of zero, shape (dims_per_bank / lanes, rows, lanes)."""
    return np.zeros((params.accesses_per_v, params.rows, params.lanes), np.int64)


def write_operand(buffer: Bits, address: int, row: int, data: ArrayLike) -> Bits:
    """The buffer after a write of one query's part of a word. A row that does not exist is not written."""
    written = buffer.copy()
    if row < buffer.shape[1]:
        written[address % len(buffer), row] = data
    return written


def burst(
    columns: NDArray[np.integer], command: Burst, buffer: Bits, sums: Bits, params: BankPuParams
) -> tuple[Bits, Bits]:
    """Run one burst.

    Parameters
    ----------
    columns : array of shape (command.count, lanes)
        Bit patterns of ``params.format``.
    command : Burst
    buffer : array of shape (operand_words, rows, lanes)
    sums : array of shape (dims_per_bank / lanes, rows, lanes)

    Returns
    -------
    results : array of shape (n, rows)
        FP32 bit patterns. K: the scores of each whole token. V: nothing, or with `last` the sums in the order of the
        dims, one a row.
    sums : array
        The sums behind the burst.

    Raises
    ------
    ParameterError
        If there are not `count` columns of `lanes` elements.
    """
    p = params
    given = np.asarray(columns, dtype=np.int64)
    require(given.shape == (command.count, p.lanes), "columns.shape", given.shape, f"({command.count}, {p.lanes})")
    access = np.arange(command.count)
    if command.mode == MODE_TREE:
        whole = command.count // p.accesses_per_k * p.accesses_per_k
        step = access[:whole] % p.accesses_per_k
        operands = buffer[(command.start + step) % p.operand_words]
        ends = step == p.accesses_per_k - 1
        mode = np.full(whole, MODE_TREE)
        scores = [dot(given[:whole], operands[:, r], mode, step == 0, ends, p.format)[0][:, 0] for r in range(p.rows)]
        return np.stack(scores, axis=1), sums
    if command.count == 0:
        return np.zeros((0, p.rows), np.int64), sums
    token, step = np.divmod(access, p.accesses_per_v)
    probs = buffer[(command.start + token // p.lanes) % p.operand_words, :, token % p.lanes]
    products = fp_mul(probs[:, :, None], given[:, None, :], p.format)
    sums = sums.copy()
    for first in range(0, command.count, p.accesses_per_v):  # the accesses of a token are independent
        here = products[first : first + p.accesses_per_v]
        live = sums[: len(here)]
        live[...] = here if command.first and first == 0 else fp_add(live, here)
    if not command.last:
        return np.zeros((0, p.rows), np.int64), sums
    return np.moveaxis(sums, 1, 2).reshape(p.dims_per_bank, p.rows), sums
