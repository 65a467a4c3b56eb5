"""Host port: the view of a host's memory controller of a PIM rank."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.hostif.window import DPA_STATE, REFUSAL_BITS, ControlOp, Refusal, Region
from pimspec.params.dpa import DpaParams
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of, pushed, slots_follow
from .access_queue import access_layout
from .append_buffer import append_port
from .descriptor_check import DescriptorCheck
from .host_commands import HostCommands, in_window
from .ownership import Ownership

__all__ = ["HostPort", "host_bus"]


def host_bus(params: PimRankParams) -> dict[str, wiring.Member]:
    """The host's DDR4 bus as members of a chip or rank; :class:`HostPort` describes them."""
    line = params.line_bytes
    return {
        "host": In(pushed(layout_of(params.host_command))).array(params.ck_per_clock),
        "host_data": In(line * 8),
        "host_mask": In(line),
        "host_out_valid": Out(1),
        "host_out_data": Out(line * 8),
    }


class HostPort(wiring.Component):
    """Host port: takes the host's commands and lines, and sorts them: to the chips, the access queue, or the window.

    The host's memory controller is a plain one: it keeps JEDEC timing as towards any rank, and never has to wait. While
    the host owns the DRAM its commands go through, one clock later (as in a registered DIMM), and so do its data,
    re-laid out in that clock. While PIM owns it no command goes through: writes of data rows are posted into the access
    queue, reads of data rows are refused (the line read is zero; control word READ serves instead), and the command
    engine refreshes. The window can always be read and written. :class:`~.host_commands.HostCommands` has the rest.

    The DRAM changes hands as :class:`~.ownership.Ownership` says.

    Timing model: ``struct HostPort`` of ``host_side.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    slots : In(array): valid, payload (params.host_command)
        The host's command of each CK of a clock; `valid` is chip select, which is low on the pin.
    dq_data, dq_mask : In
        The host's line, ``params.chip.write_clocks`` after its WR; DM bit 1: keep the byte.
    out_valid, out_data : Out
        The line of a RD, ``params.chip.read_clocks + 2`` after it.
    direct : Out(array): valid, payload (params.host_command)
        Commands for the chips, by CK; the data `direct_data`, `direct_mask` come when the chips need them.
    chip_data : In
        The line on the chips' data bus, in the host's order.
    push, access : Out; queue_full : In
        A posted write or split read; the line is `dq_data` of this clock.
    append : Out(append_port(params))
        For the append buffer, whose line is `dq_data`: see :class:`~.append_buffer.AppendBuffer`. READ goes there, too,
        unless the buffer is clean.
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
    refresh_2x, refresh_request : Out(1)
        The refresh rate that the host has set; the host has sent a REFab while PIM owned the DRAM.
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
                "slots": In(pushed(layout_of(p.host_command))).array(p.ck_per_clock),
                "dq_data": In(line * 8),
                "dq_mask": In(line),
                "out_valid": Out(1),
                "out_data": Out(line * 8),
                "direct": Out(pushed(layout_of(p.host_command))).array(p.ck_per_clock),
                "direct_data": Out(line * 8),
                "direct_mask": Out(line),
                "chip_data": In(line * 8),
                "push": Out(1),
                "access": Out(access_layout(p)),
                "queue_full": In(1),
                "append": Out(append_port(p)),
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
                "refresh_2x": Out(1, init=int(p.refresh_rate == 2)),
                "refresh_request": Out(1),
                "work": In(1),
            }
        )
        self._commands = HostCommands(params=p)
        self._ownership = Ownership(params=p)
        self._check = DescriptorCheck(params=p)
        self._owner = self._ownership.owner
        # why a line written, and a line read, is refused in this clock
        self._write_refusal, self._read_refusal = Signal(REFUSAL_BITS), Signal(REFUSAL_BITS)
        self._refused, self._last_refusal = Signal(16), Signal(REFUSAL_BITS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.commands = commands = self._commands
        m.submodules.ownership = ownership = self._ownership
        m.submodules.check = self._check
        m.d.comb += slots_follow(commands.slots, self.slots) + slots_follow(self.direct, commands.direct)
        column = commands.column
        window = in_window(self.params, column.row)
        is_open = column.is_open & (window | column.direct | column.owned)
        self._writes(m, column, window, is_open)
        self._reads(m, column, window, is_open)
        m.d.comb += [
            commands.owner.eq(self._owner),
            ownership.direct_valid.eq(Cat(slot.valid for slot in self.direct).any()),
            ownership.work.eq(self.work),
            self.append.leaving.eq(ownership.leaving),
            ownership.engine_idle.eq(self.engine_idle),
            self.enable.eq(ownership.enable),
            self.refresh_request.eq(commands.refreshed),
        ]
        self._count_refusals(m)
        return m

    def _count_refusals(self, m: Module) -> None:
        """Count of refusals since CLEAR, and the last reason: that of the latest command, then of a read."""
        commands, write, read = self._commands, self._write_refusal, self._read_refusal
        before, last = Signal.like(self._refused), Signal.like(self._last_refusal)
        m.d.comb += [before.eq(Mux(self.clear, 0, self._refused)), last.eq(Mux(self.clear, 0, self._last_refusal))]
        for why in (write, read, commands.refusal):
            with m.If(why != Refusal.NONE):
                m.d.comb += last.eq(why)
        refused = commands.refused + (write != Refusal.NONE) + (read != Refusal.NONE)
        m.d.sync += [self._refused.eq(before + refused), self._last_refusal.eq(last)]

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

    def _writes(self, m: Module, column: data.View, window: Value, is_open: Value) -> None:
        p, w = self.params, self.window
        place = data.StructLayout({name: column[name].shape() for name in ("bank", "row", "column")})
        layout = data.StructLayout({"window": 1, "direct": 1, "closed": 1, "place": place})
        entry = Signal(layout)
        m.d.comb += [
            entry.window.eq(window),
            entry.direct.eq(column.direct),
            entry.closed.eq(~is_open),
            *(entry.place[name].eq(column[name]) for name in ("bank", "row", "column")),
        ]
        at, valid = entry, Signal(p.chip.write_clocks - 1)  # the data come write_clocks after the command
        m.d.sync += valid.eq(Cat(column.write, valid))
        for k in range(p.chip.write_clocks - 1):
            register = Signal(layout, name=f"write{k}", reset_less=True)
            m.d.sync += register.eq(at)
            at = register
        now = Signal()
        m.d.comb += [
            now.eq(valid[-1]),
            self._ownership.writing.eq(self._commands.writing | column.write | valid.any()),
        ]
        m.d.sync += [self.direct_data.eq(self.dq_data), self.direct_mask.eq(self.dq_mask)]
        line = self._line_number(at.place)
        is_control, control_line = self._region(line, w.regions["control"])
        is_query, query_line = self._region(line, w.regions["queries"])
        is_append, append_line = self._region(line, w.regions["append"])
        m.d.comb += [
            self.query_line.eq(query_line),
            self.append.line.eq(append_line),
            self.append.row.eq(at.place.row),
            self.access.write.eq(1),
            self.access.bank.eq(at.place.bank),
            self.access.row.eq(at.place.row),
            self.access.column.eq(at.place.column),
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
            with m.Elif(is_append):
                m.d.comb += self.append.line_en.eq(1)
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
            with m.Elif(self.append.clash):
                self._refuse_for(m, Refusal.BAD_APPEND)
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
        m.d.comb += self._write_refusal.eq(why)

    def _control_word(self, m: Module) -> None:
        """Operation of the control word on the data bus."""
        table = self.window.control
        word = Signal(layout_of(table))
        m.d.comb += word.eq(self.dq_data)
        request, fields = self.append.request, self.params.append_request.fields
        m.d.comb += [request[f.name].eq(word[f.name]) for f in fields if f.name != "read"]
        m.d.comb += request.read.eq(word.op == ControlOp.READ)
        with m.If(self.dq_data[table.width :].any()):
            self._refuse_for(m, Refusal.RESERVED)
        with m.Elif((word.op == ControlOp.TAKE) & ~self._owner & ~self._commands.in_use):
            m.d.comb += self._ownership.take.eq(1)
        with m.Elif((word.op == ControlOp.RELEASE) & self._owner):
            m.d.comb += self._ownership.release.eq(1)
        with m.Elif(word.op == ControlOp.CLEAR):
            m.d.comb += self.clear.eq(1)
        with m.Elif(word.op == ControlOp.REFRESH):
            m.d.sync += self.refresh_2x.eq(word.rate)
        with m.Elif((word.op == ControlOp.READ) & self._owner):
            m.d.comb += self.access.write.eq(0)
            m.d.comb += [self.access[name].eq(word[name]) for name in ("bank", "row", "column", "entry")]
            with m.If(Mux(self.append.clean, self.queue_full, self.append.full)):
                self._refuse_for(m, Refusal.QUEUE_FULL)
            with m.Elif(in_window(self.params, word.row)):
                self._refuse_for(m, Refusal.OUTSIDE)
            with m.Else():
                m.d.comb += [self.push.eq(self.append.clean), self.append.valid.eq(~self.append.clean)]
        with m.Elif((word.op == ControlOp.APPEND) & self._owner):
            with m.If(self.append.full):
                self._refuse_for(m, Refusal.QUEUE_FULL)
            with m.Elif(in_window(self.params, word.row)):
                self._refuse_for(m, Refusal.BAD_APPEND)
            with m.Else():
                m.d.comb += self.append.valid.eq(1)
        with m.Else():
            self._refuse_for(m, Refusal.BAD_OP)

    def _reads(self, m: Module, column: data.View, window: Value, is_open: Value) -> None:
        p = self.params
        layout = data.StructLayout({"window": 1, "direct": 1, "closed": 1, "line": self.window.line_bits})
        entry = Signal(layout)
        m.d.comb += [
            entry.window.eq(window),
            entry.direct.eq(column.direct),
            entry.closed.eq(~is_open),
            entry.line.eq(self._line_number(column)),
        ]
        stages = [entry, *(Signal(layout, name=f"read{k}", reset_less=True) for k in range(p.chip.read_clocks))]
        valid = Signal(p.chip.read_clocks)
        m.d.sync += [valid.eq(Cat(column.read, valid)), *(after.eq(before) for before, after in pairwise(stages))]
        before, at = stages[-2:]
        # `before` is one clock ahead: memories read with it have their data when `at` and the chips' line are there.
        why, line = Signal(REFUSAL_BITS), Signal(p.line_bytes * 8)
        known, window_line = self._window_line(m, before.line, at.line)
        with m.If(at.closed):
            m.d.comb += why.eq(Refusal.ROW_CLOSED)
        with m.Elif(at.window):
            m.d.comb += [line.eq(window_line), why.eq(Mux(known, Refusal.NONE, Refusal.OUTSIDE))]
        with m.Elif(at.direct):
            m.d.comb += line.eq(self.chip_data)
        with m.Else():
            m.d.comb += why.eq(Refusal.DATA_READ)
        m.d.sync += [self.out_valid.eq(valid[-1]), self.out_data.eq(line)]
        m.d.comb += self._read_refusal.eq(Mux(valid[-1], why, Refusal.NONE))

    def _window_line(self, m: Module, before: Value, at: Value) -> tuple[Value, Value]:
        """Flag that line `at` of the window can be read, and its contents; `before`: the same a clock earlier."""
        p, regions = self.params, self.window.regions
        m.submodules.read_lines = read_lines = memory.Memory(shape=p.line_bytes * 8, depth=p.host_queue, init=[])
        put = read_lines.write_port()
        stored = read_lines.read_port(transparent_for=[put])
        m.d.comb += [
            put.en.eq(self.read_valid),
            put.addr.eq(self.read_entry),
            put.data.eq(self.chip_data),
            stored.addr.eq(self._region(before, regions["reads"])[1]),
            self.output_line.eq(self._region(before, regions["outputs"])[1]),
            self.statistics_output.eq(self._region(before, regions["statistics"])[1]),
        ]
        is_control, control_line = self._region(at, regions["control"])
        sources = [
            (self._region(at, regions["outputs"])[0], self.output_data),
            (self._region(at, regions["statistics"])[0], self.statistics),
            (self._region(at, regions["reads"])[0], stored.data),
            (is_control & (control_line == 0), self._status(m)),
            (is_control & (control_line == 3), self._commands.modes.as_value()),
        ]
        if self.dpa is not None:
            m.d.comb += self.slot.eq(self._region(before, regions["slots"])[1])
            sources += [
                (is_control & (control_line == 2), self.dpa_state.as_value()),
                (self._region(at, regions["slots"])[0], self.slot_status.as_value()),
            ]
        line = Signal(p.line_bytes * 8)
        for n, (here, contents) in enumerate(sources):
            with m.Elif(here) if n else m.If(here):
                m.d.comb += line.eq(contents)
        return Cat(here for here, _ in sources).any(), line

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
            status.refresh_2x.eq(self.refresh_2x),
        ]
        return status.as_value()
