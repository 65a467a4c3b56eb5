"""Loop stack: loops without branches, which determine the next instruction."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.isa import LoopKind
from pimspec.params.dpa import DpaParams

__all__ = ["LoopStack"]


class LoopStack(wiring.Component):
    """Stack of the loops around an instruction, with the count of the segments loop among them.

    Timing model: ``struct Interpreter`` of ``dpa.h``.

    Parameters
    ----------
    params : DpaParams

    Members
    -------
    clear : In(1)
        Begin a program.
    step : In(1)
        The instruction at `pc` is executed: go on to `next_pc`.
    pc : In; next_pc : Out
    is_loop : In(1); kind : In(2); length, count : In
        The instruction is a LOOP; `count` is that of IMM.
    tokens : In; program_length : In
        Live token count, and words of the program.
    fault : Out(1)
        The LOOP is not allowed.
    in_segments, first, final : Out(1); segment : Out; segment_tokens : Out
        State of the segments loop: its existence, its index, the tokens of the segment.
    """

    def __init__(self, *, params: DpaParams) -> None:
        self.params = p = params
        self.pc_bits = p.program_words.bit_length()
        super().__init__(
            {
                "clear": In(1),
                "step": In(1),
                "pc": In(self.pc_bits),
                "next_pc": Out(self.pc_bits),
                "is_loop": In(1),
                "kind": In(2),
                "length": In(12),
                "count": In(16),
                "tokens": In(p.max_tokens_bits),
                "program_length": In(self.pc_bits),
                "fault": Out(1),
                "in_segments": Out(1),
                "first": Out(1),
                "final": Out(1),
                "segment": Out(p.loop_count_bits),
                "segment_tokens": Out(range(p.segment_tokens + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, depth = self.params, self.params.loop_depth
        tokens_of_segment, tokens_of_row = p.segment_tokens, p.row_step_tokens
        level = Signal(range(depth + 1))
        start, end = (
            [Signal(self.pc_bits, name=f"{n}{k}", reset_less=True) for k in range(depth)] for n in ("start", "end")
        )
        left = [Signal(p.loop_count_bits, name=f"left{k}", reset_less=True) for k in range(depth)]
        segments = [Signal(name=f"segments{k}") for k in range(depth)]
        tokens_left = Signal(p.max_tokens_bits)

        rows, wanted = Signal(range(tokens_of_segment // tokens_of_row + 1)), Signal(p.loop_count_bits)
        num_segments = self._ceil(self.tokens, tokens_of_segment)
        m.d.comb += [
            self.final.eq(tokens_left <= tokens_of_segment),
            self.first.eq(self.segment == 0),
            self.segment_tokens.eq(Mux(self.final, tokens_left, tokens_of_segment)),
            self.in_segments.eq(Cat(segments).any()),
            rows.eq(self._ceil(self.segment_tokens, tokens_of_row)),
            wanted.eq(self.count),
        ]
        with m.If(self.kind == LoopKind.SEGMENTS):
            m.d.comb += wanted.eq(num_segments)
        with m.Elif(self.kind == LoopKind.ROWS):
            m.d.comb += wanted.eq(rows)

        # What the LOOP asks for.
        after = Signal(range((1 << self.pc_bits) + (1 << 12)))
        enclosing = Signal(self.pc_bits)
        m.d.comb += [after.eq(self.pc + 1 + self.length), enclosing.eq(self.program_length)]
        for k in range(depth):
            with m.If(level > k):
                m.d.comb += enclosing.eq(end[k])
        m.d.comb += self.fault.eq(
            self.is_loop
            & (
                (level == depth)
                | (self.length == 0)
                | (after > enclosing)
                | (self.kind == 3)
                | ((self.kind == LoopKind.SEGMENTS) & self.in_segments)
                | ((self.kind == LoopKind.ROWS) & ~self.in_segments)
            )
        )

        # Where to go on: through the ends of all bodies that end here.
        push = Signal()
        straight = Signal(self.pc_bits)
        m.d.comb += [
            push.eq(self.is_loop & (wanted != 0)),
            straight.eq(Mux(self.is_loop & ~push, after, self.pc + 1)),
            self.next_pc.eq(straight),
        ]
        chain, pops = 1, []
        for k in reversed(range(depth)):
            here, repeat, pop = (Signal(name=f"{n}{k}") for n in ("here", "repeat", "pop"))
            m.d.comb += [
                here.eq(chain & (level > k) & (straight == end[k]) & ~push),
                repeat.eq(here & (left[k] != 0)),
                pop.eq(here & (left[k] == 0)),
            ]
            pops.append(pop)
            below, chain = chain, Signal(name=f"chain{k}")
            m.d.comb += chain.eq(below & ((level <= k) | pop))
            with m.If(repeat):
                m.d.comb += self.next_pc.eq(start[k])
            with m.If(self.step & repeat):
                m.d.sync += left[k].eq(left[k] - 1)
                with m.If(segments[k]):
                    m.d.sync += [tokens_left.eq(tokens_left - tokens_of_segment), self.segment.eq(self.segment + 1)]
            with m.If(self.step & pop):
                m.d.sync += segments[k].eq(0)
            with m.If(self.step & push & (level == k)):
                m.d.sync += [
                    start[k].eq(self.pc + 1),
                    end[k].eq(after),
                    left[k].eq(wanted - 1),
                    segments[k].eq(self.kind == LoopKind.SEGMENTS),
                ]
        with m.If(self.step):
            m.d.sync += level.eq(level + push - sum(pops))
            with m.If(push & (self.kind == LoopKind.SEGMENTS)):
                m.d.sync += [tokens_left.eq(self.tokens), self.segment.eq(0)]
        with m.If(self.clear):
            m.d.sync += level.eq(0)
            m.d.sync += [s.eq(0) for s in segments]
        return m

    @staticmethod
    def _ceil(tokens, unit):  # type: ignore[no-untyped-def]
        """``ceil(tokens / unit)`` for a power of two."""
        bits = index_bits(unit) if unit > 1 else 0
        return (tokens + (unit - 1)) >> bits
