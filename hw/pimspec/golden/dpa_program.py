"""Golden interpreter: one pass over a DPA program as :mod:`pimspec.isa` defines it, with faults by priority."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..isa import (
    STRIDE_BITS,
    Fault,
    InputKind,
    LoopKind,
    MacMode,
    MicroKind,
    MicroOp,
    Opcode,
    OutputKind,
    split_word,
)
from ..params.dpa import DpaParams

__all__ = ["Outcome", "interpret"]

_MASK = (1 << STRIDE_BITS) - 1

Operands = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of one start.

    Parameters
    ----------
    slot : int
    micro_ops : list of MicroOp
        In order, END last; empty after a fault.
    advance : int
        Tokens that the request gains.
    fault : Fault
    fault_pc : int
        Word of the program that had the fault, from its first; 0 without a fault.
    fault_row : int
        Virtual row of UNMAPPED or PERMISSION, else 0.
    instructions : int
        Instructions done in the check pass; END counts, the one with the fault does not.
    """

    slot: int
    micro_ops: list[MicroOp]
    advance: int = 0
    fault: Fault = Fault.NONE
    fault_pc: int = 0
    fault_row: int = 0
    instructions: int = 0


class _Fault(Exception):
    def __init__(self, fault: Fault, row: int = 0) -> None:
        super().__init__(fault.name)
        self.fault, self.row = fault, row


class _State(enum.Enum):
    """Position of the program in the sequence of attention."""

    IDLE = enum.auto()
    QUERIES = enum.auto()
    SCORES = enum.auto()
    SCORED = enum.auto()
    PROBS = enum.auto()
    PROBED = enum.auto()
    SUMS = enum.auto()
    SUMMED = enum.auto()


@dataclass(slots=True)
class _Loop:
    kind: int
    start: int
    end: int
    count: int
    index: int = 0


class _Pass:
    def __init__(
        self,
        params: DpaParams,
        slot: int,
        request: Mapping[str, int],
        scale: int,
        translate: Callable[[int], tuple[Fault, int]],
    ) -> None:
        self.params, self.slot, self.request, self.scale, self.translate = params, slot, request, scale, translate
        self.tokens, self.length = request["tokens"], request["length"]
        self.registers = [0] * params.num_registers
        self.pc = 0
        self.loops: list[_Loop] = []
        self.state = _State.IDLE
        self.next_segment = 0
        self.place = 0  # of the MERGEs of the kv_head
        self.segment = self.lines = self.rows = self.k = self.v = 0
        self.first = self.final = 0
        self.advance = 0
        self.micro_ops: list[MicroOp] = []

    def issue(self, kind: MicroKind, **fields: int) -> None:
        static_order = self.request["static_order"]
        self.micro_ops.append(MicroOp(kind=kind, slot=self.slot, static_order=static_order, **fields))

    def expect(self, *states: _State) -> None:
        if self.state not in states:
            raise _Fault(Fault.ORDER)

    def execute(self, word: int) -> bool:
        """Execute the word at `pc` and go on to the next; False after END."""
        parts = split_word(word)
        if parts is None:
            raise _Fault(Fault.BAD_OPCODE)
        opcode, operands, clean = parts
        if not clean:
            raise _Fault(Fault.RESERVED)
        most = self.params.num_registers
        if operands.get("rd", 0) >= most or operands.get("rs", 0) >= most:
            raise _Fault(Fault.REGISTER)
        following = _HANDLERS[opcode](self, operands) or self.pc + 1
        if opcode is Opcode.END:
            return False
        while self.loops and following == self.loops[-1].end:
            loop = self.loops[-1]
            if loop.index + 1 < loop.count:
                loop.index += 1
                following = loop.start
                break
            self.loops.pop()
        self.pc = following
        return True

    def do_end(self, operands: Operands) -> None:
        self.expect(_State.IDLE)
        if operands["advance"] and self.tokens + 1 > self.params.max_tokens:
            raise _Fault(Fault.TOKENS)
        self.advance = operands["advance"]
        self.issue(MicroKind.END)

    def do_nop(self, operands: Operands) -> None:
        pass

    def do_movi(self, operands: Operands) -> None:
        self.registers[operands["rd"]] = operands["imm"]

    def do_addi(self, operands: Operands) -> None:
        self.registers[operands["rd"]] = (self.registers[operands["rs"]] + operands["imm"]) & _MASK

    def do_loop(self, operands: Operands) -> int:
        kind, length = operands["kind"], operands["length"]
        start, end = self.pc + 1, self.pc + 1 + length
        enclosing = self.loops[-1].end if self.loops else self.length
        segments = next((loop for loop in self.loops if loop.kind == LoopKind.SEGMENTS), None)
        bad = (
            len(self.loops) == self.params.loop_depth
            or length == 0
            or end > enclosing
            or kind not in _LOOP_KINDS
            or (kind == LoopKind.SEGMENTS and segments is not None)
            or (kind == LoopKind.ROWS and segments is None)
        )
        if bad:
            raise _Fault(Fault.LOOP)
        count = operands["count"]
        if kind == LoopKind.SEGMENTS:
            count = -(-self.tokens // self.params.segment_tokens)
        elif kind == LoopKind.ROWS and segments is not None:
            count = -(-self.segment_tokens(segments.index) // self.params.row_step_tokens)
        if count == 0:
            return end
        self.loops.append(_Loop(kind, start, end, count))
        return start

    def segment_tokens(self, index: int) -> int:
        most = self.params.segment_tokens
        return min(self.tokens - index * most, most)

    def row_lines(self, row: int) -> int:
        """Token lines of row step `row` of the segment."""
        most = self.params.row_lines
        return min(most, self.lines - row * most)

    def checked_place(self, register: int) -> int:
        place, rows = self.registers[register], self.params.queries_at_once
        if place % rows != 0 or place + rows > self.request["num_entries"]:
            raise _Fault(Fault.BAD_ENTRY)
        return self.request["first_entry"] + place

    def step(self, operands: Operands) -> None:
        """Add the stride to the register, after use."""
        rs = operands["rs"]
        self.registers[rs] = (self.registers[rs] + operands["stride"]) & _MASK

    def do_wr_inp(self, operands: Operands) -> None:
        if operands["what"] == InputKind.PROBS:
            self.expect(_State.PROBS)
            self.issue(MicroKind.WR_PROBS, lines=self.row_lines(self.v))
            self.state = _State.PROBED
            return
        self.expect(_State.IDLE)
        place = self.checked_place(operands["rs"])
        self.issue(MicroKind.WR_QUERIES, buffer_entry=place, last_query=self.request["last_query"])
        self.step(operands)
        self.next_segment = 0
        self.state = _State.QUERIES

    def do_softmax(self, operands: Operands) -> None:
        self.expect(_State.QUERIES)
        loop = next((loop for loop in self.loops if loop.kind == LoopKind.SEGMENTS), None)
        if loop is None or loop.index != self.next_segment:
            raise _Fault(Fault.ORDER)
        chips, tokens = self.params.num_chips, self.segment_tokens(loop.index)
        self.lines = -(-tokens // chips)
        self.rows = -(-tokens // self.params.row_step_tokens)
        self.k = self.v = 0
        self.first, self.final = int(loop.index == 0), int(loop.index == loop.count - 1)
        self.issue(
            MicroKind.SOFTMAX,
            last_query=self.request["last_query"],
            lines=self.lines,
            last_keep=(1 << (tokens - (self.lines - 1) * chips)) - 1,
            scale=self.scale,
            first=self.first,
            final=self.final,
        )
        self.state = _State.SCORES

    def do_mac(self, operands: Operands) -> None:
        tree = operands["mode"] == MacMode.TREE
        self.expect(_State.SCORES if tree else _State.PROBED)
        virtual = self.registers[operands["rs"]]
        fault, row = self.translate(virtual)
        if fault:
            raise _Fault(fault, virtual)
        if tree:
            self.issue(MicroKind.MAC_K, row=row, lines=self.row_lines(self.k))
            self.state = _State.SCORED
        else:
            self.issue(MicroKind.MAC_V, row=row, lines=self.row_lines(self.v))
            self.v += 1
            self.state = _State.SUMS if self.v == self.rows else _State.PROBS
        self.step(operands)

    def do_rd_out(self, operands: Operands) -> None:
        if operands["what"] == OutputKind.SCORES:
            self.expect(_State.SCORED)
            self.issue(MicroKind.RD_SCORES, lines=self.row_lines(self.k))
            self.k += 1
            self.state = _State.PROBS if self.k == self.rows else _State.SCORES
        else:
            self.expect(_State.SUMS)
            self.issue(MicroKind.RD_SUMS, first=self.first, final=self.final)
            self.state = _State.SUMMED

    def do_merge(self, operands: Operands) -> None:
        self.expect(_State.SUMMED)
        place = self.registers[operands["rs"]]
        if not self.first and place != self.place:
            raise _Fault(Fault.ORDER)
        absolute, request = self.checked_place(operands["rs"]), self.request
        self.issue(
            MicroKind.MERGE,
            buffer_entry=absolute,
            last_query=request["last_query"],
            first=self.first,
            final=self.final,
            normalise=request["normalise"],
        )
        self.place = place
        if self.final:
            self.step(operands)
            self.state = _State.IDLE
        else:
            self.next_segment += 1
            self.state = _State.QUERIES

    def do_barrier(self, operands: Operands) -> None:
        self.expect(_State.IDLE)
        self.issue(MicroKind.BARRIER)


_LOOP_KINDS = frozenset(map(int, LoopKind))
_HANDLERS: dict[Opcode, Callable[[_Pass, Operands], int | None]] = {
    Opcode.END: _Pass.do_end,
    Opcode.NOP: _Pass.do_nop,
    Opcode.MOVI: _Pass.do_movi,
    Opcode.ADDI: _Pass.do_addi,
    Opcode.LOOP: _Pass.do_loop,
    Opcode.WR_INP: _Pass.do_wr_inp,
    Opcode.SOFTMAX: _Pass.do_softmax,
    Opcode.MAC: _Pass.do_mac,
    Opcode.RD_OUT: _Pass.do_rd_out,
    Opcode.MERGE: _Pass.do_merge,
    Opcode.BARRIER: _Pass.do_barrier,
}


def interpret(
    params: DpaParams,
    slot: int,
    request: Mapping[str, int],
    scale: int,
    program: Sequence[int],
    translate: Callable[[int], tuple[Fault, int]],
) -> Outcome:
    """Outcome of a slot's program.

    Parameters
    ----------
    params : DpaParams
    slot : int
    request : mapping of str to int
        :attr:`DpaParams.request`.
    scale : int
        FP32 bits.
    program : sequence of int
        All words of the program memory.
    translate : callable
        Virtual row to (fault, physical row).
    """
    run, begin, done = _Pass(params, slot, request, scale, translate), request["program"], 0
    try:
        while True:
            if done == params.watchdog:
                raise _Fault(Fault.WATCHDOG)
            if run.pc >= run.length:
                raise _Fault(Fault.PC)
            more = run.execute(program[begin + run.pc])
            done += 1
            if not more:
                break
    except _Fault as stop:
        return Outcome(
            slot=slot, micro_ops=[], fault=stop.fault, fault_pc=run.pc, fault_row=stop.row, instructions=done
        )
    return Outcome(slot=slot, micro_ops=run.micro_ops, advance=run.advance, instructions=done)
