"""Register cuts in a datapath, and the stream wrapper that turns such a datapath into a unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import Field, FieldTable
from pimspec.params.arith import UnitParams

__all__ = ["Cuts", "PipelinedCore", "StreamComponent", "StreamUnit", "layout_of", "pushed", "slots_follow"]


def layout_of(table: FieldTable) -> data.StructLayout:
    """The Amaranth layout of a field table, bit for bit what :meth:`FieldTable.pack` produces."""

    def shape(field: Field) -> int | data.ArrayLayout:
        return field.width if field.count is None else data.ArrayLayout(field.width, field.count)

    return data.StructLayout({f.name: shape(f) for f in table.fields})


def pushed(layout: data.Layout) -> wiring.Signature:
    """`valid` and `payload` of a stream that is never refused. (A constant `ready` cannot be the port of a top.)"""
    return wiring.Signature({"valid": Out(1), "payload": Out(layout)})


def slots_follow(targets: Iterable[wiring.PureInterface], sources: Iterable[wiring.PureInterface]) -> list[Any]:
    """Assignments that make command slots, ports of :func:`pushed`, follow others."""
    pairs = list(zip(targets, sources, strict=True))
    return [a.valid.eq(b.valid) for a, b in pairs] + [a.payload.eq(b.payload) for a, b in pairs]


class Cuts:
    """Register cuts: registers at some of the named cut points of a datapath.

    Call it at every candidate cut with all signals that live across it; it hands them back registered if the cut is
    selected and unchanged if not. Datapath registers have no reset. Register stage k loads when ``enable[k]`` is set.

    Parameters
    ----------
    m : Module
    enable : Signal(num_stages)
    selected : tuple of str
        Names of the cuts that hold registers, in datapath order.
    """

    def __init__(self, m: Module, enable: Value, selected: tuple[str, ...]) -> None:
        self._m, self._enable, self._selected, self._next = m, enable, selected, 0

    def __call__(self, name: str, **signals: Value) -> tuple[Value, ...]:
        if name not in self._selected:
            return tuple(signals.values())
        if self._selected[self._next] != name:
            raise ValueError(f"cut {name!r} out of order: the next one selected is {self._selected[self._next]!r}")
        registers = []
        with self._m.If(self._enable[self._next]):
            for signal_name, value in signals.items():
                raw = Value.cast(value)
                register = Signal(raw.shape(), name=f"{name}_{signal_name}", reset_less=True)
                self._m.d.sync += register.eq(raw)
                registers.append(register)
        self._next += 1
        return tuple(registers)

    def done(self) -> None:
        """Check that every selected cut was met."""
        if self._next != len(self._selected):
            raise ValueError(f"cuts never met: {self._selected[self._next :]}")


class PipelinedCore(wiring.Component):
    """A datapath with register cuts and no flow control, the part that larger units build on.

    Subclasses set `CUTS` (depth -> names of the cuts that hold registers; the last is the output register) and
    implement :meth:`datapath`.

    Parameters
    ----------
    params : UnitParams
        With a `depth`.

    Members
    -------
    en : In(depth)
        Bit k loads register stage k.
    i, o : In(inputs), Out(outputs)
        Fields as in ``params.inputs`` and ``params.outputs``.
    """

    def __init__(self, *, params: UnitParams) -> None:
        self.params = params
        super().__init__(
            {
                "en": In(params.depth),
                "i": In(layout_of(params.inputs)),
                "o": Out(layout_of(params.outputs)),
            }
        )

    def cuts_for(self, params: UnitParams) -> tuple[str, ...]:
        raise NotImplementedError

    def datapath(self, m: Module, cut: Cuts) -> None:
        raise NotImplementedError

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cut = Cuts(m, self.en, self.cuts_for(self.params))
        self.datapath(m, cut)
        cut.done()
        return m


class StreamComponent(wiring.Component):
    """Base of every component with one input and one output stream, laid out as its parameters say.

    Parameters
    ----------
    params : UnitParams

    Members
    -------
    i : In(stream.Signature(inputs))
    o : Out(stream.Signature(outputs))
    """

    def __init__(self, *, params: UnitParams) -> None:
        self.params = params
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(params.inputs))),
                "o": Out(stream.Signature(layout_of(params.outputs))),
            }
        )


class StreamUnit(StreamComponent):
    """A :class:`PipelinedCore` between two streams.

    The pipeline is rigid: it advances as a whole unless its last stage holds a result that is not taken. One operand
    set per cycle is accepted as long as results are taken; a stage without a valid operand keeps its registers still.

    Parameters
    ----------
    params : PipelinedParams

    Members
    -------
    i : In(stream.Signature(inputs))
    o : Out(stream.Signature(outputs))
    """

    CORE: type[PipelinedCore]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = self.CORE(params=self.params)
        valid = Signal(self.params.depth)
        advance = Signal()
        arriving = Cat(self.i.valid, valid)[: self.params.depth]
        m.d.comb += [
            advance.eq(self.o.ready | ~self.o.valid),
            self.i.ready.eq(advance),
            core.en.eq(arriving & advance.replicate(self.params.depth)),
            core.i.eq(self.i.payload),
            self.o.payload.eq(core.o),
            self.o.valid.eq(valid[-1]),
        ]
        with m.If(advance):
            m.d.sync += valid.eq(arriving)
        return m
