"""Parameters of a whole PIM rank: the buffer chip with its sequencer, and the PIM chips behind it.

A *line* is a burst on the data bus: `access_bytes` of each chip. A *token line* u holds the tokens
``chips * u .. chips * u + chips - 1`` of one kv_head, one in each chip. A *row step* is one row in every bank of every
chip: `row_lines` token lines, of K or of V. An *item* is one segment of one kv_head. Its queries are handled side by
side, `queries_per_line` of them in a line, `lines_per_group` lines for all.

The file is long because every derived number of a rank stands in one class, beside the fields it follows from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from ..attention.shape import AttentionOrder, AttentionShape
from ..dram.commands import COMMAND_BITS
from ..dram.organization import DramOrganization
from ..dram.timing import DramTiming
from ..errors import is_power_of_two, require
from ..fields import Field, FieldTable, index_bits
from ..formats import FP16, FP32, FloatFormat
from ..hostif.bus import NUM_MODE_REGISTERS
from ..hostif.window import Window
from .bank_pu import BankPuParams
from .command_engine import REFRESH_RATES, CommandEngineParams
from .dpa import DpaParams, DpaSizes
from .pim_chip import PimChipParams
from .rank_pu import MergeParams, RelayoutParams, SoftmaxParams

__all__ = ["PimRankParams"]


@dataclass(frozen=True, kw_only=True)
class PimRankParams:
    """Parameters of one PIM rank.

    Parameters
    ----------
    dram : str
        Name of a DRAM part.
    ck_per_clock : int
        CK in a controller clock. If it is nBL, a line takes one clock.
    chips, bank_groups, banks_per_group, columns : int or None
        Fewer than the part has, for small builds.
    format : FloatFormat
    head_dim : int
        Dims of a head, a power of two; every bank takes ``head_dim / banks`` dims of V, at least one column access.
    queries_at_once : int
        Queries of a kv_head handled at once (N_cmr), a power of two.
    segment_tokens : int
        Longest segment, a power of two of whole row steps.
    queries : int
        Queries that the query buffer and the output buffer hold, a power of two.
    line_queue, host_queue, descriptor_queue : int
        Depths: probability lines, host accesses, descriptors; powers of two.
    append_groups, append_queue : int
        Groups of tokens that the append buffer holds (K or V of one kv_head, a token for each chip); its accesses that
        can wait besides those of the host.
    data_mask : bool
        Whether the chips have DM, which x4 parts do not: else appends read lines before they write them.
    relaxed_faw : bool
        True to waive tFAW; not JEDEC-legal.
    bus_tccd : {"long", "short"}
        Whether PIM_WR_SB and PIM_RD_RB keep tCCD_L, as they use the data path of the bank_groups; ``"short"`` is an
        older assumption, for comparisons.
    max_streaming_banks : int
        Most banks of a chip that may stream at once; 0: no limit.
    max_current_ma : float
        Most supply current of a chip, as a number of banks by :func:`pimspec.dram.current.banks_within`; 0: no limit.
    refresh_rate : int
        1, or 2 for twice the refresh rate, as above 85 degC: of the register, after reset.
    dpa_sizes : DpaSizes, optional
        Sizes of the DPA controller; omit to build a rank without one.

    Raises
    ------
    ParameterError
    """

    SEGMENTS_AHEAD: ClassVar[int] = 4
    """Most segments whose micro-ops may wait."""

    QUERY_PAUSE: ClassVar[int] = 8
    """Clocks between lines of queries that are not urgent."""

    SCORES_PER_SUM: ClassVar[int] = 4
    """Most scores that are read before a waiting sum."""

    REDUCE_ADD_DEPTH: ClassVar[int] = 1
    """Register stages of an addition of the reducer."""

    dram: str = "ddr4-3200-x8-8gb"
    ck_per_clock: int = 4
    chips: int | None = None
    bank_groups: int | None = None
    banks_per_group: int | None = None
    columns: int | None = None
    format: FloatFormat = FP16
    head_dim: int = 128
    queries_at_once: int = 1
    segment_tokens: int = 8192
    queries: int = 64
    line_queue: int = 32
    host_queue: int = 16
    descriptor_queue: int = 16
    append_groups: int = 16
    append_queue: int = 16
    data_mask: bool = True
    relaxed_faw: bool = False
    bus_tccd: str = "long"
    max_streaming_banks: int = 0
    max_current_ma: float = 0
    refresh_rate: int = 1
    dpa_sizes: DpaSizes | None = None

    def __post_init__(self) -> None:
        for what in ("queries_at_once", "segment_tokens", "queries", "line_queue", "host_queue", "descriptor_queue"):
            require(is_power_of_two(getattr(self, what)), what, getattr(self, what), "a power of two")
        require(self.refresh_rate in REFRESH_RATES, "refresh_rate", self.refresh_rate, "1 or 2")
        org = self.organization
        least = org.banks_per_chip * org.column_access_bytes // 2
        require(self.head_dim >= least, "head_dim", self.head_dim, f"at least {least}: a column access in each bank")
        most = org.column_accesses_per_row * self.lanes
        require(self.head_dim <= most, "head_dim", self.head_dim, f"at most {most}: a vector of K in a row of a chip")
        step = self.row_lines * self.num_chips
        require(self.segment_tokens >= step, "segment_tokens", self.segment_tokens, f"at least a row step, {step}")
        require(self.segment_rows <= 256, "segment_tokens", self.segment_tokens, f"at most {256 * step}")
        require(
            self.queries >= 2 * self.queries_at_once, "queries", self.queries, f"at least {2 * self.queries_at_once}"
        )
        require(
            self.line_queue >= 2 * self.queries_per_line,
            "line_queue",
            self.line_queue,
            f"at least {2 * self.queries_per_line}",
        )
        x4 = self.organization.device_width_bits == 4
        require(not (x4 and self.data_mask), "data_mask", True, "False for x4 parts")
        for what in ("append_groups", "append_queue"):
            require(1 <= getattr(self, what) <= 64, what, getattr(self, what), "1..64")
        _ = self.bank_pu, self.softmax, self.merge, self.relayout, self.dpa

    def __getstate__(self) -> dict[str, Any]:
        """Fields to pickle; derived numbers are computed again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def engine(self) -> CommandEngineParams:
        tag_bits = max(self.mac_tag.width, self.host_tag.width)
        return replace(self._plain_engine, tag_bits=tag_bits, bus_tag_bits=self.bus_tag.width)

    @cached_property
    def _plain_engine(self) -> CommandEngineParams:
        """Command engine without its tags, whose widths follow from the DRAM."""
        return CommandEngineParams(
            preset=self.dram,
            ck_per_clock=self.ck_per_clock,
            bank_groups=self.bank_groups,
            banks_per_group=self.banks_per_group,
            columns=self.columns,
            chips=self.chips,
            relaxed_faw=self.relaxed_faw,
            bus_tccd=self.bus_tccd,
            max_streaming_banks=self.max_streaming_banks,
            max_current_ma=self.max_current_ma,
        )

    @cached_property
    def organization(self) -> DramOrganization:
        return self._plain_engine.organization

    @cached_property
    def timing(self) -> DramTiming:
        return self._plain_engine.timing

    @property
    def num_chips(self) -> int:
        return self.organization.chips_per_rank

    @property
    def num_banks(self) -> int:
        """Banks of a chip."""
        return self.organization.banks_per_chip

    @property
    def access_bytes(self) -> int:
        return self.organization.column_access_bytes

    @property
    def line_bytes(self) -> int:
        return self.access_bytes * self.num_chips

    @property
    def lanes(self) -> int:
        """Elements of a column access of a chip."""
        return self.access_bytes // 2

    @property
    def queries_per_line(self) -> int:
        """Queries whose results a line carries."""
        return min(self.queries_at_once, self.access_bytes // 4)

    @property
    def lines_per_group(self) -> int:
        """Lines for the results of all queries."""
        return self.queries_at_once // self.queries_per_line

    @property
    def accesses_per_k(self) -> int:
        return self.head_dim // self.lanes

    @property
    def dims_per_bank(self) -> int:
        return self.head_dim // self.num_banks

    @property
    def accesses_per_v(self) -> int:
        return self.dims_per_bank // self.lanes

    @property
    def tokens_per_turn(self) -> int:
        """Tokens of a chip in one K row."""
        return self.organization.column_accesses_per_row // self.accesses_per_k

    @property
    def row_lines(self) -> int:
        """Token lines of a row step."""
        return self.tokens_per_turn * self.num_banks

    @property
    def segment_lines(self) -> int:
        """Token lines of the longest segment."""
        return self.segment_tokens // self.num_chips

    @property
    def segment_rows(self) -> int:
        """Row steps of the longest segment."""
        return self.segment_lines // self.row_lines

    @property
    def row_words(self) -> int:
        """Operand words that hold the probabilities of a V row."""
        return self.row_lines // self.lanes

    @property
    def operand_words(self) -> int:
        """Words of the operand buffer: half for two query sets, half for probabilities of two V rows or more."""
        return 4 * max(self.accesses_per_k, self.row_words)

    @property
    def prob_slots(self) -> int:
        """V rows whose probabilities the operand buffers hold."""
        return self.operand_words // 2 // self.row_words

    @cached_property
    def bank_pu(self) -> BankPuParams:
        interval = self._plain_engine.mac_interval_clocks
        return BankPuParams(
            format=self.format,
            lanes=self.lanes,
            queries_at_once=self.queries_at_once,
            head_dim=self.head_dim,
            dims_per_bank=self.dims_per_bank,
            operand_words=self.operand_words,
            result_words=max(4, 2 * self.tokens_per_turn),
            max_columns=self.organization.column_accesses_per_row,
            add_depth=min(2, interval),
            interval=interval,
        )

    @cached_property
    def chip(self) -> PimChipParams:
        return PimChipParams.of_engine(self._plain_engine, self.bank_pu)

    @property
    def score_wait_clocks(self) -> int:
        """Clocks from an access that ends a score, as the sequencer knows it, until a read of it may be chosen.

        The path from there to the chip (a register, the reader, the engine's output) takes three clocks.
        """
        return max(1, self.chip.score_ready_clocks - 3)

    @property
    def row_wait_clocks(self) -> int:
        """Clocks, counted likewise, from a V row's last access until sums may be read and probabilities replaced."""
        return max(1, max(self.chip.sum_ready_clocks, self.chip.operand_free_clocks) - 3)

    @property
    def quiet_clocks(self) -> int:
        """Clocks from the host's last direct command until the command engine may begin: tRFC, a read."""
        return -(-self.timing.nRFC // self.ck_per_clock) + self.chip.read_clocks

    @property
    def reduce_clocks(self) -> int:
        """Clocks from the sums of the chips to their sum."""
        return (self.num_chips - 1).bit_length() * self.REDUCE_ADD_DEPTH

    @cached_property
    def softmax(self) -> SoftmaxParams:
        return SoftmaxParams(
            format=self.format,
            lanes=self.num_chips,
            queries_per_line=self.queries_per_line,
            lines_per_group=self.lines_per_group,
            max_lines=self.segment_lines,
            word_lines=self.lanes,
        )

    @cached_property
    def merge(self) -> MergeParams:
        return MergeParams(format=self.format, lanes=4, head_dim=self.head_dim)

    @cached_property
    def relayout(self) -> RelayoutParams:
        return RelayoutParams(chips=self.num_chips, dq_beats=self.organization.burst_length)

    @cached_property
    def window(self) -> Window:
        """Layout of the window through which a host reaches the rank."""
        org = self.organization
        return Window(
            line_bytes=self.line_bytes,
            num_banks=self.num_banks,
            rows_per_bank=org.rows,
            column_accesses_per_row=org.column_accesses_per_row,
            head_dim=self.head_dim,
            queries=self.queries,
            host_queue=self.host_queue,
            step_tokens=self.row_lines * self.num_chips,
            num_slots=None if self.dpa_sizes is None else self.dpa_sizes.num_slots,
        )

    @cached_property
    def dpa(self) -> DpaParams | None:
        """Parameters of the DPA controller; None for a rank without one."""
        if self.dpa_sizes is None:
            return None
        return DpaParams(
            **vars(self.dpa_sizes),
            page_bytes=self.organization.page_bytes,
            num_chips=self.num_chips,
            num_banks=self.num_banks,
            row_lines=self.row_lines,
            row_bits=self.organization.row_bits,
            usable_rows=self.window.first_row,
            segment_tokens=self.segment_tokens,
            queries=self.queries,
            queries_at_once=self.queries_at_once,
            host_queue=self.host_queue,
            sequencer_op=self.micro_op,
        )

    def with_dpa(self, **sizes: Any) -> PimRankParams:
        """The same rank with a DPA controller; sizes that are not given stay, or are the defaults."""
        return replace(self, dpa_sizes=replace(self.dpa_sizes or DpaSizes(), **sizes))

    def require_dpa(self) -> DpaParams:
        """`dpa`; raises ParameterError for a rank without a DPA controller."""
        require(self.dpa is not None, "rank", "one without", "one with a DPA controller")
        assert self.dpa is not None
        return self.dpa

    def attention_order(self) -> AttentionOrder:
        """Order of operations of the rank: token-per-chip."""
        return AttentionOrder(
            format=self.format,
            lanes=self.lanes,
            vector_chips=1,
            token_chips=self.num_chips,
            token_banks=1,
            segment_tokens=self.segment_tokens,
            prob_lanes=self.num_chips,
        )

    def for_shape(self, shape: AttentionShape) -> PimRankParams:
        """The same rank with bank PUs for `shape`: its head_dim, and lanes for all queries of a kv_head."""
        queries = 1 << (shape.gqa_group_size - 1).bit_length()
        return replace(self, head_dim=shape.head_dim, queries_at_once=queries, format=shape.format)

    def require_shape(self, shape: AttentionShape) -> None:
        """Raise ParameterError unless the rank can compute `shape`."""
        require(shape.head_dim == self.head_dim, "head_dim", shape.head_dim, f"{self.head_dim}, that of the rank")
        require(
            shape.gqa_group_size <= self.queries_at_once,
            "gqa_group_size",
            shape.gqa_group_size,
            f"at most {self.queries_at_once}",
        )
        require(shape.format == self.format, "format", shape.format.name, self.format.name)

    # Fields that travel through the command engine and back.

    @property
    def row_step_bits(self) -> int:
        return index_bits(self.segment_rows)

    @property
    def mac_tag(self) -> FieldTable:
        """Tag of a MAC task: fields for the bank PU, and those that the sequencer needs when it issues."""
        return FieldTable(
            Field(name="mode", width=1),
            Field(name="first", width=1),
            Field(name="set", width=1),
            Field(name="start", width=index_bits(self.operand_words)),
            Field(name="segment_end", width=1),
            Field(name="slot", width=index_bits(self.prob_slots)),
            Field(name="step", width=self.row_step_bits),
        )

    @property
    def host_tag(self) -> FieldTable:
        """Tag of a host RD or WR: its index in the queue."""
        return FieldTable(Field(name="entry", width=index_bits(self.access_places)))

    @property
    def access_places(self) -> int:
        """Accesses that the access queue holds: those of the host, and those of the append buffer."""
        return self.host_queue + self.append_queue

    @property
    def append_request(self) -> FieldTable:
        """APPEND, or a READ that waits for appends; fields as in :attr:`pimspec.hostif.window.Window.control`."""
        names = ("entry", "bank", "row", "column", "v", "token")
        return FieldTable(Field(name="read", width=1), *(f for f in self.window.control.fields if f.name in names))

    @property
    def host_command(self) -> FieldTable:
        """A DDR4 command of the host: `bank` flat, `column` the number of a column access.

        MRS: `bank` is the number of the mode register, `row` its value.
        """
        org = self.organization
        return FieldTable(
            Field(name="code", width=COMMAND_BITS),
            Field(name="bank", width=max(index_bits(self.num_banks), index_bits(NUM_MODE_REGISTERS))),
            Field(name="row", width=org.row_bits),
            Field(name="column", width=org.column_access_bits),
        )

    @property
    def bus_tag(self) -> FieldTable:
        """Tag of a bus command: the chips' fields."""
        return FieldTable(*(f for f in self.chip.bus.fields if f.name != "read"))

    @property
    def item(self) -> FieldTable:
        """Item: one segment of one kv_head on its way through the stages."""
        return FieldTable(
            Field(name="lines", width=self.segment_lines.bit_length()),
            Field(name="last_keep", width=self.num_chips),
            Field(name="last_group_line", width=index_bits(self.lines_per_group)),
            Field(name="last_query", width=index_bits(self.queries_at_once)),
            Field(name="query", width=index_bits(self.queries)),
            Field(name="output", width=index_bits(self.queries)),
            Field(name="scale", width=FP32.width),
            Field(name="first", width=1),
            Field(name="final", width=1),
            Field(name="normalise", width=1),
            Field(name="static_order", width=1),
        )

    @property
    def micro_op(self) -> FieldTable:
        """Micro-op of the sequencer: see :class:`pimspec.isa.MicroOp`, without the slot."""
        return FieldTable(
            Field(name="kind", width=4),
            Field(name="buffer_entry", width=index_bits(self.queries)),
            Field(name="last_query", width=index_bits(self.queries_at_once)),
            Field(name="row", width=self.organization.row_bits),
            Field(name="lines", width=self.segment_lines.bit_length()),
            Field(name="last_keep", width=self.num_chips),
            Field(name="scale", width=FP32.width),
            Field(name="first", width=1),
            Field(name="final", width=1),
            Field(name="normalise", width=1),
            Field(name="static_order", width=1),
        )
