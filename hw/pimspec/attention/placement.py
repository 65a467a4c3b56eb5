"""KV placement: (request, kv_head, token, dim) <-> (rank, chip, bank_group, bank, row, column byte) of each byte.

A :class:`KvLayout` is the arithmetic of one K or V inside a *stack* of rows: the rows of one number in every bank of
every chip. A :class:`KvRegion` gives the rows of a rank that hold a request's stack, chosen by the row allocator.
A :class:`KvPlacement` joins them, and lists the writes of an append or of a prefill.

Layout (dims of a chip's part of a vector, tokens dealt to it counted by u; :class:`~.shape.KvMapping`)::

    chip  = set * chips_per_vector + dim // dims_per_chip    set = token % sets (u = token // sets), or the kv_head
    bank  = (dim in chip // dims_per_bank) * token_banks + (u // deal) % token_banks
    w     = (u // (deal * token_banks)) * deal + u % deal     tokens of the bank
    row   = w // tokens_per_row,  column byte = (w % tokens_per_row) * slice + 2 * (dim in bank)

K: dims_per_bank is dims_per_chip, token_banks all banks, and deal by default a row's worth, so that rows stream whole.
V: a vector is spread over banks, deal is 1. For token-per-chip on DDR4 x8 with head_dim 128: K has 4 tokens a row and
32 column accesses a token; V has 64 tokens a row and 2 column accesses a token in each of 16 banks.

A token's bytes are whole column accesses of the chips it lies in and share none with another token. So an append writes
only its own bytes; the data mask (DM) keeps the other chips as they are.

`bank` without bank_group is flat: ``bank_group * banks_per_group + bank``. Elements are little-endian.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dram.organization import DramOrganization
from ..errors import ParameterError, require
from .shape import ELEMENT_BYTES, AttentionShape, KvMapping

__all__ = ["Address", "BurstWrites", "KvElement", "KvKind", "KvLayout", "KvPlacement", "KvRegion", "StackAddress"]
__all__ += ["chips_of_line", "line_of_chips", "relayout_line"]

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class KvKind(enum.Enum):
    K = "k"
    V = "v"


class StackAddress(NamedTuple):
    """Address of a byte inside a stack of rows; arrays of one shape."""

    chip: Ints
    bank: Ints  # flat
    row: Ints  # from the first row of the stack
    column_byte: Ints


class Address(NamedTuple):
    """Address of a byte in a rank; arrays of one shape, or plain numbers."""

    rank: Ints
    chip: Ints
    bank_group: Ints
    bank: Ints  # within the bank_group
    row: Ints
    column_byte: Ints


class KvElement(NamedTuple):
    """A byte of a K or V element."""

    request: int
    kind: KvKind
    kv_head: int
    token: int
    dim: int
    byte: int


class BurstWrites(NamedTuple):
    """N write bursts, in order of row, then bank, then column.

    `column` is the address on the CA bus (the first column of the burst). `chip_mask` has bit c set where chip c is
    written; DM keeps the others. `data` is what each chip stores, after the byte re-layout of the buffer chip.
    """

    rank: Ints  # (N,)
    bank_group: Ints  # (N,)
    bank: Ints  # (N,) within the bank_group
    row: Ints  # (N,)
    column: Ints  # (N,)
    chip_mask: Ints  # (N,)
    data: Bytes  # (N, chips_per_rank, column_access_bytes)


def _require_below(what: str, given: Ints, limit: int | None) -> None:
    bad = given[(given < 0) | (limit is not None and given >= limit)]
    require(bad.size == 0, what, bad[:1].tolist(), "0 or more" if limit is None else f"in 0..{limit - 1}")


@dataclass(frozen=True, kw_only=True)
class KvLayout:
    """Layout of one K or V in a stack of rows: see the module text.

    Raises
    ------
    ParameterError
        If vectors do not divide into whole column accesses, rows and banks.
    """

    organization: DramOrganization
    shape: AttentionShape
    mapping: KvMapping
    kind: KvKind

    def __post_init__(self) -> None:
        self.mapping.v_banks(self.shape, self.organization)
        page = self.organization.page_bytes
        require(self.slice_bytes <= page, "bytes of a vector in a bank", self.slice_bytes, f"at most a row of {page} B")
        most = self.tokens_per_row
        require(most % self.deal == 0, "k_tokens_per_deal", self.deal, f"a divisor of {most}")

    @property
    def heads(self) -> int:
        """Number of kv_heads that share a stack."""
        return self.mapping.heads_side_by_side(self.organization)

    @property
    def token_sets(self) -> int:
        """Number of chips, or sets of chips, over which tokens are dealt."""
        return self.mapping.token_chips(self.organization)

    @property
    def dims_per_chip(self) -> int:
        return self.mapping.dims_per_chip(self.shape, self.organization)

    @property
    def vector_banks(self) -> int:
        """Number of banks over which a chip's part of a vector is spread."""
        return 1 if self.kind is KvKind.K else self.mapping.v_banks(self.shape, self.organization)

    @property
    def token_banks(self) -> int:
        """Number of banks, or sets of banks, over which a chip's tokens are dealt."""
        return self.organization.banks_per_chip // self.vector_banks

    @property
    def dims_per_bank(self) -> int:
        return self.dims_per_chip // self.vector_banks

    @property
    def slice_bytes(self) -> int:
        """Bytes of a token in one bank."""
        return self.dims_per_bank * ELEMENT_BYTES

    @property
    def accesses_per_token(self) -> int:
        """Column accesses of a token in one bank."""
        return self.slice_bytes // self.organization.column_access_bytes

    @property
    def tokens_per_row(self) -> int:
        return self.organization.page_bytes // self.slice_bytes

    @property
    def deal(self) -> int:
        """Number of successive tokens of a chip that a bank takes at once."""
        if self.kind is KvKind.V:
            return 1
        return self.mapping.k_tokens_per_deal or self.tokens_per_row

    @property
    def tokens_per_stack_row(self) -> int:
        """Number of tokens of each kv_head in one row of every bank of every chip."""
        return self.token_sets * self.token_banks * self.tokens_per_row

    def num_rows(self, tokens: int) -> int:
        """Rows of a stack that holds `tokens` tokens."""
        require(tokens >= 0, "tokens", tokens, "0 or more")
        return -(-tokens // self.tokens_per_stack_row)

    def busiest_bank_tokens(self, tokens: int) -> int:
        """Number of tokens in the fullest bank: chip 0, bank 0."""
        require(tokens >= 0, "tokens", tokens, "0 or more")
        rounds, rest = divmod(-(-tokens // self.token_sets), self.deal * self.token_banks)
        return rounds * self.deal + min(rest, self.deal)

    def locate(self, head: ArrayLike, token: ArrayLike, dim: ArrayLike) -> StackAddress:
        """Addresses of the low bytes of elements; `head` counts within the stack. Arguments broadcast."""
        head, token, dim = np.broadcast_arrays(*(np.asarray(x, dtype=np.int64) for x in (head, token, dim)))
        _require_below("kv_head in stack", head, self.heads)
        _require_below("dim", dim, self.shape.head_dim)
        _require_below("token", token, None)
        chip_set = head if self.heads > 1 else token % self.token_sets
        u = token // self.token_sets
        in_chip = dim % self.dims_per_chip
        turn, place = np.divmod(u, self.deal)
        w = turn // self.token_banks * self.deal + place
        return StackAddress(
            chip=chip_set * self.mapping.chips_per_vector + dim // self.dims_per_chip,
            bank=in_chip // self.dims_per_bank * self.token_banks + turn % self.token_banks,
            row=w // self.tokens_per_row,
            column_byte=w % self.tokens_per_row * self.slice_bytes + in_chip % self.dims_per_bank * ELEMENT_BYTES,
        )

    def element(self, address: StackAddress) -> tuple[Ints, Ints, Ints, Ints]:
        """`(head, token, dim, byte)` at addresses: the inverse of :meth:`locate`. Every byte of a stack has one."""
        chip, bank, row, column_byte = (np.asarray(x, dtype=np.int64) for x in address)
        chip_set, part = np.divmod(chip, self.mapping.chips_per_vector)
        bank_part, turn_low = np.divmod(bank, self.token_banks)
        slot, offset = np.divmod(column_byte, self.slice_bytes)
        turn_high, place = np.divmod(row * self.tokens_per_row + slot, self.deal)
        u = (turn_high * self.token_banks + turn_low) * self.deal + place
        dim = part * self.dims_per_chip + bank_part * self.dims_per_bank + offset // ELEMENT_BYTES
        if self.heads > 1:
            return chip_set, u, dim, offset % ELEMENT_BYTES
        return np.zeros_like(u), u * self.token_sets + chip_set, dim, offset % ELEMENT_BYTES


@dataclass(frozen=True, kw_only=True)
class KvRegion:
    """Rows of one stack.

    Parameters
    ----------
    request : int
    kind : KvKind
    head_set : int
        Set of kv_heads, ``kv_head // heads`` of the layout: the kv_head itself unless kv_heads lie side by side.
    rank : int
    rows : sequence of int
        Row of the rank for each row of the stack. ``range(row_base, row_base + n)`` is a contiguous one; a list of rows
        of scattered blocks is a paged one.
    """

    request: int
    kind: KvKind
    head_set: int
    rank: int
    rows: Sequence[int]


class KvPlacement:
    """K and V of requests in the ranks on one command bus.

    Parameters
    ----------
    organization : DramOrganization
    shape : AttentionShape
    mapping : KvMapping
    regions : iterable of KvRegion

    Raises
    ------
    ParameterError
        If two regions share a row, one is given twice, or a number is out of range. Otherwise the bytes of the regions
        and the bytes of the elements form a bijection.
    """

    def __init__(
        self, *, organization: DramOrganization, shape: AttentionShape, mapping: KvMapping, regions: Iterable[KvRegion]
    ) -> None:
        self.organization, self.shape, self.mapping = organization, shape, mapping
        self.layouts = {
            kind: KvLayout(organization=organization, shape=shape, mapping=mapping, kind=kind) for kind in KvKind
        }
        self._regions: dict[tuple[int, KvKind, int], KvRegion] = {}
        self._owners: dict[tuple[int, int], tuple[KvRegion, int]] = {}
        for region in regions:
            self._add(region)

    @property
    def num_head_sets(self) -> int:
        """Number of stacks of one kind that a request needs."""
        return -(-self.shape.num_kv_heads // self.layouts[KvKind.K].heads)

    def _add(self, region: KvRegion) -> None:
        key = (region.request, region.kind, region.head_set)
        require(key not in self._regions, "region", key, "given once")
        sets, ranks, rows = self.num_head_sets, self.organization.ranks, self.organization.rows
        require(0 <= region.head_set < sets, "head_set", region.head_set, f"in 0..{sets - 1}")
        require(0 <= region.rank < ranks, "rank", region.rank, f"in 0..{ranks - 1}")
        self._regions[key] = region
        for index, row in enumerate(region.rows):
            require(0 <= row < rows, "row", row, f"in 0..{rows - 1}")
            require((region.rank, row) not in self._owners, "row", row, f"in one region only (rank {region.rank})")
            self._owners[region.rank, row] = (region, index)

    def _region(self, request: int, kind: KvKind, head_set: int, rows_needed: int) -> tuple[KvRegion, Ints]:
        try:
            region = self._regions[request, kind, head_set]
        except KeyError:
            raise ParameterError(f"request {request} has no rows for {kind.name} of head set {head_set}") from None
        have = len(region.rows)
        require(rows_needed <= have, f"rows of request {request}, {kind.name}", have, f"at least {rows_needed}")
        return region, np.asarray(region.rows, dtype=np.int64)

    def locate(self, request: int, kind: KvKind, kv_head: int, token: ArrayLike, dim: ArrayLike) -> Address:
        """Addresses of the low bytes of elements; the high byte follows. `token` and `dim` broadcast."""
        require(0 <= kv_head < self.shape.num_kv_heads, "kv_head", kv_head, f"in 0..{self.shape.num_kv_heads - 1}")
        layout = self.layouts[kind]
        head_set, head = divmod(kv_head, layout.heads)
        at = layout.locate(head, token, dim)
        region, rows = self._region(request, kind, head_set, int(at.row.max(initial=-1)) + 1)
        bank_group, bank = np.divmod(at.bank, self.organization.banks_per_group)
        return Address(np.full_like(at.row, region.rank), at.chip, bank_group, bank, rows[at.row], at.column_byte)

    def element(self, address: Address) -> KvElement | None:
        """Element byte at one address (plain numbers); None if no region has the row, or the kv_head does not exist."""
        rank, chip, bank_group, bank, row, column_byte = numbers = [int(x) for x in address]
        o = self.organization
        limits = (o.ranks, o.chips_per_rank, o.bank_groups, o.banks_per_group, o.rows, o.page_bytes)
        for what, given, limit in zip(Address._fields, numbers, limits, strict=True):
            require(0 <= given < limit, what, given, f"in 0..{limit - 1}")
        owner = self._owners.get((rank, row))
        if owner is None:
            return None
        region, index = owner
        layout = self.layouts[region.kind]
        flat = (chip, bank_group * o.banks_per_group + bank, index, column_byte)
        head, token, dim, byte = (int(x) for x in layout.element(StackAddress(*(np.asarray(x) for x in flat))))
        kv_head = region.head_set * layout.heads + head
        if kv_head >= self.shape.num_kv_heads:
            return None
        return KvElement(region.request, region.kind, kv_head, token, dim, byte)

    def writes(self, request: int, kind: KvKind, first_token: int, vectors: ArrayLike) -> BurstWrites:
        """Write bursts that store vectors: one token for an append, many for a prefill.

        Parameters
        ----------
        request : int
        kind : KvKind
        first_token : int
            Number of the first token of `vectors`.
        vectors : array of shape (num_kv_heads, n, head_dim)
            Bit patterns (16 bit), or float16 values.

        Returns
        -------
        BurstWrites
            Chips share a burst if it reaches them for several tokens or kv_heads: one write for each column access.
        """
        given = np.asarray(vectors)
        words = given.view(np.uint16) if given.dtype == np.float16 else given.astype(np.uint16)
        want = (self.shape.num_kv_heads, self.shape.head_dim)
        fits = words.ndim == 3 and words.shape[::2] == want
        require(fits, "vectors.shape", words.shape, f"({want[0]}, n, {want[1]})")
        require(first_token >= 0, "first_token", first_token, "0 or more")
        layout = self.layouts[kind]
        parts = []
        for head_set in range(self.num_head_sets):
            block = words[head_set * layout.heads : (head_set + 1) * layout.heads]
            head, token, dim = (np.arange(n) for n in block.shape)
            at = layout.locate(*np.ix_(head, token + first_token, dim))
            region, rows = self._region(request, kind, head_set, int(at.row.max(initial=-1)) + 1)
            parts.append(self._bursts(region.rank, at._replace(row=rows[at.row]), block))
        return BurstWrites(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _bursts(self, rank: int, at: StackAddress, words: NDArray[np.uint16]) -> BurstWrites:
        o = self.organization
        access, byte = np.divmod(at.column_byte.ravel(), o.column_access_bytes)
        key = (at.row.ravel() * o.banks_per_chip + at.bank.ravel()) * o.column_accesses_per_row + access
        bursts, index = np.unique(key, return_inverse=True)
        chip = at.chip.ravel()
        data = np.zeros((len(bursts), o.chips_per_rank, o.column_access_bytes), np.uint8)
        data[index, chip, byte] = words.ravel() & 0xFF
        data[index, chip, byte + 1] = words.ravel() >> 8
        mask = np.zeros(len(bursts), np.int64)
        np.bitwise_or.at(mask, index, np.int64(1) << chip)
        place, column = np.divmod(bursts, o.column_accesses_per_row)
        row, flat_bank = np.divmod(place, o.banks_per_chip)
        bank_group, bank = np.divmod(flat_bank, o.banks_per_group)
        return BurstWrites(np.full_like(row, rank), bank_group, bank, row, column * o.burst_length, mask, data)


def relayout_line(line: bytes, chips: int = 8) -> bytes:
    """Byte re-layout of the buffer chip: a permutation of a burst's line that is its own inverse.

    In a line, byte ``chips * b + c`` goes to (x8) chip c in beat b. The two bytes of a 16-bit element are on
    neighbouring chips, where no bank PU could use them. Each 2x2 block of chips (2j, 2j+1) and beats (2i, 2i+1) is
    transposed: chip 2j gets both bytes of the element of beat 2i, chip 2j+1 those of the element of beat 2i+1. Two
    beats are one DDR clock. With DDR4 x8 (64 bytes) and i = 0..3, chip 2j then holds the elements 8i + j of the host's
    line. Chip 2j+1 holds the elements 8i + 4 + j. :func:`line_of_chips` packs a line for chosen contents.
    """
    require(chips >= 2 and chips % 2 == 0, "chips", chips, "an even number")
    require(len(line) > 0 and len(line) % (2 * chips) == 0, "len(line)", len(line), f"a multiple of {2 * chips}")
    blocks = np.frombuffer(line, np.uint8).reshape(-1, 2, chips // 2, 2)  # beat pair, beat, chip pair, chip
    return blocks.transpose(0, 3, 2, 1).tobytes()


def chips_of_line(line: bytes, chips: int = 8) -> Bytes:
    """Bytes that each chip stores of a host's line: shape (chips, beats)."""
    return np.frombuffer(relayout_line(line, chips), np.uint8).reshape(-1, chips).T.copy()


def line_of_chips(data: Bytes) -> bytes:
    """Host line that makes each chip store ``data[chip]``: the inverse of :func:`chips_of_line`."""
    return relayout_line(np.asarray(data, np.uint8).T.tobytes(), data.shape[0])
