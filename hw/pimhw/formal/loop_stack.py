"""Proof of the loop stack: no overflow or underflow, and the program counter stays in its body until the loop ends."""

from __future__ import annotations

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, ResetSignal, Signal

from pimspec.isa import LoopKind
from pimspec.params.dpa import DpaParams

from ..dpa.loop_stack import LoopStack
from .opened import Opened

__all__ = ["LoopStackProof"]


class LoopStackProof(Elaboratable):
    """Loop stack, for any instructions, any program length and any token count; the last two stay for a pass.

    Two things are assumed: an instruction is executed only without a fault and inside the program, and the program lies
    within its memory. :class:`~.dispatcher.DispatcherProof` proves them of the interpreter and the dispatcher.

    Proved:

    - the level stays within the depth, and no step pops more than there is;
    - the program counter is inside the body of each loop, each body inside the one around it, all in the program;
    - each body is passed as often as its LOOP asks, and skipped if that is never;
    - there is at most one segments loop; its passes left, `segment`, and the tokens left agree, so a segment has 1 to
      `segment_tokens` tokens, and `final` is its last pass.

    Parameters
    ----------
    params : DpaParams
    """

    def __init__(self, params: DpaParams) -> None:
        self.params = params

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, depth = self.params, self.params.loop_depth
        dut = LoopStack(params=p)
        opened = Opened(dut)
        m.submodules.dut = opened.fragment
        pc, length, tokens = Signal(dut.pc_bits), Signal(dut.pc_bits), Signal(p.max_tokens_bits)
        free = (dut.clear, dut.step, dut.is_loop, dut.kind, dut.length, dut.count)
        m.d.comb += [
            Assume(~ResetSignal()),
            *(signal.eq(AnySeq(len(signal))) for signal in free),
            dut.pc.eq(pc),
            dut.program_length.eq(length),
            dut.tokens.eq(tokens),
            Assume(~dut.step | (~dut.fault & (pc < length) & ~dut.clear)),
            Assume(length <= p.program_words),
        ]
        with m.If(dut.clear):
            m.d.sync += [pc.eq(0), length.eq(AnySeq(len(length))), tokens.eq(AnySeq(len(tokens)))]
        with m.Elif(dut.step):
            m.d.sync += pc.eq(dut.next_pc)
        level, push = opened.signal("level"), opened.signal("push")
        pops = sum(opened.signal(f"pop{k}") for k in range(depth))
        m.d.comb += [
            Assert(level <= depth),
            Assert(pc <= length),
            Cover(level == depth),
        ]
        with m.If(dut.step):
            m.d.comb += [
                Assert(level + push <= depth + pops),
                Assert(pops <= level),
                Assert(dut.next_pc <= length),
                Cover(pops == depth),
                Cover((pops == 0) & ~push & (dut.next_pc < pc)),
            ]
        self._bodies(m, opened, level, pc, length)
        self._segments(m, opened, level, dut)
        self._passes(m, opened, level, push, dut)
        return m

    def _bodies(self, m: Module, opened: Opened, level: Signal, pc: Signal, length: Signal) -> None:
        first, outer = 0, length
        for k in range(self.params.loop_depth):
            start, end = opened.signal(f"start{k}"), opened.signal(f"end{k}")
            with m.If(level > k):
                m.d.comb += Assert((first <= start) & (start <= pc) & (pc < end) & (end <= outer))
            first, outer = start, end

    def _passes(self, m: Module, opened: Opened, level: Signal, push: Signal, dut: LoopStack) -> None:
        """Passes of each loop that are done, and those that its LOOP asked for."""
        p = self.params
        asked = Signal(p.loop_count_bits)
        m.d.comb += asked.eq(dut.count)
        with m.If(dut.kind == LoopKind.SEGMENTS):
            m.d.comb += asked.eq((dut.tokens + p.segment_tokens - 1) // p.segment_tokens)
        with m.If(dut.kind == LoopKind.ROWS):
            m.d.comb += asked.eq((dut.segment_tokens + p.row_step_tokens - 1) // p.row_step_tokens)
        with m.If(dut.step & dut.is_loop):
            m.d.comb += Assert(push == (asked != 0))
            m.d.comb += Assert(push | (dut.next_pc != dut.pc + 1))
        for k in range(p.loop_depth):
            total, done = Signal.like(asked, name=f"total{k}"), Signal.like(asked, name=f"done{k}")
            left, pop, repeat = (opened.signal(f"{name}{k}") for name in ("left", "pop", "repeat"))
            with m.If(dut.step & push & (level == k)):
                m.d.sync += [total.eq(asked), done.eq(0)]
            with m.If(dut.step & repeat):
                m.d.sync += done.eq(done + 1)
                m.d.comb += Assert(~pop & (dut.next_pc == opened.signal(f"start{k}")))
            with m.If(level > k):
                m.d.comb += Assert((done < total) & (done + left + 1 == total))
            with m.If(dut.step & pop):
                m.d.comb += Assert(done + 1 == total)

    def _segments(self, m: Module, opened: Opened, level: Signal, dut: LoopStack) -> None:
        p = self.params
        size = p.segment_tokens
        flags = [opened.signal(f"segments{k}") for k in range(p.loop_depth)]
        tokens_left = opened.signal("tokens_left")
        m.d.comb += Assert(sum(flags) <= 1)
        for k, flag in enumerate(flags):
            left = opened.signal(f"left{k}")
            with m.If(flag):
                m.d.comb += [
                    Assert(level > k),
                    Assert(tokens_left + dut.segment * size == dut.tokens),
                    Assert((tokens_left > left * size) & (tokens_left <= left * size + size)),
                    Assert(dut.final == (left == 0)),
                    Assert((dut.segment_tokens != 0) & (dut.segment_tokens <= size)),
                    Assert(dut.in_segments),
                ]
        m.d.comb += [Cover(Cat(flags).any() & dut.final & ~dut.first), Assert(dut.in_segments == Cat(flags).any())]
        m.d.comb += Cover(dut.step & dut.is_loop & (dut.kind == Mux(dut.in_segments, LoopKind.ROWS, LoopKind.SEGMENTS)))
