"""Host port: the view of a host's memory controller of a PIM rank."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.fields import index_bits
from pimspec.hostif.window import DPA_STATE, ControlOp, Refusal, Region
from pimspec.params.dpa import DpaParams
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of
from .access_queue import access_layout
from .descriptor_check import DescriptorCheck
from .ownership import Ownership

__all__ = ["HostPort", "host_bus"]


def host_bus(params: PimRankParams) -> dict[str, wiring.Member]:
    """The host's DDR4 bus as members of a chip or rank; :class:`HostPort` describes them."""
    line = params.line_bytes
    return {
        "host_valid": In(1),
        "host": In(layout_of(params.host_command)),
        "host_data": In(line * 8),
        "host_mask": In(line),
        "host_out_valid": Out(1),
        "host_out_data": Out(line * 8),
    }


class HostPort(wiring.Component):
    """Host port: follows the host's rows, and sorts its commands: to the chips, the access queue, or the window.

    The host's memory controller is a plain one: it keeps JEDEC timing as towards any rank, and never has to wait. While
    the host owns the DRAM its commands go through, one clock later (as in a registered DIMM), and so do its data,
    re-laid out in that clock. While PIM owns it no command goes through: writes of data rows are posted into the access
    queue, reads of data rows are refused (the line read is zero; control word READ serves instead), REFab is ignored,
    since the command engine refreshes. The window can always be read and written.

    The DRAM changes hands as :class:`~.ownership.Ownership` says. A data row that the host opened while PIM owned the
    DRAM is not open in the chips, so that after that it counts as closed.

    Timing model: ``struct HostPort`` of ``host_side.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    valid, command : In
        A host command.
    dq_data, dq_mask : In
        The host's line, ``params.chip.write_clocks`` after its WR; DM bit 1: keep the byte.
    out_valid, out_data : Out
        The line of a RD, ``params.chip.read_clocks + 2`` after it.
    direct_valid, direct : Out
        A command for the chips; its data `direct_data`, `direct_mask` come when the chips need them.
    chip_data : In
        The line on the chips' data bus, in the host's order.
    push, access : Out; queue_full : In
        A posted write or split read; the line is `dq_data` of this clock.
    read_valid, read_entry : In
        `chip_data` is a line for the region `reads`, from the access queue.
    descriptor : Out(stream)
        A descriptor of the host, once it has been checked; refused if not taken at once.
    query_en, query_line : Out
        A line for the query buffer; its data are `dq_data`.
    output_line, output_data, statistics_output, statistics : Out, In
        The memories of outputs; each answers in the next clock.
    busy, done, queued, chip_status : In
        For the status: see :attr:`pimspec.hostif.window.Window.status`.
    clear : Out(1)
        The control word CLEAR: clear the status of the chips.
    enable : Out(1); engine_idle : In(1)
        Signals of the command engine.
    work : In(1)
        Descriptors or host accesses are not finished.
    config : Out(stream)
        With a DPA controller: a configuration operation; refused if not taken at once.
    slot : Out; slot_status, dpa_state : In
        With a DPA controller: the status of that slot, in the next clock, and :attr:`pimspec.hostif.window.DPA_STATE`.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params, self.dpa = params, params.dpa
        p = params
        self.window = w = p.window
        line = p.line_bytes
        descriptor = layout_of(w.descriptor)
        controller = {}
        if params.dpa is not None:
            controller = {
                "config": Out(stream.Signature(layout_of(params.dpa.config))),
                "slot": Out(params.dpa.slot_bits),
                "slot_status": In(layout_of(params.dpa.status)),
                "dpa_state": In(layout_of(DPA_STATE)),
            }
        super().__init__(
            {
                **controller,
                "valid": In(1),
                "command": In(layout_of(p.host_command)),
                "dq_data": In(line * 8),
                "dq_mask": In(line),
                "out_valid": Out(1),
                "out_data": Out(line * 8),
                "direct_valid": Out(1),
                "direct": Out(layout_of(p.host_command)),
                "direct_data": Out(line * 8),
                "direct_mask": Out(line),
                "chip_data": In(line * 8),
                "push": Out(1),
                "access": Out(access_layout(p)),
                "queue_full": In(1),
                "read_valid": In(1),
                "read_entry": In(index_bits(p.host_queue)),
                "descriptor": Out(stream.Signature(descriptor)),
                "query_en": Out(1),
                "query_line": Out(range(p.queries * w.query_lines)),
                "output_line": Out(range(p.queries * w.output_lines)),
                "output_data": In(line * 8),
                "statistics_output": Out(range(p.queries)),
                "statistics": In(64),
                "busy": In(8),
                "done": In(16),
                "queued": In(8),
                "chip_status": In(8),
                "clear": Out(1),
                "enable": Out(1),
                "engine_idle": In(1),
                "work": In(1),
            }
        )
        self._ownership = Ownership(params=p)
        self._check = DescriptorCheck(params=p)
        self._owner = self._ownership.owner
        self._refuse, self._refusal = Signal(), Signal(4)
        self._refused, self._last_refusal = Signal(16), Signal(4)
        self._data_open_any = Signal()  # the host has a data row open

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.ownership = ownership = self._ownership
        m.submodules.check = self._check
        owner = self._owner
        # Stage 1: the command, with the row that the host has open in its bank.
        c1 = Signal(layout_of(p.host_command), reset_less=True)
        v1, bank_open1, owner1 = Signal(), Signal(), Signal()
        rows = Array(Signal(p.organization.row_bits, name=f"row{b}", reset_less=True) for b in range(p.num_banks))
        opened, data_open = Signal(p.num_banks), Signal(p.num_banks)
        code, bank = self.command.code, self.command.bank
        in_window = self._in_window(self.command.row)
        forward = Signal()
        m.d.sync += [v1.eq(self.valid), c1.eq(self.command), bank_open1.eq((opened >> bank)[0]), owner1.eq(owner)]
        with m.If(self.valid), m.Switch(code):
            with m.Case(Command.ACT):
                m.d.sync += rows[bank].eq(self.command.row)
                m.d.sync += opened.bit_select(bank, 1).eq(1)
                m.d.sync += data_open.bit_select(bank, 1).eq(~in_window & ~owner)
                m.d.comb += forward.eq(~in_window)
            with m.Case(Command.RD, Command.WR):
                m.d.sync += c1.row.eq(rows[bank])
                m.d.comb += forward.eq((data_open >> bank)[0])
            with m.Case(Command.PREpb):
                m.d.sync += [opened.bit_select(bank, 1).eq(0), data_open.bit_select(bank, 1).eq(0)]
                m.d.comb += forward.eq(1)
            with m.Case(Command.PREab):
                m.d.sync += [opened.eq(0), data_open.eq(0)]
                m.d.comb += forward.eq(1)
            with m.Case(Command.REFab):
                m.d.comb += forward.eq(1)
        m.d.sync += self.direct_valid.eq(self.valid & forward & ~owner)
        m.d.comb += self.direct.eq(c1)

        is_read, is_write = v1 & (c1.code == Command.RD), v1 & (c1.code == Command.WR)
        window1 = self._in_window(c1.row)
        open1 = bank_open1 & (window1 | self.direct_valid | owner1)
        self._writes(m, is_write, c1, window1, open1)
        self._reads(m, is_read, c1, window1, open1)
        acts = self.valid & (code == Command.ACT) & forward
        m.d.comb += self._data_open_any.eq(data_open.any() | acts)
        m.d.comb += [
            ownership.direct_valid.eq(self.direct_valid),
            ownership.work.eq(self.work),
            ownership.engine_idle.eq(self.engine_idle),
            self.enable.eq(ownership.enable),
        ]
        with m.If(self._refuse):
            m.d.sync += [self._refused.eq(self._refused + 1), self._last_refusal.eq(self._refusal)]
        with m.If(self.clear):
            m.d.sync += [self._refused.eq(0), self._last_refusal.eq(Refusal.NONE)]
        return m

    def _in_window(self, row: Value) -> Value:
        bits = (self.window.rows - 1).bit_length()
        return row[bits:].all()

    def _line_number(self, command: data.View) -> Value:
        p = self.params
        parts = (
            (command.column, p.organization.column_accesses_per_row),
            (command.bank, p.num_banks),
            (command.row, self.window.rows),
        )
        return Cat(value[: (count - 1).bit_length()] for value, count in parts if count > 1)

    def _region(self, line: Value, region: Region) -> tuple[Value, Value]:
        """Flag that a line is in the region, and its number there."""
        bits = (region.size - 1).bit_length()
        return (line >> bits) == (region.base >> bits), line[: max(1, bits)]

    def _writes(self, m: Module, is_write: Value, c1: data.View, window1: Value, open1: Value) -> None:
        p, w = self.params, self.window
        layout = data.StructLayout(
            {"valid": 1, "window": 1, "direct": 1, "closed": 1, "command": layout_of(p.host_command)}
        )
        entry = Signal(layout)
        m.d.comb += [
            entry.valid.eq(is_write),
            entry.window.eq(window1),
            entry.direct.eq(self.direct_valid),
            entry.closed.eq(~open1),
            entry.command.eq(c1),
        ]
        at, valid = entry, Signal(p.chip.write_clocks - 1)  # the data come write_clocks after the command
        m.d.sync += valid.eq(Cat(is_write, valid))
        for k in range(p.chip.write_clocks - 1):
            register = Signal(layout, name=f"write{k}", reset_less=True)
            m.d.sync += register.eq(at)
            at = register
        now = Signal()
        m.d.comb += [
            now.eq(valid[-1]),
            self._ownership.writing.eq((self.valid & (self.command.code == Command.WR)) | is_write | valid.any()),
        ]
        m.d.sync += [self.direct_data.eq(self.dq_data), self.direct_mask.eq(self.dq_mask)]
        line = self._line_number(at.command)
        is_control, control_line = self._region(line, w.regions["control"])
        is_query, query_line = self._region(line, w.regions["queries"])
        m.d.comb += [
            self.query_line.eq(query_line),
            self.access.write.eq(1),
            self.access.bank.eq(at.command.bank),
            self.access.row.eq(at.command.row),
            self.access.column.eq(at.command.column),
            self.descriptor.payload.eq(self.dq_data),
            self._check.line.eq(self.dq_data),
            self._check.room.eq(self.descriptor.ready),
        ]
        with m.If(now & at.closed):
            self._refuse_for(m, Refusal.ROW_CLOSED)
        with m.Elif(now & at.window):
            with m.If(self.dq_mask.any()):
                self._refuse_for(m, Refusal.MASKED)
            with m.Elif(is_query):
                m.d.comb += self.query_en.eq(1)
            with m.Elif(is_control & (control_line == 0)):
                self._control_word(m)
            with m.Elif(is_control & (control_line == 1)):
                with m.If(self._check.refusal != Refusal.NONE):
                    self._refuse_for(m, self._check.refusal)
                with m.Else():
                    m.d.comb += self.descriptor.valid.eq(1)
            if self.dpa is not None:
                with m.Elif(is_control & (control_line == 2)):
                    self._config(m, self.dpa)
            with m.Else():
                self._refuse_for(m, Refusal.OUTSIDE)
        with m.Elif(now & ~at.direct):
            with m.If(self.queue_full):
                self._refuse_for(m, Refusal.QUEUE_FULL)
            with m.Else():
                m.d.comb += self.push.eq(1)

    def _config(self, m: Module, dpa: DpaParams) -> None:
        """A configuration operation on the data bus."""
        m.d.comb += self.config.payload.eq(self.dq_data)
        with m.If(self.dq_data[dpa.config.width :].any()):
            self._refuse_for(m, Refusal.RESERVED)
        with m.Elif(~self.config.ready):
            self._refuse_for(m, Refusal.QUEUE_FULL)
        with m.Else():
            m.d.comb += self.config.valid.eq(1)

    def _refuse_for(self, m: Module, why: Refusal | Value) -> None:
        m.d.comb += [self._refuse.eq(1), self._refusal.eq(why)]

    def _control_word(self, m: Module) -> None:
        """Operation of the control word on the data bus."""
        table = self.window.control
        word = Signal(layout_of(table))
        m.d.comb += word.eq(self.dq_data)
        with m.If(self.dq_data[table.width :].any()):
            self._refuse_for(m, Refusal.RESERVED)
        with m.Elif((word.op == ControlOp.TAKE) & ~self._owner & ~self._data_open_any):
            m.d.comb += self._ownership.take.eq(1)
        with m.Elif((word.op == ControlOp.RELEASE) & self._owner):
            m.d.comb += self._ownership.release.eq(1)
        with m.Elif(word.op == ControlOp.CLEAR):
            m.d.comb += self.clear.eq(1)
        with m.Elif((word.op == ControlOp.READ) & self._owner):
            m.d.comb += [
                self.access.write.eq(0),
                self.access.bank.eq(word.bank),
                self.access.row.eq(word.row),
                self.access.column.eq(word.column),
                self.access.entry.eq(word.entry),
            ]
            with m.If(self.queue_full):
                self._refuse_for(m, Refusal.QUEUE_FULL)
            with m.Elif(self._in_window(word.row)):
                self._refuse_for(m, Refusal.OUTSIDE)
            with m.Else():
                m.d.comb += self.push.eq(1)
        with m.Else():
            self._refuse_for(m, Refusal.BAD_OP)

    def _reads(self, m: Module, is_read: Value, c1: data.View, window1: Value, open1: Value) -> None:
        p, w = self.params, self.window
        layout = data.StructLayout({"window": 1, "direct": 1, "closed": 1, "line": w.line_bits})
        entry = Signal(layout)
        m.d.comb += [
            entry.window.eq(window1),
            entry.direct.eq(self.direct_valid),
            entry.closed.eq(~open1),
            entry.line.eq(self._line_number(c1)),
        ]
        stages = [entry, *(Signal(layout, name=f"read{k}", reset_less=True) for k in range(p.chip.read_clocks))]
        valid = Signal(p.chip.read_clocks)
        m.d.sync += [valid.eq(Cat(is_read, valid)), *(after.eq(before) for before, after in pairwise(stages))]
        before, at = stages[-2:]
        # `before` is one clock ahead: memories read with it have their data when `at` and the chips' line are there.
        regions = w.regions
        _, output_line = self._region(before.line, regions["outputs"])
        _, statistics_line = self._region(before.line, regions["statistics"])
        is_output, _ = self._region(at.line, regions["outputs"])
        is_statistics, _ = self._region(at.line, regions["statistics"])
        is_read_line, read_line = self._region(at.line, regions["reads"])
        is_control, control_line = self._region(at.line, regions["control"])
        store = Array(Signal(p.line_bytes * 8, name=f"read_line{k}", reset_less=True) for k in range(p.host_queue))
        with m.If(self.read_valid):
            m.d.sync += store[self.read_entry].eq(self.chip_data)
        status = self._status(m)
        m.d.comb += [self.output_line.eq(output_line), self.statistics_output.eq(statistics_line)]
        if self.dpa is not None:
            is_slot, _ = self._region(at.line, regions["slots"])
            _, slot = self._region(before.line, regions["slots"])
            m.d.comb += self.slot.eq(slot)
        refused, why, line = Signal(), Signal(4), Signal(p.line_bytes * 8)
        with m.If(at.closed):
            m.d.comb += [refused.eq(1), why.eq(Refusal.ROW_CLOSED)]
        with m.Elif(at.window):
            with m.If(is_output):
                m.d.comb += line.eq(self.output_data)
            with m.Elif(is_statistics):
                m.d.comb += line.eq(self.statistics)
            with m.Elif(is_read_line):
                m.d.comb += line.eq(store[read_line])
            with m.Elif(is_control & (control_line == 0)):
                m.d.comb += line.eq(status)
            if self.dpa is not None:
                with m.Elif(is_control & (control_line == 2)):
                    m.d.comb += line.eq(self.dpa_state.as_value())
                with m.Elif(is_slot):
                    m.d.comb += line.eq(self.slot_status.as_value())
            with m.Else():
                m.d.comb += [refused.eq(1), why.eq(Refusal.OUTSIDE)]
        with m.Elif(at.direct):
            m.d.comb += line.eq(self.chip_data)
        with m.Else():
            m.d.comb += [refused.eq(1), why.eq(Refusal.DATA_READ)]
        m.d.sync += [self.out_valid.eq(valid[-1]), self.out_data.eq(line)]
        with m.If(valid[-1] & refused):
            m.d.comb += [self._refuse.eq(1), self._refusal.eq(why)]

    def _status(self, m: Module) -> Value:
        """The status line."""
        status = Signal(layout_of(self.window.status))
        m.d.comb += [
            status.owner.eq(self._owner),
            status.busy.eq(self.busy),
            status.done.eq(self.done),
            status.queued.eq(self.queued),
            status.refused.eq(self._refused),
            status.refusal.eq(self._last_refusal),
            status.chip.eq(self.chip_status),
        ]
        return status.as_value()
