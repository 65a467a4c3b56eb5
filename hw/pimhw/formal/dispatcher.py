"""Proof of end-to-end isolation: micro-ops read only what the host granted by configuration operations."""

from __future__ import annotations

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, ResetSignal, Signal, Value
from amaranth.lib import data

from pimspec.fields import index_bits
from pimspec.isa import Fault, MicroKind
from pimspec.params.dpa import ConfigOp, ConfigRefusal, DpaParams

from ..dpa.dispatcher import Dispatcher
from ..pipeline import layout_of
from .opened import Opened

__all__ = ["DispatcherProof"]


class DispatcherProof(Elaboratable):
    """Isolation of slots, for any configuration operations, any program, and micro-ops taken at any time.

    The only assumption is that an offered operation stays until it is taken. That is a stream's rule, which the queue
    of :class:`~pimhw.dpa.controller.DpaController` keeps (:class:`~.issuer.IssuerProof` proves it of queues of that
    kind).

    Any one physical chunk is tracked. `granted` is its owner entry according to the operations that were answered
    without a refusal; after reset it has no owner. Proved:

    - a row that is issued belongs to a chunk which `granted` gives to the slot of the micro-op, readable;
    - a request stays while a start of it waits; a pass reads it as it was at the start, within the program memory;
    - a slot is served only with a start that waits, a request, a scale, and no fault.

    The assumptions of :class:`~.translation.TranslationProof` and :class:`~.loop_stack.LoopStackProof` are proved too:
    no table is written while a pass is under way, and each step of the loops is without a fault and inside the program.

    Covers reach granted and denied rows from reset, in the first pass. The second pass is too deep for a solver; the
    random programs of ``tests/pimhw/test_dpa_dispatcher.py`` run it.

    Parameters
    ----------
    params : DpaParams
    """

    def __init__(self, params: DpaParams) -> None:
        self.params = params
        self._dut = Dispatcher(params=params)
        self._opened = Opened(self._dut)
        state, codes = self._opened.state()
        self._in = {name: state == code for name, code in codes.items()}
        self._pass = self._in["CHECK"] | self._in["ISSUE"]
        self._slot = self._dut._slot
        core = self._dut._interpreter
        stage = data.StructLayout(
            {
                "executed": 1,
                "is_micro": 1,
                "translated": 1,
                "pc": core.pc_bits,
                "vrow": 32,
                "micro": core._micro.shape(),
            }
        )
        self._stages = [data.View(stage, self._opened.signal("interpreter", f"stage{k}")) for k in range(3)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, dut, opened = self.params, self._dut, self._opened
        m.submodules.dut = opened.fragment
        m.d.comb += [
            Assume(~ResetSignal()),
            dut.config.valid.eq(AnySeq(1)),
            dut.config.payload.eq(AnySeq(len(dut.config.payload.as_value()))),
            dut.enable.eq(AnySeq(1)),
            dut.o.ready.eq(AnySeq(1)),
            dut.status_slot.eq(AnySeq(p.slot_bits)),
        ]
        held, before = Signal(), Signal.like(dut.config.payload)
        m.d.sync += [held.eq(dut.config.valid & ~dut.config.ready), before.eq(dut.config.payload)]
        with m.If(held):
            m.d.comb += Assume(dut.config.valid & (dut.config.payload == before))
        m.d.comb += Assert(~opened.signal("slot_only") | (held & (before.op == ConfigOp.RELEASE)))
        state, codes = opened.state()
        core = dut._interpreter
        executed = Cat(s.executed for s in self._stages)
        m.d.comb += [
            Assert(state < len(codes)),
            Assert(self._pass | ~(core._running | executed.any())),
            Assert(~Cat(core.table.directory, core.table.leaf, core.table.owner).any() | ~self._pass),
            Assert(~core.write_word | ~self._pass),
        ]
        chunk = Signal(p.chunk_bits)
        m.d.comb += chunk.eq(AnyConst(p.chunk_bits))
        granted, cell = self._granted(m, chunk)
        self._isolation(m, chunk, granted, cell)
        self._requests(m)
        self._starts(m)
        return m

    def _granted(self, m: Module, chunk: Signal) -> tuple[data.View, Value]:
        """What the host has been told of the owner of `chunk`, and what the table holds: the same."""
        dut, p, config = self._dut, self.params, self._dut.config
        given, told = (Signal(layout_of(p.owner_entry), name=name) for name in ("given", "told"))
        asked, granted = Signal(), Signal(layout_of(p.owner_entry))
        m.d.sync += [
            asked.eq(
                config.valid
                & config.ready
                & (config.payload.op == ConfigOp.SET_OWNER)
                & (config.payload.index == chunk)
            ),
            given.eq(Value.cast(config.payload.value)[: p.owner_entry.width]),
            told.eq(granted),
        ]
        m.d.comb += granted.eq(told)
        with m.If(asked & dut.answered & (dut.refusal == ConfigRefusal.NONE)):
            m.d.comb += granted.eq(given)
        sweep, one_slot = self._opened.signal("sweep"), self._opened.signal("slot_only")
        ahead = self._in["CLEAR"] & ~one_slot & (sweep <= chunk)
        nobody = ~granted.as_value().any()
        cell = self._opened.cell(m, "interpreter", "translation", "owner", address=chunk)
        m.d.comb += [
            Assert(ahead | (cell == granted)),
            Assert(nobody | ~(self._in["CLEAR"] & ~one_slot)),
            Assert(~one_slot | self._in["CLEAR"]),
            Assert(~asked | ~self._pass),
        ]
        return granted, cell

    def _isolation(self, m: Module, chunk: Signal, granted: data.View, cell: Value) -> None:
        dut, translation, slot = self._dut, self._dut._interpreter._translation, self._slot
        op = dut.o.payload
        low = index_bits(self.params.chunk_rows) + index_bits(self.params.leaf_entries)
        stage = data.StructLayout({"slot": self.params.slot_bits, "vrow": low, "unmapped": 1})
        path = ("interpreter", "translation")
        for s, name in zip(self._stages, ("at_leaf", "at_owner", "out"), strict=True):
            at = data.View(stage, self._opened.signal(*path, name))
            reads = (s.micro.kind == MicroKind.MAC_K) | (s.micro.kind == MicroKind.MAC_V)
            with m.If(s.executed):
                m.d.comb += [
                    Assert((at.slot == slot) & (s.micro.slot == slot)),
                    Assert(~s.is_micro | (reads == s.translated)),
                ]
        tracked = self._opened.signal(*path, "chunk") == chunk
        with m.If(self._stages[-1].executed & tracked):
            m.d.comb += Assert(self._opened.read(*path, "owner") == cell)
        reads = (op.kind == MicroKind.MAC_K) | (op.kind == MicroKind.MAC_V)
        with m.If(dut.o.valid & reads & ((op.row >> index_bits(self.params.chunk_rows)) == chunk)):
            m.d.comb += Assert(granted.valid & granted.readable & (granted.slot == op.slot))
        last = self._stages[-1]
        with m.If(self._in["CHECK"] & last.executed & last.translated):
            m.d.comb += [Cover(translation.fault == fault) for fault in (Fault.NONE, Fault.PERMISSION, Fault.UNMAPPED)]

    def _requests(self, m: Module) -> None:
        """Request of any one slot; that of a pass stays, whatever the host does."""
        p, dut, core = self.params, self._dut, self._dut._interpreter
        slot = Signal(p.slot_bits)
        m.d.comb += slot.eq(AnyConst(p.slot_bits))

        def good(request: data.View) -> Value:
            return (request.length != 0) & (request.program + request.length <= p.program_words)

        stored = self._opened.cell(m, "request", address=slot)
        tokens = self._opened.cell(m, "tokens", address=slot)
        has = (dut._has_request >> slot)[0]
        loaded = self._in["LOADED"] | self._in["CHECK"] | self._in["AGAIN"] | self._in["ISSUE"]
        m.d.comb += Assert(~has | good(stored))
        with m.If(loaded & (self._slot == slot)):
            held = Signal(layout_of(p.request))
            m.d.comb += [held.eq(stored), held.tokens.eq(tokens), Assert(core.request == held)]
        waited, stored_before = Signal(), Signal.like(stored)
        m.d.sync += [waited.eq(dut._pending[slot] != 0), stored_before.eq(stored)]
        with m.If(waited):
            m.d.comb += Assert(stored == stored_before)
        before = Signal(layout_of(p.request))
        m.d.sync += before.eq(core.request)
        with m.If(self._pass & (self._slot == slot)):
            m.d.comb += Assert((core.request == before) & good(core.request))
        loops = core._loops
        m.d.comb += Assert(~loops.step | (~loops.fault & (loops.pc < loops.program_length) & ~loops.clear))

    def _starts(self, m: Module) -> None:
        dut, slot = self._dut, self._slot
        ready = dut._has_request & dut._has_scale & ~dut._faulted
        served = ~(self._in["CLEAR"] | self._in["READY"])
        m.d.comb += [
            Assert(slot < self.params.num_slots),
            *(Assert((count == 0) | ready[k]) for k, count in enumerate(dut._pending)),
            Assert(~served | (dut._pending[slot] != 0)),
        ]
