"""Parameters of the DPA controller: slots of resident requests, program memory, tables of virtual rows, micro-ops.

A *slot* holds one resident request. A *virtual row* of a request is a row step (the same row of every bank of every
chip); `chunk_rows` of them are a *chunk*, mapped through directory, leaf and owner as
``docs/decisions/0003-dpa-programs.md`` says. The words of programs are in :mod:`pimspec.isa`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import is_power_of_two, require
from ..fields import Field, FieldTable, index_bits
from ..isa import INSTRUCTIONS, OPERAND_REGISTER_BITS, Opcode

__all__ = ["MAX_PENDING", "ConfigOp", "ConfigOperation", "ConfigRefusal", "DpaParams", "DpaSizes", "SlotState"]

MAX_PENDING = 15
"""Most starts of a slot that can wait."""


class ConfigOp(enum.IntEnum):
    """Operation of the host on the controller; the code is four bits wide.

    `slot`, `index`, `value` are those of :attr:`DpaParams.config`. An operation ignores those that it does not name,
    and bits of `value` above its table.
    """

    WRITE_WORD = 1
    """Word `index` of the program memory becomes `value`."""
    SET_REQUEST = 2
    """`value` is a :attr:`DpaParams.request`."""
    SET_SCALE = 3
    """The low half of `value` is the FP32 number ``log2(e) * softmax_scale``."""
    SET_DIRECTORY = 4
    """Entry `index` of the directory of `slot` becomes `value`, a :attr:`DpaParams.directory_entry`."""
    SET_LEAF = 5
    """Entry ``leaf * leaf_entries + entry`` (`index`) of the leaves becomes `value`, a :attr:`DpaParams.leaf_entry`."""
    SET_OWNER = 6
    """The owner of physical chunk `index` becomes `value`, a :attr:`DpaParams.owner_entry`."""
    START = 7
    """Run the program of `slot` once more."""
    RELEASE = 8
    """Empty `slot`, clear its fault and its directory. Leaves and owners stay: the host resets them."""


class ConfigRefusal(enum.IntEnum):
    """Reason why a configuration operation was refused, the first that applies; the code is four bits wide."""

    NONE = 0
    BAD_OP = 1
    """No such operation."""
    RANGE = 2
    """A slot, index, leaf, chunk or owner that does not exist."""
    BUSY = 3
    """The slot has unfinished starts."""
    BAD_VALUE = 4
    """A program outside the memory or of no words, no tokens, buffer entries out of range or misaligned, more queries
    than a kv_head has lanes for, or a scale that is not a positive normal number."""
    NOT_READY = 5
    """START of a slot that is empty or has a fault."""
    FULL = 6
    """START of a slot with MAX_PENDING starts waiting."""


class SlotState(enum.IntEnum):
    """State of a slot; the code is two bits wide."""

    EMPTY = 0
    """SET_REQUEST or SET_SCALE has not been done since reset or RELEASE."""
    READY = 1
    FAULTED = 2
    """The slot's program had a fault; the state lasts until RELEASE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigOperation:
    """Operation of the host, with the fields of :attr:`DpaParams.config`; those that it does not name are 0."""

    op: ConfigOp
    slot: int = 0
    index: int = 0
    value: int = 0


@dataclass(frozen=True, kw_only=True)
class DpaSizes:
    """Sizes of a DPA controller that a user chooses, independent of the rank.

    Parameters
    ----------
    num_slots : int
        Requests that are resident at once.
    program_words : int
        Words of the program memory, a power of two.
    num_registers : int
        Address registers, at most 8.
    loop_depth : int
        Depth of nested loops.
    chunk_bytes : int
        Bytes of a chunk over all chips, a power of two; at least one row step is taken.
    directory_entries, leaf_entries : int
        Leaves of a slot, and chunks of a leaf; powers of two.
    num_leaves : int, optional
        Leaves that all slots share; by default a power of two that suffices for all chunks however they are dealt.
    watchdog : int
        Most instructions of a pass.
    max_tokens_bits : int
        Width of a token count.

    Raises
    ------
    ParameterError
    """

    num_slots: int = 16
    program_words: int = 1024
    num_registers: int = 8
    loop_depth: int = 4
    chunk_bytes: int = 1 << 20
    directory_entries: int = 128
    leaf_entries: int = 64
    num_leaves: int | None = None
    watchdog: int = 1 << 24
    max_tokens_bits: int = 24

    def __post_init__(self) -> None:
        for what in ("program_words", "chunk_bytes", "directory_entries", "leaf_entries"):
            require(is_power_of_two(getattr(self, what)), what, getattr(self, what), "a power of two")
        require(2 <= self.program_words <= 4096, "program_words", self.program_words, "2..4096")
        require(1 <= self.num_slots <= 256, "num_slots", self.num_slots, "1..256")
        most = 1 << OPERAND_REGISTER_BITS
        require(1 <= self.num_registers <= most, "num_registers", self.num_registers, f"1..{most}")
        require(1 <= self.loop_depth <= 16, "loop_depth", self.loop_depth, "1..16")
        require(1 <= self.watchdog < 1 << 32, "watchdog", self.watchdog, "1..2**32-1")
        require(8 <= self.max_tokens_bits <= 24, "max_tokens_bits", self.max_tokens_bits, "8..24")


@dataclass(frozen=True, kw_only=True)
class DpaParams(DpaSizes):
    """Parameters of one rank's DPA controller; made by :attr:`pimspec.params.pim_rank.PimRankParams.dpa`.

    Parameters
    ----------
    page_bytes : int
        Bytes of a row of one chip.
    num_chips, num_banks : int
        Chips of the rank, and banks of a chip.
    row_lines : int
        Token lines of a row step.
    row_bits : int
        Width of a row address.
    usable_rows : int
        Rows of a bank below those of the window.
    segment_tokens, queries, queries_at_once, host_queue : int
        As in the rank.
    sequencer_op : FieldTable
        The micro-op of the rank's sequencer.

    Raises
    ------
    ParameterError
    """

    page_bytes: int
    num_chips: int
    num_banks: int
    row_lines: int
    row_bits: int
    usable_rows: int
    segment_tokens: int
    queries: int
    queries_at_once: int
    host_queue: int
    sequencer_op: FieldTable

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_power_of_two(self.chunk_rows), "row steps of a chunk", self.chunk_rows, "a power of two")
        require(self.num_chunks >= 1, "num_chunks", self.num_chunks, "1 or more: a smaller chunk_bytes")
        require(self.vrow_bits <= 32, "bits of a virtual row", self.vrow_bits, "at most 32")
        require(self.leaves >= 1, "num_leaves", self.leaves, "1 or more")
        require(self.request.width <= 64, "bits of a request", self.request.width, "at most 64: fewer queries or words")

    @cached_property
    def row_step_bytes(self) -> int:
        """Bytes of a row step: one row in every bank of every chip."""
        return self.page_bytes * self.num_banks * self.num_chips

    @cached_property
    def row_step_tokens(self) -> int:
        """Tokens whose K, or V, of one kv_head is a row step."""
        return self.row_lines * self.num_chips

    @cached_property
    def chunk_rows(self) -> int:
        """Row steps of a chunk."""
        return max(1, self.chunk_bytes // self.row_step_bytes)

    @cached_property
    def num_chunks(self) -> int:
        """Physical chunks; rows of the window are never granted."""
        return self.usable_rows // self.chunk_rows

    @cached_property
    def release_clocks(self) -> int:
        """Clocks in which RELEASE clears what a slot has in the tables."""
        return max(self.directory_entries, self.leaves)

    @cached_property
    def leaves(self) -> int:
        """`num_leaves`, or its default."""
        if self.num_leaves is not None:
            return self.num_leaves
        return 1 << (self.num_slots + -(-self.num_chunks // self.leaf_entries) - 1).bit_length()

    @cached_property
    def virtual_rows(self) -> int:
        """Virtual rows of a slot."""
        return self.directory_entries * self.leaf_entries * self.chunk_rows

    @cached_property
    def vrow_bits(self) -> int:
        return self.virtual_rows.bit_length() - 1

    @cached_property
    def max_tokens(self) -> int:
        return (1 << self.max_tokens_bits) - 1

    @cached_property
    def loop_count_bits(self) -> int:
        """Width of a loop's count: a constant of 16 bits, or the segments of the longest context."""
        return max(16, -(-self.max_tokens // self.segment_tokens).bit_length())

    @cached_property
    def slot_bits(self) -> int:
        return index_bits(self.num_slots)

    @cached_property
    def chunk_bits(self) -> int:
        return index_bits(self.num_chunks)

    @cached_property
    def leaf_bits(self) -> int:
        return index_bits(self.leaves)

    @cached_property
    def instructions(self) -> Mapping[Opcode, FieldTable]:
        """Word of each opcode; the opcode itself is its first field."""
        return {opcode: spec.table for opcode, spec in INSTRUCTIONS.items()}

    @cached_property
    def micro_op(self) -> FieldTable:
        """Micro-op of the second pass; see :class:`pimspec.isa.MicroOp`."""
        kind, *others = self.sequencer_op.fields
        return FieldTable(kind, Field(name="slot", width=self.slot_bits), *others)

    @cached_property
    def config_index_bits(self) -> int:
        sizes = (self.program_words, self.directory_entries, self.leaves * self.leaf_entries, self.num_chunks)
        return max(map(index_bits, sizes))

    @cached_property
    def config(self) -> FieldTable:
        """Configuration operation: `op` a :class:`ConfigOp`; `value` has 64 bits, element 0 the low half."""
        return FieldTable(
            Field(name="op", width=4),
            Field(name="slot", width=self.slot_bits),
            Field(name="index", width=self.config_index_bits),
            Field(name="value", width=32, count=2),
        )

    @cached_property
    def request(self) -> FieldTable:
        """Value of SET_REQUEST.

        `program`, `length`: first word and words of the program. `tokens`: T_cur, 1 or more. `first_entry`,
        `num_entries`: entries of the query buffer and, likewise, of the output buffer; the first is a multiple of
        `queries_at_once`. `last_query`: queries of a kv_head less one. `normalise`: deliver 16-bit results instead of
        ``o_partial``. `static_order`: no overlap of banks and bus (for comparison).
        """
        return FieldTable(
            Field(name="program", width=index_bits(self.program_words)),
            Field(name="length", width=self.program_words.bit_length()),
            Field(name="tokens", width=self.max_tokens_bits),
            Field(name="first_entry", width=index_bits(self.queries)),
            Field(name="num_entries", width=self.queries.bit_length()),
            Field(name="last_query", width=4),
            Field(name="normalise", width=1),
            Field(name="static_order", width=1),
        )

    @cached_property
    def directory_entry(self) -> FieldTable:
        """Directory entry: the leaf that maps the next `leaf_entries` chunks of a slot."""
        return FieldTable(Field(name="valid", width=1), Field(name="leaf", width=self.leaf_bits))

    @cached_property
    def leaf_entry(self) -> FieldTable:
        """Leaf entry: the physical chunk of a slot's chunk."""
        return FieldTable(Field(name="valid", width=1), Field(name="chunk", width=self.chunk_bits))

    @cached_property
    def owner_entry(self) -> FieldTable:
        """Owner entry: the slot of a physical chunk, and whether its programs may read it."""
        return FieldTable(
            Field(name="valid", width=1), Field(name="slot", width=self.slot_bits), Field(name="readable", width=1)
        )

    @cached_property
    def outcome(self) -> FieldTable:
        """Outcome of one start: :class:`pimspec.golden.dpa_program.Outcome` without its micro-ops."""
        return FieldTable(
            Field(name="slot", width=self.slot_bits),
            Field(name="fault", width=4),
            Field(name="fault_pc", width=self.program_words.bit_length()),
            Field(name="fault_row", width=32),
            Field(name="instructions", width=32),
        )

    @cached_property
    def status(self) -> FieldTable:
        """Status of a slot, as in :class:`pimspec.golden.dpa.Slot`; `state` is a :class:`SlotState`; a count wraps."""
        return FieldTable(
            Field(name="state", width=2),
            Field(name="pending", width=4),
            Field(name="tokens", width=self.max_tokens_bits),
            Field(name="programs_done", width=16),
            Field(name="fault", width=4),
            Field(name="fault_pc", width=self.program_words.bit_length()),
            Field(name="fault_row", width=32),
        )
