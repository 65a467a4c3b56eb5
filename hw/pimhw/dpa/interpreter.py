"""One pass over a program: an instruction a clock, checked, translated, and in the second pass issued as a micro-op."""

from __future__ import annotations

import enum
from itertools import pairwise

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.golden.dot import MODE_TREE
from pimspec.isa import (
    INSTRUCTIONS,
    OPCODE_BITS,
    WORD_BITS,
    Fault,
    InputKind,
    LoopKind,
    MicroKind,
    Opcode,
    OutputKind,
)
from pimspec.params.dpa import DpaParams

from ..pipeline import layout_of
from .loop_stack import LoopStack
from .translation import TRANSLATION_CLOCKS, Translation

__all__ = ["Interpreter"]


class _State(enum.IntEnum):
    """What the sequence of attention allows next: see :mod:`pimspec.isa`."""

    IDLE = 0
    QUERIES = 1
    SCORES = 2
    SCORED = 3
    PROBS = 4
    PROBED = 5
    SUMS = 6
    SUMMED = 7


class Interpreter(wiring.Component):
    """Runs one pass of the program of a slot; holds program memory and the table of virtual rows.

    Timing model: ``struct Interpreter`` of ``dpa.h``.

    Parameters
    ----------
    params : DpaParams

    Members
    -------
    start : In(1)
        Begin a pass. `issue`, `slot`, `request` and `scale` stay until it is over.
    issue : In(1)
        Second pass: issue micro-ops.
    slot, request, scale : In
        ``params.request``, with the live token count.
    o : Out(stream.Signature(params.micro_op))
    over : Out(1)
        For a clock, with the members below.
    fault : Out(Fault); fault_pc, fault_row : Out; instructions : Out(32); advance : Out(1)
        The first fault, its instruction and virtual row; the instructions before it; whether END said `advance`.
    write_word : In(1); word_index, word : In
        Write program memory; during a pass, only words that its program does not have.
    table : In; look : In; owner : Out
        Write the table, and the owner of a chunk: see :class:`~.translation.Translation`.
    """

    def __init__(self, *, params: DpaParams) -> None:
        self.params = p = params
        self._loops, self._translation = LoopStack(params=p), Translation(params=p)
        self.pc_bits = self._loops.pc_bits
        super().__init__(
            {
                "start": In(1),
                "issue": In(1),
                "slot": In(p.slot_bits),
                "request": In(layout_of(p.request)),
                "scale": In(32),
                "o": Out(stream.Signature(layout_of(p.micro_op))),
                "over": Out(1),
                "fault": Out(Fault),
                "fault_pc": Out(self.pc_bits),
                "fault_row": Out(32),
                "instructions": Out(32),
                "advance": Out(1),
                "write_word": In(1),
                "word_index": In(range(p.program_words)),
                "word": In(WORD_BITS),
                "table": In(self._translation.write.shape()),
                "look": In(p.chunk_bits),
                "owner": Out(layout_of(p.owner_entry)),
            }
        )
        self._program = memory.Memory(shape=WORD_BITS, depth=p.program_words, init=[])
        self._write, self._read = self._program.write_port(), self._program.read_port()
        self._pc, self._running, self._move = Signal(self.pc_bits), Signal(), Signal()
        self._registers = Array(Signal(32, name=f"x{k}", reset_less=True) for k in range(p.num_registers))
        self._state = Signal(_State)
        self._count = Signal(32)
        self._segment = Signal(p.loop_count_bits)  # of the kv_head, that comes next
        self._final = Signal()  # the segment under way is the last one
        self._first_place = Signal(32)
        # the instruction: its opcode, registers, operand and fault
        self._op = {opcode: Signal(name=f"is_{opcode.name.lower()}") for opcode in Opcode}
        self._rs, self._rd, self._stride, self._x = Signal(3), Signal(3), Signal(32), Signal(32)
        self._queries, self._probs, self._tree, self._scores = Signal(), Signal(), Signal(), Signal()
        self._fault = Signal(Fault)
        # what it does
        micro = data.StructLayout({n: s for n, s in layout_of(p.micro_op).members.items() if n != "row"})
        self._micro, self._is_micro, self._translated = Signal(micro), Signal(), Signal()
        self._go, self._following = Signal(), Signal(_State)
        # Token lines of the segment whose scores are not read, or whose V is not streamed.
        lines = micro["lines"].width
        self._k_left, self._v_left = (Signal(lines, name=name, reset_less=True) for name in ("k_left", "v_left"))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.loops = self._loops
        m.submodules.translation = self._translation
        m.submodules.program = self._program
        write, read = self._write, self._read
        m.d.comb += [
            write.en.eq(self.write_word),
            write.addr.eq(self.word_index),
            write.data.eq(self.word),
            self._translation.write.eq(self.table),
            self._translation.look.eq(self.look),
            self.owner.eq(self._translation.owner),
        ]
        self._decode(m)
        self._check(m)
        self._execute(m)
        m.d.comb += [
            read.en.eq(self.start | self._move),
            read.addr.eq(self.request.program + Mux(self.start, 0, self._loops.next_pc)),
        ]
        with m.If(self.start):
            m.d.sync += [self._running.eq(1), self._pc.eq(0), self._count.eq(0), self._state.eq(_State.IDLE)]
            m.d.sync += [x.eq(0) for x in self._registers]
        m.d.comb += self._loops.clear.eq(self.start)
        self._finish(m)
        return m

    @property
    def _word(self) -> Value:
        return self._read.data

    def _is(self, opcode: Opcode) -> Value:
        return self._word[:OPCODE_BITS] == opcode

    def _operands(self, opcode: Opcode) -> data.View:
        return data.View(layout_of(INSTRUCTIONS[opcode].table), self._word[: INSTRUCTIONS[opcode].table.width])

    def _decode(self, m: Module) -> None:
        """Registers and loop operands of the instruction."""
        loops, request = self._loops, self.request
        loop = self._operands(Opcode.LOOP)
        for opcode in (Opcode.ADDI, Opcode.WR_INP, Opcode.MAC, Opcode.MERGE):
            view = self._operands(opcode)
            with m.If(self._is(opcode)):
                added = view.imm if opcode is Opcode.ADDI else view.stride
                written = view.rd if opcode is Opcode.ADDI else view.rs
                m.d.comb += [self._rs.eq(view.rs), self._rd.eq(written), self._stride.eq(added)]
        movi = self._operands(Opcode.MOVI)
        with m.If(self._is(Opcode.MOVI)):
            m.d.comb += [self._rd.eq(movi.rd), self._stride.eq(movi.imm)]
        with m.If(~self._is(Opcode.MOVI)):
            m.d.comb += self._x.eq(self._registers[self._rs])
        m.d.comb += [
            loops.pc.eq(self._pc),
            loops.is_loop.eq(self._is(Opcode.LOOP)),
            loops.kind.eq(loop.kind),
            loops.length.eq(loop.length),
            loops.count.eq(loop.count),
            loops.tokens.eq(request.tokens),
            loops.program_length.eq(request.length),
        ]

    def _check(self, m: Module) -> None:
        """The first fault of the instruction, but for those of the translation."""
        p, loops, state, word = self.params, self._loops, self._state, self._word
        op = self._op
        m.d.comb += [op[opcode].eq(self._is(opcode)) for opcode in Opcode]
        inp, out, mac = (self._operands(o) for o in (Opcode.WR_INP, Opcode.RD_OUT, Opcode.MAC))
        loop = self._operands(Opcode.LOOP)
        m.d.comb += [
            self._queries.eq(op[Opcode.WR_INP] & (inp.what == InputKind.QUERIES)),
            self._probs.eq(op[Opcode.WR_INP] & (inp.what == InputKind.PROBS)),
            self._tree.eq(mac.mode == MODE_TREE),
            self._scores.eq(out.what == OutputKind.SCORES),
        ]
        stray, order = Signal(), Signal()
        for opcode, spec in INSTRUCTIONS.items():
            with m.If(op[opcode]):
                m.d.comb += stray.eq(word[spec.table.width :].any())
        unused = (op[Opcode.LOOP] & (loop.kind != LoopKind.IMM) & (loop.count != 0)) | (
            self._probs & ((inp.rs != 0) | (inp.stride != 0))
        )
        merge_elsewhere = ~self._first & (self._x != self._first_place)
        allowed = {
            Opcode.END: state == _State.IDLE,
            Opcode.BARRIER: state == _State.IDLE,
            Opcode.WR_INP: Mux(self._probs, state == _State.PROBS, state == _State.IDLE),
            Opcode.SOFTMAX: (state == _State.QUERIES) & loops.in_segments & (loops.segment == self._segment),
            Opcode.MAC: Mux(self._tree, state == _State.SCORES, state == _State.PROBED),
            Opcode.RD_OUT: Mux(self._scores, state == _State.SCORED, state == _State.SUMS),
            Opcode.MERGE: (state == _State.SUMMED) & ~merge_elsewhere,
        }
        for opcode, condition in allowed.items():
            with m.If(op[opcode]):
                m.d.comb += order.eq(~condition)
        rows_bits = (p.queries_at_once - 1).bit_length()
        misplaced = (self._x + p.queries_at_once > self.request.num_entries) | (
            self._x[:rows_bits].any() if rows_bits else 0
        )
        registers = (self._rs >= p.num_registers) | (self._rd >= p.num_registers)
        end = self._operands(Opcode.END)
        faults = [
            (self._count == p.watchdog, Fault.WATCHDOG),
            (self._pc >= self.request.length, Fault.PC),
            (~Cat(*op.values()).any(), Fault.BAD_OPCODE),
            (stray | unused, Fault.RESERVED),
            (registers, Fault.REGISTER),
            (loops.fault, Fault.LOOP),
            (order, Fault.ORDER),
            ((self._queries | op[Opcode.MERGE]) & misplaced, Fault.BAD_ENTRY),
            (op[Opcode.END] & end.advance & (self.request.tokens == p.max_tokens), Fault.TOKENS),
        ]
        for condition, fault in reversed(faults):
            with m.If(condition):
                m.d.comb += self._fault.eq(fault)

    @property
    def _first(self) -> Value:
        return self._segment == 0

    def _execute(self, m: Module) -> None:
        """What an instruction without a fault does."""
        op = self._op
        m.d.comb += [
            self._loops.step.eq(self._go),
            self._following.eq(self._state),
            self._micro.slot.eq(self.slot),
            self._micro.static_order.eq(self.request.static_order),
        ]
        for opcode, kind in ((Opcode.END, MicroKind.END), (Opcode.BARRIER, MicroKind.BARRIER)):
            with m.If(op[opcode]):
                self._issue(m, kind)
        self._begin(m)
        self._row_steps(m)
        self._end(m)
        plain = op[Opcode.MOVI] | op[Opcode.ADDI] | op[Opcode.MAC] | self._queries
        with m.If(self._go):
            m.d.sync += [
                self._state.eq(self._following),
                self._pc.eq(self._loops.next_pc),
                self._count.eq(self._count + 1),
            ]
            with m.If(plain | (op[Opcode.MERGE] & self._final)):
                m.d.sync += self._registers[self._rd].eq(self._x + self._stride)

    def _issue(self, m: Module, kind: MicroKind, **fields: Value) -> None:
        m.d.comb += [self._micro.kind.eq(kind), self._is_micro.eq(1)]
        m.d.comb += [self._micro[name].eq(value) for name, value in fields.items()]

    def _begin(self, m: Module) -> None:
        """Queries of a kv_head, and the softmax of a segment."""
        p, loops, request = self.params, self._loops, self.request
        chip_bits = (p.num_chips - 1).bit_length()
        rest, lines = Signal(max(1, chip_bits)), Signal.like(self._k_left)
        m.d.comb += [
            rest.eq(loops.segment_tokens[:chip_bits]),
            lines.eq((loops.segment_tokens >> chip_bits) + (rest != 0)),
        ]
        with m.If(self._queries):
            place = request.first_entry + self._x
            self._issue(m, MicroKind.WR_QUERIES, buffer_entry=place, last_query=request.last_query)
            m.d.comb += self._following.eq(_State.QUERIES)
            with m.If(self._go):
                m.d.sync += self._segment.eq(0)
        with m.If(self._op[Opcode.SOFTMAX]):
            self._issue(
                m, MicroKind.SOFTMAX, last_query=request.last_query, lines=lines, scale=self.scale,
                last_keep=Mux(rest == 0, (1 << p.num_chips) - 1, (1 << rest) - 1),
                first=loops.first, final=loops.final,
            )  # fmt: skip
            m.d.comb += self._following.eq(_State.SCORES)
            with m.If(self._go):
                m.d.sync += [self._k_left.eq(lines), self._v_left.eq(lines), self._final.eq(loops.final)]

    def _row_steps(self, m: Module) -> None:
        """K of a row step and its scores; probabilities of a row step and its V."""
        row_lines, k_left, v_left, following = self.params.row_lines, self._k_left, self._v_left, self._following

        def lines(left: Value) -> Value:
            return Mux(left <= row_lines, left, row_lines)

        with m.If(self._op[Opcode.MAC]):
            m.d.comb += self._translated.eq(1)
            with m.If(self._tree):
                self._issue(m, MicroKind.MAC_K, lines=lines(k_left))
                m.d.comb += following.eq(_State.SCORED)
            with m.Else():
                self._issue(m, MicroKind.MAC_V, lines=lines(v_left))
                m.d.comb += following.eq(Mux(v_left <= row_lines, _State.SUMS, _State.PROBS))
                with m.If(self._go):
                    m.d.sync += v_left.eq(v_left - row_lines)
        with m.If(self._op[Opcode.RD_OUT] & self._scores):
            self._issue(m, MicroKind.RD_SCORES, lines=lines(k_left))
            m.d.comb += following.eq(Mux(k_left <= row_lines, _State.PROBS, _State.SCORES))
            with m.If(self._go):
                m.d.sync += k_left.eq(k_left - row_lines)
        with m.If(self._probs):
            self._issue(m, MicroKind.WR_PROBS, lines=lines(v_left))
            m.d.comb += following.eq(_State.PROBED)

    def _end(self, m: Module) -> None:
        """The sums of a segment, and what becomes of them."""
        request, final = self.request, self._final
        with m.If(self._op[Opcode.RD_OUT] & ~self._scores):
            self._issue(m, MicroKind.RD_SUMS, first=self._first, final=final)
            m.d.comb += self._following.eq(_State.SUMMED)
        with m.If(self._op[Opcode.MERGE]):
            self._issue(
                m, MicroKind.MERGE, buffer_entry=request.first_entry + self._x, last_query=request.last_query,
                first=self._first, final=final, normalise=request.normalise,
            )  # fmt: skip
            m.d.comb += self._following.eq(Mux(final, _State.IDLE, _State.QUERIES))
            with m.If(self._go):
                m.d.sync += [self._segment.eq(self._segment + 1), self._first_place.eq(self._x)]

    def _finish(self, m: Module) -> None:
        """The stages of the translation, micro-ops, and the end of the pass."""
        translation, running = self._translation, self._running
        micro = self._micro.shape()
        stage = data.StructLayout(
            {
                "executed": 1,
                "is_micro": 1,
                "translated": 1,
                "pc": self.pc_bits,
                "vrow": 32,
                "micro": micro,
            }
        )
        stages = [Signal(stage, name=f"stage{k}") for k in range(TRANSLATION_CLOCKS)]
        out = stages[-1]
        over, failed = Signal(), Signal()
        moved = [s.executed for s in stages]
        m.d.comb += [
            self._move.eq(~self.o.valid | self.o.ready),
            self._go.eq(running & self._move & (self._fault == Fault.NONE) & ~failed),
            failed.eq(out.executed & out.translated & (translation.fault != Fault.NONE)),
            translation.advance.eq(self._move),
            translation.slot.eq(self.slot),
            translation.vrow.eq(self._x),
            self.o.valid.eq(self.issue & out.executed & out.is_micro & ~failed),
            *(self.o.payload[name].eq(out.micro[name]) for name in micro.members),
            self.o.payload.row.eq(Mux(out.translated, translation.row, 0)),
        ]
        with m.If(self._move):
            first = stages[0]
            m.d.sync += [
                first.executed.eq(self._go),
                first.is_micro.eq(self._is_micro),
                first.translated.eq(self._translated),
                first.pc.eq(self._pc),
                first.vrow.eq(self._x),
                first.micro.eq(self._micro),
                *(after.eq(before) for before, after in pairwise(stages)),
            ]
        # A pass ends when all stages are empty after its last instruction, or at the first fault of the translation.
        ended, fault, advance = Signal(), Signal(Fault), Signal()
        with m.If(running & self._move & (self._fault != Fault.NONE)):
            m.d.sync += [running.eq(0), ended.eq(1), fault.eq(self._fault), advance.eq(0)]
        with m.If(self._go & self._op[Opcode.END]):
            m.d.sync += [
                running.eq(0),
                ended.eq(1),
                fault.eq(Fault.NONE),
                advance.eq(self._operands(Opcode.END).advance),
            ]
        m.d.comb += [
            over.eq((ended & ~Cat(moved).any()) | failed),
            self.over.eq(over),
            self.fault.eq(Mux(failed, translation.fault, fault)),
            self.fault_pc.eq(Mux(failed, out.pc, Mux(fault == Fault.NONE, 0, self._pc))),
            self.fault_row.eq(Mux(failed, out.vrow, 0)),
            self.instructions.eq(self._count - Mux(failed, 1 + stages[0].executed + stages[1].executed, 0)),
            self.advance.eq(advance),
        ]
        with m.If(over):
            m.d.sync += [running.eq(0), ended.eq(0)]
            m.d.sync += [s.executed.eq(0) for s in stages]
