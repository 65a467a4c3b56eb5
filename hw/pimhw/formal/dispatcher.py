"""Proof of end-to-end isolation: micro-ops read only what the host granted by configuration operations."""

from __future__ import annotations

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, ResetSignal, Signal, Value
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
    - a slot is served only with a start that waits, a request, a scale, and no fault;
    - from the first to the second pass nothing changes that they read (any one program word, directory entry and leaf
      entry is tracked, and the permission of the chunk): a program issues what was checked;
    - a program that could begin sees ``params.host_queue`` operations go first at most.

    The assumptions of :class:`~.translation.TranslationProof` and :class:`~.loop_stack.LoopStackProof` are proved too:
    a permission stays while a pass is under way, and each step of the loops is without a fault and inside the program.

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
        self._releasing, self._was_pass = self._opened.signal("releasing"), Signal()
        self._any_slot = Signal(params.slot_bits)
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
        releasing = self._releasing
        m.d.comb += [
            Assert(~releasing | (held & (before.op == ConfigOp.RELEASE))),
            Assert(~releasing | (before.slot < p.num_slots)),
            Assert(~releasing | (dut._pending[before.slot] == 0)),
            Assert(~releasing | (opened.signal("sweep") < p.release_clocks)),
        ]
        state, codes = opened.state()
        core = dut._interpreter
        executed = Cat(s.executed for s in self._stages)
        m.d.comb += [
            Assert(state < len(codes)),
            Assert(self._pass | ~(core._running | executed.any())),
            Assert(~(self._in["CLEAR"] & releasing)),
            Assert(~dut._looked | (self._pass & held)),
        ]
        m.d.sync += self._was_pass.eq(self._pass)
        chunk = Signal(p.chunk_bits)
        m.d.comb += chunk.eq(AnyConst(p.chunk_bits))
        granted, cell = self._granted(m, chunk)
        self._isolation(m, chunk, granted, cell)
        self._requests(m)
        self._reads(m)
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
        ahead = self._in["CLEAR"] & (self._opened.signal("sweep") <= chunk)
        nobody = ~granted.as_value().any()
        cell = self._opened.cell(m, "interpreter", "translation", "owner", address=chunk)
        m.d.comb += [
            Assert(ahead | (cell == granted)),
            Assert(nobody | ~self._in["CLEAR"]),
        ]
        with m.If(dut._looked & (config.payload.index == chunk)):
            m.d.comb += Assert(dut._interpreter.owner == cell)
        may, before = Signal(), Signal()
        m.d.comb += may.eq(self._permits(cell))
        m.d.sync += before.eq(may)
        with m.If(self._was_pass & self._pass):
            m.d.comb += Assert(may == before)
        return granted, cell

    def _permits(self, owner: data.View) -> Value:
        """The slot in service may read a chunk of this owner."""
        return owner.valid & owner.readable & (owner.slot == self._slot)

    def _reads(self, m: Module) -> None:
        """Program words and entries that a pass may read stay while it is under way."""
        p, dut, opened, request = self.params, self._dut, self._opened, self._dut._interpreter.request
        config, releasing, sweep = dut.config.payload, self._releasing, opened.signal("sweep")
        entry_bits, leaf_bits = (index_bits(n) for n in (p.directory_entries, p.leaf_entries))
        word, leaf = Signal(range(p.program_words)), Signal(p.leaf_bits + leaf_bits)
        slot, entry = Signal(p.slot_bits), Signal(entry_bits)
        m.d.comb += [signal.eq(AnyConst(len(signal))) for signal in (word, leaf, slot, entry)]
        of_request = self._slot == self._any_slot
        path = ("interpreter", "translation")
        directory = opened.cell(m, *path, "directory", address=Cat(entry, slot))
        cells = [
            (opened.cell(m, "interpreter", "program", address=word),
             of_request & (word >= request.program) & (word < request.program + request.length)),
            (directory.as_value(), slot == self._slot),
        ]  # fmt: skip
        used = opened.cell(m, "uses", address=Cat(leaf[leaf_bits:], self._slot))
        cells.append((opened.cell(m, *path, "leaf", address=leaf).as_value(), used))
        for cell, read in cells:
            before = Signal.like(cell)
            m.d.sync += before.eq(cell)
            with m.If(self._was_pass & self._pass & read):
                m.d.comb += Assert(cell == before)
        with m.If(dut._looked & (config.op == ConfigOp.SET_LEAF) & (config.index == leaf)):
            m.d.comb += Assert(dut._used.data == used)
        # A directory names only leaves that are known to be used.
        named = opened.cell(m, "uses", address=Cat(directory.leaf, slot))
        of_slot = releasing & (config.slot == slot)
        unswept = (self._in["CLEAR"] & (sweep <= Cat(entry, slot))) | (of_slot & (entry >= sweep))
        m.d.comb += [
            Assert(~directory.valid | named | unswept),
            Assert(~directory.valid | ~of_slot | (entry >= sweep)),
            Assert(~directory.valid | ~self._in["CLEAR"] | (sweep <= Cat(entry, slot))),
        ]
        taken = dut.config.valid & dut.config.ready & (config.op == ConfigOp.SET_OWNER)
        m.d.comb += Cover(self._pass & taken)
        before_start = Signal(range(2 * p.host_queue + 1))
        first = opened.signal("begin") & opened.signal("do")
        with m.If(self._in["READY"]):
            m.d.sync += before_start.eq(Mux(first, before_start + 1, 0))
        m.d.comb += [
            Assert(before_start <= p.host_queue),
            Assert(opened.signal("passed") >= before_start),
            Assert(opened.signal("passed") <= p.host_queue),
        ]

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
            m.d.comb += Assert(self._permits(self._opened.read(*path, "owner")) == self._permits(cell))
        reads = (op.kind == MicroKind.MAC_K) | (op.kind == MicroKind.MAC_V)
        with m.If(dut.o.valid & reads & ((op.row >> index_bits(self.params.chunk_rows)) == chunk)):
            m.d.comb += Assert(granted.valid & granted.readable & (granted.slot == op.slot))
        last = self._stages[-1]
        with m.If(self._in["CHECK"] & last.executed & last.translated):
            m.d.comb += [Cover(translation.fault == fault) for fault in (Fault.NONE, Fault.PERMISSION, Fault.UNMAPPED)]

    def _requests(self, m: Module) -> None:
        """Request of any one slot; that of a pass stays, whatever the host does."""
        p, dut, core = self.params, self._dut, self._dut._interpreter
        slot = self._any_slot
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
