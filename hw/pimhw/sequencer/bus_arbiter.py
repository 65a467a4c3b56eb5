"""Bus arbiter: the order of bus commands, and the data that belong to them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of
from .lines import line_layout
from .result_reader import request_layout, route_layout

__all__ = ["BusArbiter"]


class BusArbiter(wiring.Component):
    """Bus arbiter: reads results and writes lines in runs of one direction, since turning the bus around costs clocks.

    It writes when many lines wait or nothing is to be read, and reads when no line waits; but a run goes on for as many
    commands as the queue has places if there is something to do in its direction.

    Timing model: ``struct BusArbiter`` of ``bus.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    reads : In(stream.Signature(request_layout(params)))
    lines : In(stream.Signature(line_layout(params)))
    enable : In(1)
        Without it no command is given.
    bus : Out(stream.Signature(params.engine.bus))
    writing, write_data, write_absent : Out
        Line for the chips, ``params.chip.write_clocks`` after each PIM_WR_SB.
    arriving : Out(1); route : Out(route_layout(params))
        A line of results is on the data bus, and its route.
    queries_landed, row_landed : Out(1)
        A line so marked can be used by a PIM_MAC from now on.
    empty : Out(1)
        No line waits.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        super().__init__(
            {
                "reads": In(stream.Signature(request_layout(params))),
                "lines": In(stream.Signature(line_layout(params))),
                "enable": In(1),
                "bus": Out(stream.Signature(layout_of(params.engine.bus))),
                "writing": Out(1),
                "write_data": Out(params.line_bytes * 8),
                "write_absent": Out(params.num_chips * params.lanes),
                "arriving": Out(1),
                "route": Out(route_layout(params)),
                "queries_landed": Out(1),
                "row_landed": Out(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        layout = line_layout(p)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=layout.size, depth=p.line_queue)
        line = Signal(layout)
        m.d.comb += [
            queue.w_data.eq(self.lines.payload),
            queue.w_en.eq(self.lines.valid),
            self.lines.ready.eq(queue.w_rdy),
            line.eq(queue.r_data),
            self.empty.eq(~queue.r_rdy),
        ]
        writing, run = Signal(), Signal(range(p.line_queue + 1))
        wrote, read = Signal(), Signal()
        tag = Signal(data.StructLayout({f.name: f.width for f in p.bus_tag.fields}))
        request = self.reads.payload
        m.d.comb += [
            self.bus.valid.eq(self.enable & Mux(writing, queue.r_rdy, self.reads.valid)),
            self.bus.payload.read.eq(~writing),
            self.bus.payload.bank_group.eq(request.bank >> p.organization.bank_bits),
            self.bus.payload.tag.eq(tag),
            tag.sum.eq(request.route.sum),
            tag.set.eq(request.set),
            tag.bank.eq(request.bank),
            tag.index.eq(request.index),
            tag.pop.eq(request.pop),
            tag.address.eq(Mux(writing, line.address, request.address)),
            tag.row.eq(line.row),
            wrote.eq(self.bus.valid & self.bus.ready & writing),
            read.eq(self.bus.valid & self.bus.ready & ~writing),
            self.reads.ready.eq(read),
            queue.r_en.eq(wrote),
        ]
        run_over = run == p.line_queue
        enough = queue.level >= p.line_queue * 3 // 4
        turn = Signal()
        with m.If(writing):
            m.d.comb += turn.eq(self.reads.valid & (~queue.r_rdy | run_over))
        with m.Else():
            m.d.comb += turn.eq(queue.r_rdy & (~self.reads.valid | (run_over & enough)))
        with m.If(turn):
            m.d.sync += [writing.eq(~writing), run.eq(0)]
        with m.Elif((wrote | read) & ~run_over):
            m.d.sync += run.eq(run + 1)

        # A command accepted now reaches the chips in the next clock.
        data_of_line = Signal(data.StructLayout({"valid": 1, "data": p.line_bytes * 8, "absent": len(line.absent)}))
        m.d.comb += [data_of_line.valid.eq(wrote), data_of_line.data.eq(line.data), data_of_line.absent.eq(line.absent)]
        arriving = self._later(m, "write", data_of_line, p.chip.write_clocks + 1)
        m.d.comb += [
            self.writing.eq(arriving.valid),
            self.write_data.eq(arriving.data),
            self.write_absent.eq(arriving.absent),
        ]
        result = Signal(data.StructLayout({"valid": 1, "route": route_layout(p)}))
        m.d.comb += [result.valid.eq(read), result.route.eq(request.route)]
        result = self._later(m, "read", result, p.chip.read_clocks + 1)
        m.d.comb += [self.arriving.eq(result.valid), self.route.eq(result.route)]
        # A PIM_MAC comes two clocks or more after the step that waits for it.
        ends = Signal(data.StructLayout({"valid": 1, "queries": 1, "row": 1}))
        m.d.comb += [
            ends.valid.eq(wrote),
            ends.queries.eq(wrote & line.queries_end),
            ends.row.eq(wrote & line.row_end),
        ]
        ends = self._later(m, "end", ends, max(1, p.chip.operand_ready_clocks))
        m.d.comb += [self.queries_landed.eq(ends.valid & ends.queries), self.row_landed.eq(ends.valid & ends.row)]
        return m

    def _later(self, m: Module, name: str, value: data.View, clocks: int) -> data.View:
        """`value`, `clocks` clocks later; only its `valid` has a reset."""
        layout = value.shape()
        valid = Signal(clocks, name=f"{name}_valid")
        m.d.sync += valid.eq(Cat(value.valid, valid))
        for k in range(clocks):
            register = Signal(layout, name=f"{name}{k}", reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        out = Signal(layout, name=f"{name}_out")
        m.d.comb += [out.eq(value), out.valid.eq(valid[-1])]
        return out
