"""Opened component: access to inner signals and memories, which invariants need."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Const, Elaboratable, Fragment, MemoryInstance, Module, Shape, ShapeCastable, Signal, Value

__all__ = ["Opened"]


class Opened:
    """An elaborated component with access to its parts; give `fragment` to the parent as a submodule.

    Parameters
    ----------
    component : Elaboratable
    """

    def __init__(self, component: Elaboratable) -> None:
        self.fragment = Fragment.get(component, None)

    def signal(self, *path: str) -> Signal:
        """Signal named by the last of `path`, driven in the submodule that the others name."""
        *parts, name = path
        found = {}
        for statements in self._part(parts).statements.values():
            for statement in statements:
                found.update({id(s): s for s in statement._lhs_signals() if s.name == name})
        if len(found) != 1:
            raise LookupError(f"{len(found)} signals are called {'.'.join(path)}")
        return next(iter(found.values()))

    def state(self, *path: str, fsm: str = "fsm") -> tuple[Signal, dict[str, int]]:
        """State of the FSM in the submodule of that path, and the code of each state."""
        part = self._part(path)
        machine = part.find_generated(fsm)
        return machine._data["signal"], machine.encoding

    def cell(self, m: Module, *path: str, address: Value) -> Value:
        """Present content of the memory at `path`, at `address`."""
        memory = self._memory(path)
        raw, index = Signal(self._shape(memory).width), Signal((memory._data.depth - 1).bit_length())
        m.d.comb += index.eq(address)
        memory.read_port(domain="comb", addr=index, data=raw, en=Const(1), transparent_for=())
        return self._viewed(memory, raw)

    def read(self, *path: str) -> Value:
        """Data that the first port of the memory at `path` has read."""
        memory = self._memory(path)
        return self._viewed(memory, memory._read_ports[0]._data)

    def _part(self, path: Sequence[str]) -> Fragment:
        part = self.fragment
        for name in path:
            part = part.find_subfragment(name)
        return part

    def _memory(self, path: Sequence[str]) -> MemoryInstance:
        part = self._part(path)
        while not isinstance(part, MemoryInstance):
            part = part.subfragments[0][0]
        return part

    @staticmethod
    def _shape(memory: MemoryInstance) -> Shape:
        return Shape.cast(memory._data.shape)

    @staticmethod
    def _viewed(memory: MemoryInstance, raw: Value) -> Value:
        """`raw` in the shape of the memory's layout."""
        shape = memory._data.shape
        return shape(raw) if isinstance(shape, ShapeCastable) else raw
