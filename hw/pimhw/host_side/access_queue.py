"""Access queue: host accesses that wait for their bank while PIM owns the DRAM (posted writes and split reads)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.params.command_engine import RowTaskKind
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["AccessQueue", "access_layout", "marks_layout"]


def access_layout(params: PimRankParams) -> data.StructLayout:
    """An access: `entry` is the place of a read line; `own`: of the append buffer, which takes the line if `fill`."""
    org = params.organization
    return data.StructLayout(
        {
            "write": 1,
            "bank": index_bits(params.num_banks),
            "row": org.row_bits,
            "column": index_bits(org.column_accesses_per_row),
            "entry": max(index_bits(params.host_queue), index_bits(params.accesses_per_k)),
            "own": 1,
            "fill": 1,
        }
    )


def marks_layout(params: PimRankParams) -> data.StructLayout:
    """Counts of items that were accepted before an access: see :class:`~.order_gate.OrderGate`."""
    configs = {} if params.dpa is None else {"configs": params.dpa.host_queue.bit_length()}
    return data.StructLayout({"descriptors": params.descriptor_queue.bit_length(), **configs})


class AccessQueue(wiring.Component):
    """Queue that hands accesses to their banks as tasks of one column; those of one bank in order, banks in any.

    Timing model: ``struct AccessQueue`` of ``host_side.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    push : In(1); access : In; data, mask : In
        An access; `mask` and `data` are a line as the chips store it (chip by chip). Not while `full`.
    full, own_full : Out(1); level, own_level : Out
        No room for one of the host, or of the append buffer; accesses that are not done.
    marks : In; oldest_marks : Out
        Counts that an access keeps, and those of the oldest access that is not done, if `level` is not 0.
    tasks : Out(stream.Signature(params.engine.task)).array(num_banks)
    written, read : In(1); place : In
        The engine has issued the WR or RD of a task; `place` is its tag.
    write_data, write_mask : Out; writing : Out(1)
        Line for the chips, ``params.chip.write_clocks`` after the WR.
    reading, filling : Out(1); entry : Out
        The line of a RD is on the data bus: it belongs there, for the host or for the append buffer.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        line = p.line_bytes
        super().__init__(
            {
                "push": In(1),
                "access": In(access_layout(p)),
                "data": In(line * 8),
                "mask": In(line),
                "full": Out(1),
                "own_full": Out(1),
                "level": Out(range(p.access_places + 1)),
                "own_level": Out(range(p.append_queue + 1)),
                "marks": In(marks_layout(p)),
                "oldest_marks": Out(marks_layout(p)),
                "tasks": Out(stream.Signature(layout_of(p.engine.task))).array(p.num_banks),
                "written": In(1),
                "read": In(1),
                "place": In(index_bits(p.access_places)),
                "writing": Out(1),
                "write_data": Out(line * 8),
                "write_mask": Out(line),
                "reading": Out(1),
                "filling": Out(1),
                "entry": Out(access_layout(p)["entry"].width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, depth = self.params, self.params.access_places
        layout = access_layout(p)
        m.submodules.places = accesses = memory.Memory(shape=layout, depth=depth, init=[])
        m.submodules.lines = lines = memory.Memory(shape=p.line_bytes * 9, depth=depth, init=[])
        m.submodules.marks = marks = memory.Memory(shape=marks_layout(p), depth=depth, init=[])
        put_marks, get_marks = marks.write_port(), marks.read_port(domain="comb")
        put, head = accesses.write_port(), accesses.read_port(domain="comb")
        put_line, get_line = lines.write_port(), lines.read_port()
        newest, next_out, oldest = (Signal(range(depth), name=n) for n in ("newest", "next_out", "oldest"))
        waiting = Signal(range(depth + 1))  # not yet handed to a bank
        done = Array(Signal(name=f"done{k}") for k in range(depth))
        m.d.comb += [
            self.full.eq(self.level - self.own_level == p.host_queue),
            self.own_full.eq(self.own_level == p.append_queue),
            put_marks.en.eq(self.push),
            put_marks.addr.eq(newest),
            put_marks.data.eq(self.marks),
            get_marks.addr.eq(oldest),
            self.oldest_marks.eq(get_marks.data),
            put.en.eq(self.push),
            put.addr.eq(newest),
            put.data.eq(self.access),
            put_line.en.eq(self.push),
            put_line.addr.eq(newest),
            put_line.data.eq(Cat(self.data, self.mask)),
            head.addr.eq(next_out),
        ]
        retire, hand_out = Signal(), Signal()
        m.submodules.owns = owns = memory.Memory(shape=1, depth=depth, init=[])
        put_own, get_own = owns.write_port(), owns.read_port(domain="comb")
        m.d.comb += [
            put_own.en.eq(self.push),
            put_own.addr.eq(newest),
            put_own.data.eq(self.access.own),
            get_own.addr.eq(oldest),
        ]
        m.d.sync += self.own_level.eq(self.own_level + (self.push & self.access.own) - (retire & get_own.data))
        m.d.comb += retire.eq((self.level != 0) & done[oldest])
        m.d.sync += [
            self.level.eq(self.level + self.push - retire),
            waiting.eq(waiting + self.push - hand_out),
        ]
        with m.If(retire):
            m.d.sync += [oldest.eq(_after(oldest, depth)), done[oldest].eq(0)]
        with m.If(self.push):
            m.d.sync += newest.eq(_after(newest, depth))
        with m.If(hand_out):
            m.d.sync += next_out.eq(_after(next_out, depth))

        blocked = Signal(p.num_banks)
        m.d.comb += hand_out.eq((waiting != 0) & ~blocked.any())
        for b, task in enumerate(self.tasks):
            held, what = Signal(name=f"held{b}"), Signal(layout, name=f"what{b}", reset_less=True)
            place = Signal(range(depth), name=f"place{b}", reset_less=True)
            here = head.data.bank == b
            m.d.comb += [
                blocked[b].eq(here & held & ~task.ready),
                task.valid.eq(held),
                task.payload.row.eq(what.row),
                task.payload.column.eq(what.column),
                task.payload.count.eq(1),
                task.payload.kind.eq(Mux(what.write, RowTaskKind.WR, RowTaskKind.RD)),
                task.payload.tag.eq(place),
            ]
            with m.If(hand_out & here):
                m.d.sync += [held.eq(1), what.eq(head.data), place.eq(next_out)]
            with m.Elif(task.ready):
                m.d.sync += held.eq(0)

        self._transfers(m, get_line, accesses.read_port(domain="comb"), done)
        return m

    def _transfers(self, m: Module, get_line: memory.ReadPort, by_place: memory.ReadPort, done: Array) -> None:
        """Lines after a WR and a RD, and the end of the access."""
        p = self.params
        # A line leaves the memory in the clock in which the chips need it.
        wait = p.chip.write_clocks - 1
        write = Signal(wait + 1)
        places = [self.place]
        for k in range(wait + 1):
            places.append(Signal.like(self.place, name=f"write_place{k}"))
            m.d.sync += places[-1].eq(places[-2])
        m.d.sync += write.eq(Cat(self.written, write))
        m.d.comb += [
            get_line.en.eq(1),
            get_line.addr.eq(places[wait]),
            self.writing.eq(write[-1]),
            Cat(self.write_data, self.write_mask).eq(get_line.data),
        ]
        with m.If(write[-1]):
            m.d.sync += done[places[-1]].eq(1)

        wait = p.chip.read_clocks
        read = Signal(wait)
        m.d.comb += by_place.addr.eq(self.place)
        entry, place = Cat(by_place.data.entry, by_place.data.fill), self.place
        for k in range(wait):
            next_entry, next_place = Signal(len(entry), name=f"entry{k}"), Signal.like(place, name=f"read_place{k}")
            m.d.sync += [next_entry.eq(entry), next_place.eq(place)]
            entry, place = next_entry, next_place
        m.d.sync += read.eq(Cat(self.read, read))
        m.d.comb += [
            self.entry.eq(entry[:-1]),
            self.reading.eq(read[-1] & ~entry[-1]),
            self.filling.eq(read[-1] & entry[-1]),
        ]
        with m.If(read[-1]):
            m.d.sync += done[place].eq(1)


def _after(index: Signal, depth: int):  # type: ignore[no-untyped-def]
    return Mux(index == depth - 1, 0, index + 1)
