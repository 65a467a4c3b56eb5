"""PIM DRAM chip: rows and column accesses of its banks, a bank PU at each, and the data path over DQ."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.formats import FP32
from pimspec.params.pim_chip import PimChipParams

from .arith.bits import named
from .bank_pu import BankPu
from .hierarchy import hierarchical_verilog, instance_of
from .pipeline import layout_of, pushed

__all__ = ["CellPort", "PimChip", "chip_verilog"]

BANK_PU = "bank_pu"  # its Verilog module


def _delayed(m: Module, name: str, value: Value, clocks: int, *, reset_less: bool = True) -> Value:
    """`value` of `clocks` clocks ago."""
    for k in range(clocks):
        register = Signal(value.shape(), name=f"{name}_{k + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


class CellPort(wiring.Signature):
    """A bank's cell array, seen by the chip: a synchronous memory with one port.

    Parameters
    ----------
    params : PimChipParams

    Members
    -------
    en, write : Out(1)
        An access, and whether it writes.
    row, column : Out
        The open row, and the number of a column access.
    data, mask : Out
        Data to write; a byte whose mask bit is 1 stays as it is.
    read_data : In
        Data read, in the clock after `en`.
    """

    def __init__(self, params: PimChipParams) -> None:
        super().__init__(
            {
                "en": Out(1),
                "write": Out(1),
                "row": Out(params.row_bits),
                "column": Out(params.column_bits),
                "data": Out(8 * params.access_bytes),
                "mask": Out(params.access_bytes),
                "read_data": In(8 * params.access_bytes),
            }
        )


class PimChip(wiring.Component):
    """A DRAM chip with a bank PU at each bank, in controller clocks.

    A command is given in one clock: `command` in its first CK, `late` in the others, at most one of them a RD, WR, RDA,
    WRA or PIM_MAC, and no two to a bank. So is a PIM_WR_SB or PIM_RD_RB on `bus`. That they are legal is for others to
    see to. ACT latches a row, PREpb and PREab close it. RD and WR access one column, RDA and WRA too, and close the
    row. PIM_MAC accesses `count` columns from `column` on, one every ``params.mac_interval_clocks``, and hands them to
    the bank PU as the burst (`mode`, `first`, `set`, `start`, `resume`) of the command (:class:`~.bank_pu.BankPu`).
    PIM_WR_SB writes the line on dq_in into word `address`, query `row`, of the operand buffers of all banks; an element
    both of whose bytes are masked does not exist. PIM_RD_RB reads from bank `bank` queries ``index * queries_per_line``
    and up, ``params.queries_per_line`` of them, of the oldest score (which `pop` then removes) or, with `sum`, of set
    `set` of the sums of dim `address`. Other commands do nothing.

    All outputs are registers or logic behind registers. A command in clock t reaches the cells in clock
    ``t + params.first_access_clocks`` (WR: ``t + params.write_access_clocks``); a line comes on dq_in in
    ``t + params.write_clocks`` and goes out on dq_out in ``t + params.read_clocks``. When results and operands may be
    read and written is told by the properties `score_ready_clocks`, `sum_ready_clocks`, `sum_free_clocks`,
    `operand_ready_clocks` and `operand_free_clocks` of the parameters.

    What went wrong is kept in `status`: `overflow`, `stray` and `early` of any bank PU, and

    * `early`: RD, RDA or PIM_MAC came to a bank whose burst was not done, or a write and another access met at a bank;
    * `no_score`: PIM_RD_RB found no score;
    * `closed`: an access, or a WR or WRA command, came to a bank without an open row.

    Each bank PU is an instance of one Verilog module (:func:`chip_verilog`).

    Parameters
    ----------
    params : PimChipParams

    Members
    -------
    command : In: valid, payload (code, bank_group, bank, row, column, count, mode, first, set, start, resume)
    late : In(array): valid, payload (code, bank_group, bank, row, column)
    bus : In: valid, payload (read, sum, set, pop, bank, index, address, row)
    dq_in : In: data, mask
    dq_out : Out: valid, data
    cells : Out(CellPort) for each bank
    status : Out: overflow, stray, early, no_score, closed
    status_clear : In(1)
        Clears `status`; what happens in the same clock is still noted.
    """

    def __init__(self, *, params: PimChipParams) -> None:
        self.params = params
        line = 8 * params.access_bytes
        super().__init__(
            {
                "command": In(pushed(layout_of(params.command))),
                **({"late": In(pushed(layout_of(params.late))).array(params.slots - 1)} if params.slots > 1 else {}),
                "bus": In(pushed(layout_of(params.bus))),
                "dq_in": In(wiring.Signature({"data": Out(line), "mask": Out(params.access_bytes)})),
                "dq_out": Out(wiring.Signature({"valid": Out(1), "data": Out(line)})),
                "cells": Out(CellPort(params)).array(params.num_banks),
                "status": Out(layout_of(params.status)),
                "status_clear": In(1),
            }
        )
        p = params
        self._mac, self._read, self._write_command, self._closing = (
            Signal(name=name) for name in ("is_mac", "is_read", "is_write", "is_closing")
        )
        self._flat_bank, self._column = Signal(p.bank_bits), Signal(p.column_bits)  # of the column command
        self._burst = Signal(layout_of(p.bank_pu.commands), reset_less=True)
        self._write = Signal()
        self._write_bank = Signal(p.bank_bits, reset_less=True)
        self._write_column = Signal(p.column_bits, reset_less=True)
        self._line, self._mask = Signal(8 * p.access_bytes, reset_less=True), Signal(p.access_bytes, reset_less=True)
        self._no_score = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        banks = [BankPu(params=p.bank_pu) for _ in range(p.num_banks)]
        for b, bank in enumerate(banks):
            m.submodules[f"bank{b}"] = instance_of(bank, BANK_PU)
        self._decode(m)
        self._write_lines(m, banks)
        early, closed = zip(*(self._bank(m, b, bank) for b, bank in enumerate(banks)), strict=True)
        self._read_lines(m, banks)
        self._watch(m, banks, early, closed)
        return m

    @property
    def _slots(self) -> list[wiring.PureInterface]:
        return [self.command, *(self.late if self.params.slots > 1 else [])]

    def _flat(self, command: data.View) -> Value:
        """Number of the bank that a command names."""
        p = self.params
        flat = [field for field, n in ((command.bank, p.banks_per_group), (command.bank_group, p.bank_groups)) if n > 1]
        return Cat(*flat)

    def _decode(self, m: Module) -> None:
        """The column command of this clock, and, a clock later, its fields for a bank PU."""
        p, command = self.params, self.command.payload
        reads, writes, closing = [], [], []
        m.d.comb += [self._flat_bank.eq(self._flat(command)), self._column.eq(command.column)]
        for k, slot in enumerate(self._slots):
            code = slot.payload.code
            read = slot.valid & ((code == Command.RD) | (code == Command.RDA))
            write = slot.valid & ((code == Command.WR) | (code == Command.WRA))
            reads.append(read)
            writes.append(write)
            closing.append(slot.valid & ((code == Command.RDA) | (code == Command.WRA)))
            if k:
                with m.If(read | write):
                    m.d.comb += [self._flat_bank.eq(self._flat(slot.payload)), self._column.eq(slot.payload.column)]
        m.d.comb += [
            self._mac.eq(self.command.valid & (command.code == Command.PIM_MAC)),
            self._read.eq(Cat(reads).any()),
            self._write_command.eq(Cat(writes).any()),
            self._closing.eq(Cat(closing).any()),
        ]
        with m.If(self._mac):
            m.d.sync += [self._burst[f.name].eq(command[f.name]) for f in p.bank_pu.commands.fields]

    def _row(self, m: Module, b: int, is_open: Signal, row: Signal) -> None:
        """Row commands of a bank."""
        closes = Signal(name=f"closes{b}")  # an RDA or WRA came in the clock before
        m.d.sync += closes.eq(self._closing & (self._flat_bank == b if self.params.num_banks > 1 else 1))
        with m.If(closes):
            m.d.sync += is_open.eq(0)
        for slot in self._slots:
            code = slot.payload.code
            here = slot.valid & (self._flat(slot.payload) == b if self.params.num_banks > 1 else 1)
            with m.If(here & (code == Command.ACT)):
                m.d.sync += [is_open.eq(1), row.eq(slot.payload.row)]
            with m.If((here & (code == Command.PREpb)) | (slot.valid & (code == Command.PREab))):
                m.d.sync += is_open.eq(0)

    def _write_lines(self, m: Module, banks: Sequence[BankPu]) -> None:
        """Lines from dq_in, and their destinations."""
        p, bus = self.params, self.bus.payload
        delay = p.write_clocks
        cells = _delayed(m, "write_cells", self._write_command, delay, reset_less=False)
        operand = _delayed(m, "write_operand", self.bus.valid & ~bus.read, delay, reset_less=False)
        where = _delayed(m, "write_where", Cat(self._flat_bank, self._column), delay)
        word = _delayed(m, "write_word", Cat(bus.address[: p.bank_pu.address_width], bus.row), delay)
        write_operand, address = Signal(), Signal(len(word), reset_less=True)
        m.d.sync += [self._write.eq(cells), write_operand.eq(operand)]
        with m.If(cells | operand):
            m.d.sync += [
                Cat(self._write_bank, self._write_column).eq(where),
                address.eq(word),
                self._line.eq(self.dq_in.data),
                self._mask.eq(self.dq_in.mask),
            ]
        keep = named(m, "keep", Cat(~self._mask[2 * j : 2 * j + 2].all() for j in range(p.bank_pu.lanes)))
        for bank in banks:
            m.d.comb += [
                bank.operand.valid.eq(write_operand),
                bank.operand.payload.data.as_value().eq(self._line),
                bank.operand.payload.keep.eq(keep),
                Cat(bank.operand.payload.address, bank.operand.payload.row).eq(address),
            ]

    def _bank(self, m: Module, b: int, bank: BankPu) -> tuple[Value, Value]:
        """The open row, the column accesses, the hand-over to the bank PU; what is early, what finds no open row."""
        p, command, cells = self.params, self.command.payload, self.cells[b]
        interval = p.mac_interval_clocks
        is_open, row = Signal(name=f"open{b}"), Signal(p.row_bits, name=f"row{b}", reset_less=True)
        left = Signal(len(command.count), name=f"left{b}")
        column = Signal(p.column_bits, name=f"column{b}", reset_less=True)
        reading = Signal(name=f"reading{b}")  # the access is that of a RD
        handed, arrived = Signal(name=f"handed{b}"), Signal(name=f"arrived{b}")
        here = named(m, f"here{b}", self._flat_bank == b) if p.num_banks > 1 else 1
        starts = named(m, f"starts{b}", here & (self._read | self._mac))
        access = Signal(name=f"access{b}")
        writing = named(m, f"writing{b}", self._write & (self._write_bank == b))

        self._row(m, b, is_open, row)
        m.d.comb += access.eq(left != 0)
        if interval > 1:
            wait = Signal(range(interval), name=f"wait{b}")  # clocks until the next access
            m.d.comb += access.eq((left != 0) & (wait == 0))
            with m.If(starts):
                m.d.sync += wait.eq(0)
            with m.Elif(access):
                m.d.sync += wait.eq(interval - 1)
            with m.Elif(wait != 0):
                m.d.sync += wait.eq(wait - 1)
        with m.If(starts):
            m.d.sync += [
                left.eq(Mux(self._read, 1, command.count)),
                column.eq(self._column),
                reading.eq(self._read),
            ]
        with m.Elif(access):
            m.d.sync += [left.eq(left - 1), column.eq(column + 1)]
        m.d.sync += [handed.eq(here & self._mac), arrived.eq(access & ~reading)]
        m.d.comb += [
            cells.en.eq(access | writing),
            cells.write.eq(writing),
            cells.row.eq(row),
            cells.column.eq(Mux(writing, self._write_column, column)),
            cells.data.eq(self._line),
            cells.mask.eq(self._mask),
            bank.command.valid.eq(handed),
            bank.command.payload.eq(self._burst),
            bank.column.valid.eq(arrived),
            bank.column.payload.eq(cells.read_data),
            bank.status_clear.eq(self.status_clear),
        ]
        busy = (left != 0) & ~(access & (left == 1))
        return Cat(starts & busy, access & writing), (access | (here & self._write_command)) & ~is_open

    def _read_lines(self, m: Module, banks: Sequence[BankPu]) -> None:
        """Lines to dq_out: a column, or a part of a score or sum."""
        p, bus = self.params, self.bus.payload
        width = p.queries_per_line * FP32.width
        asked = Signal()  # one clock after PIM_RD_RB
        what = Signal(layout_of(p.bus), reset_less=True)
        m.d.sync += asked.eq(self.bus.valid & bus.read)
        with m.If(self.bus.valid & bus.read):
            m.d.sync += what.eq(bus)
        lines = []
        for b, bank in enumerate(banks):
            chosen = named(m, f"chosen{b}", asked & (what.bank == b))
            m.d.comb += [
                bank.sum_select.eq(what.address),
                bank.sum_set.eq(what.set),
                bank.o.ready.eq(chosen & what.pop & ~what.sum),
            ]
            both = Mux(what.sum, bank.sum.as_value(), bank.o.payload.as_value())
            padded = named(m, f"result{b}", both, p.read_parts * width)
            parts = [padded.word_select(k, width) for k in range(p.read_parts)]
            lines.append(named(m, f"part{b}", Array(parts)[what.index], width) if p.read_parts > 1 else padded)
        result = Signal(width, reset_less=True)
        with m.If(asked):
            m.d.sync += result.eq(Array(lines)[what.bank])
        m.d.comb += self._no_score.eq(asked & ~what.sum & ~Array(bank.o.valid for bank in banks)[what.bank])

        column_due = _delayed(m, "column_due", self._read, 2, reset_less=False)
        column_bank = _delayed(m, "column_bank", self._flat_bank, 2)
        result_due = _delayed(m, "result_due", asked, 1, reset_less=False)
        column = named(m, "read_column", Array([cells.read_data for cells in self.cells])[column_bank])
        line = Signal(8 * p.access_bytes, reset_less=True)
        due = Signal()
        m.d.sync += due.eq(column_due | result_due)
        with m.If(column_due):
            m.d.sync += line.eq(column)
        with m.Elif(result_due):
            m.d.sync += line.eq(result)
        m.d.comb += [
            self.dq_out.valid.eq(_delayed(m, "due", due, p.read_clocks - 3, reset_less=False)),
            self.dq_out.data.eq(_delayed(m, "line", line, p.read_clocks - 3)),
        ]

    def _watch(self, m: Module, banks: Sequence[BankPu], early: Sequence[Value], closed: Sequence[Value]) -> None:
        """Status bits; those of the bank PUs are kept there. `early`, `closed`: of each bank, in this clock."""
        own = Signal(3)  # early, no_score, closed
        noted = Cat(Cat(*early).any(), self._no_score, Cat(*closed).any())
        m.d.sync += own.eq(noted | Mux(self.status_clear, 0, own))
        m.d.comb += [
            self.status.overflow.eq(Cat(bank.status.overflow for bank in banks).any()),
            self.status.stray.eq(Cat(bank.status.stray for bank in banks).any()),
            self.status.early.eq(Cat(own[0], *(bank.status.early for bank in banks)).any()),
            self.status.no_score.eq(own[1]),
            self.status.closed.eq(own[2]),
        ]


def chip_verilog(params: PimChipParams, name: str = "pim_chip") -> str:
    """Verilog text of a chip with top module `name`, the bank PU once in it as module ``bank_pu``."""
    return hierarchical_verilog(PimChip(params=params), name, {BANK_PU: BankPu(params=params.bank_pu)})
