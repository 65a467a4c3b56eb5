"""Reserved window of a PIM rank, which a host reads and writes with plain DDR4 RD and WR.

The window is the last `rows` rows of every bank. A line of it is addressed as a line of memory is, and numbered
``(row in window * banks + flat bank) * column accesses + column access``. Its regions, in order, each a power of two of
lines and aligned to its size:

========== ====== =================================================================================
region     access contents
========== ====== =================================================================================
control    W / R  line 0: W a control word, R the status; line 1: W a descriptor; line 3: R the mode registers; with a
                  DPA controller line 2: W a configuration operation (:attr:`pimspec.params.dpa.DpaParams.config`), R
                  its state
reads      R      lines read for the host while PIM owns the DRAM, by entry
queries    W      query vectors, `head_dim` 16-bit elements each
outputs    R      output vectors, `head_dim` 32-bit words each; FP16 or BF16 in the low half if normalised
statistics R      a line for each output: m, l (FP32)
append     W      entries for APPEND: a vector each, `head_dim` 16-bit elements
slots      R      with a DPA controller: a line for each slot (:attr:`pimspec.params.dpa.DpaParams.status`)
========== ====== =================================================================================

Lines are as the host sees them, without byte re-layout. A write with any byte masked, a read or write outside the
regions, and anything that the tables below forbid is refused. A refusal changes nothing but the refusal count and code
of the status.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property

from ..fields import Field, FieldTable, index_bits
from .bus import NUM_MODE_REGISTERS

__all__ = ["DPA_STATE", "REFUSAL_BITS", "ControlOp", "Refusal", "Region", "Window"]


class ControlOp(enum.IntEnum):
    """Operation of a control word; the code is four bits wide."""

    NONE = 0
    TAKE = 1
    """PIM takes the DRAM over. Refused while the host has a row open."""
    RELEASE = 2
    """PIM gives the DRAM back once all work is done; the status shows the owner."""
    CLEAR = 3
    """Set the refusal count and code, and the chip status, to zero."""
    READ = 4
    """Read a line of the DRAM into entry `entry` of the region `reads`. Only while PIM owns the DRAM."""
    REFRESH = 5
    """Set the refresh rate of the command engine: `rate` 0 once, 1 twice in tREFI (above 85 degrees Celsius)."""
    APPEND = 6
    """Append the vector of entry `entry` of the region `append`: K, or V if `v`, of token `token` of the row step of
    row `row`. Only while PIM owns the DRAM."""


class Refusal(enum.IntEnum):
    """Reason why a request was refused; the code has :data:`REFUSAL_BITS`."""

    NONE = 0
    MASKED = 1
    """A write to the window had bytes masked."""
    OUTSIDE = 2
    """No region has this line, or it cannot be read or written."""
    BAD_OP = 3
    """No such control word, or one not allowed now."""
    QUEUE_FULL = 4
    """Descriptor or host queue full."""
    BAD_TOKENS = 5
    """`tokens` is 0, or above the greatest context."""
    BAD_ROWS = 6
    """Rows of K or V reach the window or the end of the bank, or K and V overlap."""
    BAD_QUERIES = 7
    """More queries than the rank handles at once, or beyond the query or output buffer, or misaligned."""
    BAD_SCALE = 8
    """`scale` is not a positive, normal FP32 number."""
    DATA_READ = 9
    """A RD of a data row while PIM owns the DRAM."""
    ROW_CLOSED = 10
    """A column command to a bank in which the host has no row open, or, owning the DRAM, none that it opened since."""
    RESERVED = 11
    """Reserved bits are not zero."""
    ROW_OPEN = 12
    """ACT of an open bank, or a command that needs all banks closed while the host has a row open."""
    OWNED = 13
    """MRS, ZQCS, ZQCL, SRE or PDE while PIM owns the DRAM."""
    POWER = 14
    """A command in power-down or self refresh, or the end of one that did not begin."""
    CONFLICT = 15
    """A second column command, a second command to a bank, or one beside a command of the rank, within a clock."""
    UNKNOWN = 16
    """A code that is no DDR4 command, or a bank that does not exist."""
    BAD_APPEND = 17
    """APPEND to a row of the window; or a posted write to a row of which the append buffer has lines to write."""


REFUSAL_BITS = 8
"""Width of a refusal code, that of a request as well as that of a configuration operation."""

DPA_STATE = FieldTable(
    Field(name="queued", width=8),
    Field(name="running", width=1),
    Field(name="refused", width=16),
    Field(name="refusal", width=REFUSAL_BITS),
    Field(name="programs", width=16),
    Field(name="faults", width=16),
)
"""State of the DPA controller; counts wrap.

`queued`: configuration operations that wait. `running`: a program is checked or issues, or one waits. `refused`,
`refusal`: configuration operations refused, and the :class:`~pimspec.params.dpa.ConfigRefusal` of the last one.
`programs`, `faults`: programs that have run completely, and those stopped.
"""


@dataclass(frozen=True, kw_only=True)
class Region:
    """Region of the window: `size` lines from line `base` on."""

    base: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """Layout of the window of one rank.

    Parameters
    ----------
    line_bytes : int
        Bytes of a line, over all chips.
    num_banks, rows_per_bank, column_accesses_per_row : int
        Banks, rows and column accesses of a chip.
    head_dim : int
    queries : int
        Entries of the query buffer, and of the output buffer.
    host_queue : int
        Host accesses that can wait while PIM owns the DRAM.
    step_tokens : int
        Tokens of a row step.
    num_slots : int or None
        Slots of the DPA controller; None for a rank without one.
    """

    line_bytes: int
    num_banks: int
    rows_per_bank: int
    column_accesses_per_row: int
    head_dim: int
    queries: int
    host_queue: int
    step_tokens: int
    num_slots: int | None = None

    @property
    def output_lines(self) -> int:
        """Lines of an output vector."""
        return max(1, self.head_dim * 4 // self.line_bytes)

    @property
    def query_lines(self) -> int:
        """Lines of a query vector."""
        return max(1, self.head_dim * 2 // self.line_bytes)

    @cached_property
    def regions(self) -> dict[str, Region]:
        sizes = {
            "control": 4,
            "reads": self.host_queue,
            "queries": self.queries * self.query_lines,
            "outputs": self.queries * self.output_lines,
            "statistics": self.queries,
        }
        if self.num_slots is not None:
            sizes["slots"] = 1 << index_bits(self.num_slots)
        sizes["append"] = self.host_queue * self.query_lines
        placed, end = {}, 0
        for name, size in sizes.items():
            base = -(-end // size) * size
            placed[name] = Region(base=base, size=size)
            end = base + size
        return placed

    @property
    def lines_per_row(self) -> int:
        return self.num_banks * self.column_accesses_per_row

    @cached_property
    def rows(self) -> int:
        """Rows of every bank, a power of two."""
        end = max(r.base + r.size for r in self.regions.values())
        return 1 << (-(-end // self.lines_per_row) - 1).bit_length()

    @property
    def first_row(self) -> int:
        """First row of the window; all rows from there on belong to it."""
        return self.rows_per_bank - self.rows

    @property
    def row_bits(self) -> int:
        """Width of a row address."""
        return index_bits(self.rows_per_bank)

    @property
    def line_bits(self) -> int:
        return index_bits(self.rows * self.lines_per_row)

    def address(self, line: int) -> tuple[int, int, int]:
        """`(row, flat bank, column access)` of a line of the window."""
        place, access = divmod(line, self.column_accesses_per_row)
        row, bank = divmod(place, self.num_banks)
        return self.first_row + row, bank, access

    @property
    def control(self) -> FieldTable:
        """Control word: `op` a :class:`ControlOp`.

        `rate` is for REFRESH; `entry`, `bank`, `row` and `column` are for READ; `entry`, `row`, `v` and `token` for
        APPEND.
        """
        fields = [
            Field(name="op", width=4),
            Field(name="entry", width=index_bits(self.host_queue)),
            Field(name="bank", width=index_bits(self.num_banks)),
            Field(name="row", width=self.row_bits),
            Field(name="column", width=index_bits(self.column_accesses_per_row)),
            Field(name="rate", width=1),
            Field(name="v", width=1),
            Field(name="token", width=index_bits(self.step_tokens)),
        ]
        return FieldTable(*fields)

    @property
    def modes(self) -> FieldTable:
        """Mode registers MR0 to MR6, as the host's MRS commands have set them: A0 to A17, or as many as a row has."""
        width = min(18, self.row_bits)
        return FieldTable(*(Field(name=f"mr{k}", width=width) for k in range(NUM_MODE_REGISTERS)))

    @property
    def tokens_bits(self) -> int:
        return 24

    @property
    def descriptor(self) -> FieldTable:
        """Descriptor: attention of the queries of one kv_head.

        `k_row`, `v_row`: first rows of K and V, which are contiguous. `tokens`: 1 or more. `last_query`: queries less
        one. `query`, `output`: numbers of the first query vector and output, multiples of the rank's `queries_at_once`.
        `scale`: FP32 ``log2(e) * softmax_scale``. `normalise`: deliver 16-bit results instead of ``o_partial``.
        `static_order`: no overlap of banks and bus (for comparison).
        """
        row = self.row_bits
        return FieldTable(
            Field(name="k_row", width=row),
            Field(name="v_row", width=row),
            Field(name="tokens", width=self.tokens_bits),
            Field(name="last_query", width=4),
            Field(name="query", width=index_bits(self.queries)),
            Field(name="output", width=index_bits(self.queries)),
            Field(name="scale", width=32),
            Field(name="normalise", width=1),
            Field(name="static_order", width=1),
        )

    @property
    def status(self) -> FieldTable:
        """Status line; counts wrap.

        `owner`: 1 PIM. `busy`: descriptors not finished. `done`: descriptors finished. `queued`: host accesses and
        requests for the append buffer that wait. `refused`, `refusal`: count, and the code of the last one. `chip`:
        status bits of the chips. `refresh_2x`: the refresh rate that REFRESH has set.
        """
        return FieldTable(
            Field(name="owner", width=1),
            Field(name="busy", width=8),
            Field(name="done", width=16),
            Field(name="queued", width=8),
            Field(name="refused", width=16),
            Field(name="refusal", width=REFUSAL_BITS),
            Field(name="chip", width=8),
            Field(name="refresh_2x", width=1),
        )
