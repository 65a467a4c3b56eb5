"""The dispatcher: resident requests, their configuration, and who runs next."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.isa import Fault
from pimspec.params.dpa import MAX_PENDING, ConfigOp, ConfigRefusal, DpaParams, SlotState

from ..arith.bits import lowest_set
from ..pipeline import layout_of
from .interpreter import Interpreter

__all__ = ["Dispatcher"]


class Dispatcher(wiring.Component):
    """Runs the programs of resident requests, each checked whole before its first micro-op; golden model:
    :class:`pimspec.golden.dpa.DpaDevice`.

    After reset all tables are cleared, one entry a clock; `config` waits for that. Between programs an operation takes
    a clock, and goes before a program that could begin, but at most ``params.host_queue`` in a row do. While a program
    is checked or issues, an operation takes two clocks or more. It waits for the end of the program if it would write
    what that program reads: a word of it, an entry of a leaf that a directory entry of its slot has named since
    RELEASE, or the owner of a chunk that is or becomes the slot's. So a program issues what was checked.

    Timing model: ``struct Dispatcher`` of ``dpa.h``.

    Parameters
    ----------
    params : DpaParams

    Members
    -------
    config : In(stream.Signature(params.config))
        An operation.
    answered : Out(1); refusal : Out(ConfigRefusal)
        For a clock, after each configuration operation.
    enable : In(1)
        Programs may begin.
    idle : Out(1)
        No program is checked or runs, and none waits.
    o : Out(stream.Signature(params.micro_op))
    outcome_valid : Out(1); outcome : Out
        For a clock, after each program: see :attr:`pimspec.params.dpa.DpaParams.outcome`.
    status_slot : In; status : Out
        Of that slot, a clock later: see :attr:`pimspec.params.dpa.DpaParams.status`.
    """

    def __init__(self, *, params: DpaParams) -> None:
        self.params = p = params
        self._interpreter = Interpreter(params=p)
        super().__init__(
            {
                "config": In(stream.Signature(layout_of(p.config))),
                "answered": Out(1),
                "refusal": Out(ConfigRefusal),
                "enable": In(1),
                "idle": Out(1),
                "o": Out(stream.Signature(layout_of(p.micro_op))),
                "outcome_valid": Out(1),
                "outcome": Out(layout_of(p.outcome)),
                "status_slot": In(p.slot_bits),
                "status": Out(layout_of(p.status)),
            }
        )
        n = p.num_slots
        self._has_request, self._has_scale, self._faulted = (
            Signal(n, name=name) for name in ("has_request", "has_scale", "faulted")
        )
        self._pending = Array(Signal(range(MAX_PENDING + 1), name=f"pending{k}") for k in range(n))
        self._slot = Signal(p.slot_bits)  # the one that is served, or was last
        fault = data.StructLayout({"fault": Fault, "fault_pc": self._interpreter.pc_bits, "fault_row": 32})
        shapes: dict[str, ShapeLike] = {
            "request": layout_of(p.request), "scale": 32, "tokens": p.max_tokens_bits, "done": 16, "faults": fault,
        }  # fmt: skip
        depth = 1 << p.slot_bits
        self._cells = {name: memory.Memory(shape=shape, depth=depth, init=[]) for name, shape in shapes.items()}
        self._writes = {name: cells.write_port() for name, cells in self._cells.items()}
        self._reads = {name: cells.read_port() for name, cells in self._cells.items()}
        self._shown = {name: cells.read_port() for name, cells in self._cells.items()}
        self._uses = memory.Memory(shape=1, depth=1 << (p.slot_bits + p.leaf_bits), init=[])  # leaves of each slot
        self._use, self._used = self._uses.write_port(), self._uses.read_port()
        self._looked = Signal()  # what the operation would change has been looked up

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.interpreter = core = self._interpreter
        wiring.connect(m, core.o, wiring.flipped(self.o))
        waiting = Signal(p.num_slots)
        m.d.comb += waiting.eq(Cat(count != 0 for count in self._pending))
        self._memories(m)

        sweep = Signal(len(core.table.index) + 1)
        releasing = Signal()  # RELEASE clears the tables
        chosen = self._next(m, waiting)
        do = Signal()
        touches = Signal()
        passed = Signal(range(p.host_queue + 1))  # operations in a row that went before a program that could begin
        begin = Signal()
        may_configure = Signal()
        m.d.comb += [
            begin.eq(self.enable & waiting.any() & ~releasing),
            may_configure.eq(self.config.valid & ~releasing),
        ]
        m.d.sync += [self.answered.eq(0), self.outcome_valid.eq(0), self._looked.eq(0)]
        with m.FSM(init="CLEAR"):
            with m.State("CLEAR"):
                self._clear(m, sweep)
            with m.State("READY"):
                m.d.comb += self.idle.eq(~waiting.any() & ~releasing)
                with m.If(begin & (~self.config.valid | (passed == p.host_queue))):
                    m.d.sync += [self._slot.eq(chosen), passed.eq(0)]
                    m.next = "LOAD"
                with m.Elif(may_configure):
                    m.d.comb += do.eq(1)
                    m.d.sync += passed.eq(Mux(begin, passed + 1, 0))
            with m.State("LOAD"):
                m.next = "LOADED"
            with m.State("LOADED"):
                m.d.comb += core.start.eq(1)
                m.next = "CHECK"
            with m.State("CHECK"):
                self._beside(m, may_configure, do, touches)
                with m.If(core.over):
                    self._checked(m)
            with m.State("AGAIN"):
                m.d.comb += [core.start.eq(1), core.issue.eq(1)]
                m.next = "ISSUE"
            with m.State("ISSUE"):
                m.d.comb += core.issue.eq(1)
                self._beside(m, may_configure, do, touches)
                with m.If(core.over):
                    self._done(m)
        self._configure(m, do, touches, sweep, releasing)
        self._release(m, sweep, releasing)
        return m

    def _beside(self, m: Module, may_configure: Value, do: Value, touches: Value) -> None:
        """An operation while a program is checked or issues."""
        with m.If(may_configure & ~self._interpreter.over):
            m.d.comb += do.eq(self._looked & ~touches)
            m.d.sync += self._looked.eq(~do)

    def _memories(self, m: Module) -> None:
        """What is known of each slot: a port for the program that runs, one for the status."""
        p, core, read, shown = self.params, self._interpreter, self._reads, self._shown
        m.submodules.uses = self._uses
        for name, cells in self._cells.items():
            m.submodules[name] = cells
            m.d.comb += [
                read[name].addr.eq(self._slot),
                read[name].en.eq(1),
                shown[name].addr.eq(self.status_slot),
                shown[name].en.eq(1),
            ]
        at = Signal(p.slot_bits)
        m.d.sync += at.eq(self.status_slot)
        ready = (self._has_request >> at)[0] & (self._has_scale >> at)[0]
        faulted = (self._faulted >> at)[0]
        faults = shown["faults"].data
        m.d.comb += [
            core.slot.eq(self._slot),
            core.request.eq(read["request"].data),
            core.request.tokens.eq(read["tokens"].data),
            core.scale.eq(read["scale"].data),
            self.status.state.eq(Mux(faulted, SlotState.FAULTED, Mux(ready, SlotState.READY, SlotState.EMPTY))),
            self.status.pending.eq(self._pending[at]),
            self.status.tokens.eq(shown["tokens"].data),
            self.status.programs_done.eq(shown["done"].data),
        ]
        with m.If(faulted):
            m.d.comb += [
                self.status.fault.eq(faults.fault),
                self.status.fault_pc.eq(faults.fault_pc),
                self.status.fault_row.eq(faults.fault_row),
            ]

    def _next(self, m: Module, waiting: Value) -> Value:
        """Round robin: the first waiting slot after the last one served, or the first of all."""
        n = self.params.num_slots
        above, mine = Signal(n), Signal(n)
        chosen = Signal(self.params.slot_bits)
        m.d.comb += [
            above.eq(Cat(waiting[k] & (self._slot < k) for k in range(1, n)) << 1),
            mine.eq(lowest_set(Mux(above.any(), above, waiting))),
        ]
        for k in range(n):
            with m.If(mine[k]):
                m.d.comb += chosen.eq(k)
        return chosen

    def _write(self, m: Module, name: str, slot: Value, value: Value) -> None:
        port = self._writes[name]
        m.d.comb += [port.addr.eq(slot), port.data.eq(value), port.en.eq(1)]

    def _clear(self, m: Module, sweep: Signal) -> None:
        """Clear all tables."""
        p, table, use = self.params, self._interpreter.table, self._use
        m.d.comb += [table.directory.eq(1), table.index.eq(sweep), table.value.eq(0)]
        m.d.comb += [table.leaf.eq(1), table.owner.eq(1)]
        m.d.comb += [use.en.eq(1), use.addr.eq(sweep)]
        m.d.sync += sweep.eq(sweep + 1)
        with m.If(sweep < 1 << p.slot_bits):
            self._write(m, "done", sweep, 0)
            self._write(m, "tokens", sweep, 0)
        with m.If(sweep == (1 << len(table.index)) - 1):
            m.d.sync += self._slot.eq(p.num_slots - 1)
            m.next = "READY"

    def _release(self, m: Module, sweep: Signal, releasing: Signal) -> None:
        """Clear the directory of a slot, and the leaves that it has named; the operation waits until that is over."""
        p, table, use = self.params, self._interpreter.table, self._use
        slot = self.config.payload.slot
        with m.If(releasing):
            m.d.comb += [
                table.directory.eq(sweep < p.directory_entries),
                table.index.eq((slot << (p.directory_entries - 1).bit_length()) + sweep),
                table.value.eq(0),
                use.en.eq(sweep < p.leaves),
                use.addr.eq((slot << p.leaf_bits) + sweep),
            ]
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == p.release_clocks - 1):
                m.d.comb += self.config.ready.eq(1)
                m.d.sync += [self.answered.eq(1), self.refusal.eq(ConfigRefusal.NONE), releasing.eq(0)]

    def _configure(self, m: Module, do: Value, touches: Signal, sweep: Signal, releasing: Signal) -> None:
        """Do the operation at `config` if `do`, or refuse it; `touches`: it would write what the program reads."""
        p, core, config = self.params, self._interpreter, self.config.payload
        slot, index, value = config.slot, config.index, Value.cast(config.value)
        views = self._views()
        request, scale = views["request"], value[:32]
        refusal, op = self._refusal(m, views), Signal(ConfigOp)
        m.d.comb += op.eq(config.op)
        good = refusal == ConfigRefusal.NONE
        table = core.table
        self._look(m, good, touches, views["owner"])
        release = good & (config.op == ConfigOp.RELEASE)
        m.d.comb += [core.word_index.eq(index), core.word.eq(value)]
        with m.If(do):
            m.d.comb += [self.config.ready.eq(~release), table.value.eq(value), table.index.eq(index)]
            m.d.sync += [self.answered.eq(~release), self.refusal.eq(refusal)]
        with m.If(do & good), m.Switch(config.op):
            with m.Case(ConfigOp.WRITE_WORD):
                m.d.comb += core.write_word.eq(1)
            with m.Case(ConfigOp.SET_REQUEST):
                self._write(m, "request", slot, value)
                self._write(m, "tokens", slot, request.tokens)
                m.d.sync += self._has_request.bit_select(slot, 1).eq(1)
            with m.Case(ConfigOp.SET_SCALE):
                self._write(m, "scale", slot, scale)
                m.d.sync += self._has_scale.bit_select(slot, 1).eq(1)
            with m.Case(ConfigOp.SET_DIRECTORY):
                entry_bits = (p.directory_entries - 1).bit_length()
                entry = views["directory"]
                m.d.comb += [
                    table.directory.eq(1),
                    table.index.eq((slot << entry_bits) + index),
                    self._use.en.eq(entry.valid),
                    self._use.addr.eq((slot << p.leaf_bits) + entry.leaf),
                    self._use.data.eq(1),
                ]
            with m.Case(ConfigOp.SET_LEAF):
                m.d.comb += table.leaf.eq(1)
            with m.Case(ConfigOp.SET_OWNER):
                m.d.comb += table.owner.eq(1)
            with m.Case(ConfigOp.START):
                m.d.sync += self._pending[slot].eq(self._pending[slot] + 1)
            with m.Case(ConfigOp.RELEASE):
                self._write(m, "tokens", slot, 0)
                m.d.sync += [sweep.eq(0), releasing.eq(1)]
                for flags in (self._has_request, self._has_scale, self._faulted):
                    m.d.sync += flags.bit_select(slot, 1).eq(0)

    def _views(self) -> dict[str, data.View]:
        """The value of the operation as an entry of each table."""
        p, value = self.params, Value.cast(self.config.payload.value)
        tables = {"request": p.request, "directory": p.directory_entry, "leaf": p.leaf_entry, "owner": p.owner_entry}
        return {name: data.View(layout_of(table), value[: table.width]) for name, table in tables.items()}

    def _refusal(self, m: Module, views: dict[str, data.View]) -> Signal:
        """The first reason to refuse the operation."""
        p, config = self.params, self.config.payload
        slot, index = config.slot, config.index
        request, scale = views["request"], Value.cast(config.value)[:32]
        no_slot, busy = slot >= p.num_slots, self._pending[slot] != 0
        idle = [(no_slot, ConfigRefusal.RANGE), (busy, ConfigRefusal.BUSY)]
        rows_bits = (p.queries_at_once - 1).bit_length()
        bad_request = (
            (request.length == 0)
            | (request.program + request.length > p.program_words)
            | (request.tokens == 0)
            | (request.num_entries == 0)
            | (request.first_entry[:rows_bits].any() if rows_bits else 0)
            | (request.first_entry + request.num_entries > p.queries)
            | (request.last_query >= p.queries_at_once)
        )
        bad_scale = scale[31] | (scale[23:31] == 0) | scale[23:31].all()
        ready = (self._has_request >> slot)[0] & (self._has_scale >> slot)[0]
        not_ready = ~ready | (self._faulted >> slot)[0]
        entries = p.leaves * p.leaf_entries
        refusals = {
            ConfigOp.WRITE_WORD: [(index >= p.program_words, ConfigRefusal.RANGE)],
            ConfigOp.SET_REQUEST: [*idle, (bad_request, ConfigRefusal.BAD_VALUE)],
            ConfigOp.SET_SCALE: [*idle, (bad_scale, ConfigRefusal.BAD_VALUE)],
            ConfigOp.SET_DIRECTORY: [
                ((index >= p.directory_entries) | (views["directory"].leaf >= p.leaves), ConfigRefusal.RANGE),
                *idle,
            ],
            ConfigOp.SET_LEAF: [((index >= entries) | (views["leaf"].chunk >= p.num_chunks), ConfigRefusal.RANGE)],
            ConfigOp.SET_OWNER: [((index >= p.num_chunks) | (views["owner"].slot >= p.num_slots), ConfigRefusal.RANGE)],
            ConfigOp.START: [
                (no_slot, ConfigRefusal.RANGE),
                (not_ready, ConfigRefusal.NOT_READY),
                (self._pending[slot] == MAX_PENDING, ConfigRefusal.FULL),
            ],
            ConfigOp.RELEASE: idle,
        }
        refusal = Signal(ConfigRefusal)
        m.d.comb += refusal.eq(ConfigRefusal.BAD_OP)
        for which, reasons in refusals.items():
            with m.If(config.op == which):
                m.d.comb += refusal.eq(ConfigRefusal.NONE)
                for condition, code in reversed(reasons):
                    with m.If(condition):
                        m.d.comb += refusal.eq(code)
        return refusal

    def _look(self, m: Module, good: Value, touches: Signal, owner: data.View) -> None:
        """Whether the operation would write what the program under way reads; known in its second clock."""
        p, core, config = self.params, self._interpreter, self.config.payload
        index, request, now = config.index, core.request, core.owner
        leaf = index >> (p.leaf_entries - 1).bit_length()
        m.d.comb += [
            core.look.eq(index),
            self._used.en.eq(1),
            self._used.addr.eq((self._slot << p.leaf_bits) + leaf[: p.leaf_bits]),
        ]
        with m.If(good), m.Switch(config.op):
            with m.Case(ConfigOp.WRITE_WORD):
                m.d.comb += touches.eq((index >= request.program) & (index < request.program + request.length))
            with m.Case(ConfigOp.SET_LEAF):
                m.d.comb += touches.eq(self._used.data)
            with m.Case(ConfigOp.SET_OWNER):
                was = now.valid & (now.slot == self._slot)
                m.d.comb += touches.eq(was | (owner.valid & (owner.slot == self._slot)))

    def _checked(self, m: Module) -> None:
        """The end of the first pass: issue, or stop the slot."""
        core = self._interpreter
        m.d.sync += [
            self.outcome.slot.eq(self._slot),
            self.outcome.fault.eq(core.fault),
            self.outcome.fault_pc.eq(core.fault_pc),
            self.outcome.fault_row.eq(core.fault_row),
            self.outcome.instructions.eq(core.instructions),
        ]
        m.next = "AGAIN"
        with m.If(core.fault != Fault.NONE):
            port = self._writes["faults"]
            m.d.comb += [
                port.addr.eq(self._slot),
                port.en.eq(1),
                port.data.fault.eq(core.fault),
                port.data.fault_pc.eq(core.fault_pc),
                port.data.fault_row.eq(core.fault_row),
            ]
            m.d.sync += [
                self._faulted.bit_select(self._slot, 1).eq(1),
                self._pending[self._slot].eq(0),
                self.outcome_valid.eq(1),
            ]
            m.next = "READY"

    def _done(self, m: Module) -> None:
        """The end of the second pass."""
        core = self._interpreter
        self._write(m, "done", self._slot, self._reads["done"].data + 1)
        self._write(m, "tokens", self._slot, core.request.tokens + core.advance)
        m.d.sync += [
            self._pending[self._slot].eq(self._pending[self._slot] - 1),
            self.outcome_valid.eq(1),
        ]
        m.next = "READY"
