"""Parts of the softmax unit: running results that share one arithmetic unit, and the table of statistics."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.formats import FP32
from pimspec.params.rank_pu import SoftmaxParams

from ..arith.bits import named
from ..pipeline import PipelinedCore, layout_of, pushed

__all__ = ["Accumulator", "StatisticsTable", "delay", "pick"]


def delay(m: Module, name: str, value: Value, length: int, advance: Value | int = 1) -> list[Value]:
    """`value` at pipeline positions 0 to `length`."""
    at: list[Value] = [value]
    for k in range(1, length + 1):
        register = Signal(value.shape(), name=f"{name}{k}", reset_less=True)
        with m.If(advance):
            m.d.sync += register.eq(at[-1])
        at.append(register)
    return at


def pick(entries: list[Value], index: Value) -> Value:
    """``entries[index]``; every value of `index` has a case, as Verilator's lint asks for."""
    return Array(entries + [entries[-1]] * ((1 << len(index)) - len(entries)))[index]


class Accumulator(wiring.Component):
    """Running results of several queries: ``results[index] = core(operand, results[index])``, in any order of `index`.

    An operand may follow each clock, also of the same result. What the core has just delivered is taken from its
    output: by the next operand directly, by the one after it on the way into the register of the other operand.

    Timing model: ``struct Softmax`` of ``rank_pu.h``.

    Parameters
    ----------
    cores : list of PipelinedCore
        One a stream, of depth 1, with inputs a, b and output y.
    num_entries : int
        Results a stream.
    neutral : int
        Other operand of the first operation of a result.

    Members
    -------
    valid, index, fresh : In
        There is an operand for result `index`; with `fresh` its first. One clock ahead of the operand.
    operand : In(queries_per_line x 32)
    y : Out(queries_per_line x 32)
        The new result, two clocks after `valid`.
    entries : Out(num_entries x queries_per_line x 32)
        All results, with the new one three clocks after `valid`.
    """

    def __init__(self, *, cores: list[PipelinedCore], num_entries: int, neutral: int) -> None:
        self._cores, self._num_entries, self._neutral = cores, num_entries, neutral
        queries_per_line = data.ArrayLayout(FP32.width, len(cores))
        super().__init__(
            {
                "valid": In(1),
                "index": In(range(max(2, num_entries))),
                "fresh": In(1),
                "operand": In(queries_per_line),
                "y": Out(queries_per_line),
                "entries": Out(data.ArrayLayout(queries_per_line.size, num_entries)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, y = FP32.width * len(self._cores), self.y.as_value()
        entries = [Signal(width, name=f"entry{k}", reset_less=True) for k in range(self._num_entries)]
        valid1, valid2 = Signal(), Signal()
        _, index1, index2 = delay(m, "index", self.index, 2)
        chained, held = Signal(reset_less=True), Signal(width, reset_less=True)
        stored = named(m, "stored", pick(entries, self.index), width)
        m.d.sync += [
            valid1.eq(self.valid),
            valid2.eq(valid1),
            chained.eq(~self.fresh & valid1 & (self.index == index1)),
            held.eq(Mux(valid2 & (self.index == index2), y, stored)),
        ]
        with m.If(self.fresh):
            m.d.sync += held.eq(Const(self._neutral, FP32.width).replicate(len(self._cores)))
        for k, entry in enumerate(entries):
            m.d.comb += self.entries[k].eq(entry)
            with m.If(valid2 & (index2 == k)):
                m.d.sync += entry.eq(y)
        other = named(m, "other", Mux(chained, y, held))
        for s, core in enumerate(self._cores):
            m.submodules[f"core{s}"] = core
            m.d.comb += [
                core.en.eq(valid1),
                core.i.a.eq(self.operand[s]),
                core.i.b.eq(other[s * FP32.width : (s + 1) * FP32.width]),
                self.y[s].eq(core.o.y),
            ]
        return m


class StatisticsTable(wiring.Component):
    """Table of statistics for `stats`: maxima enter ahead of sums; an item's entries are released with its last sum.

    Timing model: ``struct Softmax`` of ``rank_pu.h``.

    Members
    -------
    reserve, room : In(1), Out(1)
        Reserve an entry, where there is room; it is free again when it was taken from `o`.
    maximum : In(pushed): m (queries_per_line x 32), group_line, last
    total : In(pushed): l (queries_per_line x 32), last
        Sums, in the same order.
    o : Out(stream)
        ``params.stats``.
    """

    def __init__(self, *, params: SoftmaxParams) -> None:
        self.params = params
        queries_per_line = data.ArrayLayout(FP32.width, params.queries_per_line)
        self._maximum = data.StructLayout({"m": queries_per_line, "group_line": params.group_line_bits, "last": 1})
        self._total = data.StructLayout({"l": queries_per_line, "last": 1})
        super().__init__(
            {
                "reserve": In(1),
                "room": Out(1),
                "maximum": In(pushed(self._maximum)),
                "total": In(pushed(self._total)),
                "o": Out(stream.Signature(layout_of(params.stats))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth, queries_per_line = self.params.stats_entries, data.ArrayLayout(FP32.width, self.params.queries_per_line)
        m.submodules.maxima = maxima = memory.Memory(shape=self._maximum, depth=depth, init=[])
        m.submodules.totals = totals = memory.Memory(shape=queries_per_line, depth=depth, init=[])
        # One bit more than an address tells all from none.
        oldest, end, released = (Signal(range(2 * depth), name=n) for n in ("oldest", "end", "released"))
        reserved = Signal(range(depth + 1))
        write_m, write_l = maxima.write_port(), totals.write_port()
        read_m, read_l = maxima.read_port(domain="comb"), totals.read_port(domain="comb")
        taken = named(m, "taken", self.o.valid & self.o.ready)
        m.d.comb += [
            write_m.en.eq(self.maximum.valid),
            write_m.data.eq(self.maximum.payload),
            write_l.en.eq(self.total.valid),
            write_l.addr.eq(end[:-1]),
            write_l.data.eq(self.total.payload.l),
            read_m.addr.eq(oldest[:-1]),
            read_l.addr.eq(oldest[:-1]),
            self.o.valid.eq(oldest != released),
            self.o.payload.m.eq(read_m.data.m),
            self.o.payload.l.eq(read_l.data),
            self.o.payload.group_line.eq(read_m.data.group_line),
            self.o.payload.last.eq(read_m.data.last),
            self.room.eq(reserved != depth),
        ]
        m.d.sync += [
            write_m.addr.eq(write_m.addr + self.maximum.valid),
            end.eq(end + self.total.valid),
            oldest.eq(oldest + taken),
            reserved.eq(reserved + self.reserve - taken),
        ]
        with m.If(self.total.valid & self.total.payload.last):
            m.d.sync += released.eq(end + 1)
        return m
