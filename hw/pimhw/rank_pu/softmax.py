"""The online softmax of the rank PU: scores in, probabilities and the statistics (m, l) out, without bubbles."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.formats import BF16, FP32, FloatFormat
from pimspec.params import Exp2Params, FpAddParams, FpMaxParams, FpMulParams, FpNarrowParams
from pimspec.rank_params import SoftmaxParams

from ..arith.bits import leading_zeros, named, shift_left
from ..arith.exp2 import Exp2Core
from ..arith.fp_add import FpAddCore
from ..arith.fp_max import FpMaxCore
from ..arith.fp_mul import FpMulCore
from ..arith.fp_narrow import FpNarrowCore
from ..pipeline import layout_of

__all__ = ["Softmax", "widen"]

MINUS_ZERO = FP32.sign_mask  # x + -0 is x for every x
MINUS_INF = FP32.inf | FP32.sign_mask  # maximum(x, -Inf) is x for every x


def widen(m: Module, bits: Value, fmt: FloatFormat, name: str) -> Value:
    """FP16 or BF16 to FP32, exactly."""
    if fmt == BF16:
        return Cat(Const(0, FP32.width - fmt.width), bits)
    fraction, field = bits[: fmt.fraction_bits], bits[fmt.fraction_bits : -1]
    subnormal, zero = ~field.any(), ~bits[:-1].any()
    zeros = leading_zeros(m, fraction, f"{name}_lzc")[:4]
    # The leading one of a subnormal moves out at the top and becomes the hidden bit.
    moved = shift_left(m, named(m, f"{name}_tail", Cat(Const(0, 1), fraction[:-1])), zeros, f"{name}_norm")
    # The difference of the biases is 7 * 16: adding it, or taking `zeros` from it, needs no more than 4 bits.
    normal_field = Cat(field[:-1], (~field[-1] | field.all()).replicate(3), field[-1])
    subnormal_field = Cat((~zeros + 1)[:4], ~zeros.any(), Const(0b011, 3))
    magnitude = Cat(
        Const(0, FP32.fraction_bits - fmt.fraction_bits),
        Mux(subnormal, moved, fraction),
        Mux(zero, 0, Mux(subnormal, subnormal_field, normal_field)),
    )
    return named(m, name, Cat(magnitude, bits[-1]), FP32.width)


class Softmax(wiring.Component):
    """Two passes over each segment of scores (one head and query): the second of one overlaps the first of the next.

    Pass 1, while scores arrive: ``x = RNE(score * scale)`` goes into the score memory, and ``m = maximum(m, x)``.
    Pass 2, from the last score on, one beat a clock: ``p = narrow(exp2(RNE(x - m)))`` leaves on `o`; the p, widened,
    are summed: a pairwise tree over the beat, then ``l = RNE(l + beat)``, the first beat stored as it is. Then
    ``(m, l)`` leaves on `stats`. FP32 throughout, one rounding an operation (policy of :mod:`pimspec.formats`); m is in
    the units of x, so that weights of partial results are ``exp2(m1 - m')``. Tokens without `keep` have no influence
    and probability +0; a part without kept tokens gives m = -Inf and l = +0, the neutral element of merging.

    A segment of more than ``params.max_tokens`` is cut into parts of that length, each with `last` on `o` and an entry
    of `stats` of its own (`more` set except in the last): the unit cannot be blocked by a segment that is too long,
    and merging the parts gives the result of the segment.

    The score memory is a ring: rows are freed as pass 2 reads them, while the next part fills it at the same rate. The
    longest part and the few rows that arrive before pass 2 starts are all that it must hold, half of what two
    alternating halves take; it needs one write and one read port. `i` is ready while a row and one of ``params.parts``
    entries of the table of maxima is free; this is a registered condition, so that the incoming bus sees neither `o`
    nor `stats`. Pass 2 is rigid: it stands still while a beat of `o` or an entry of `stats` is due and not taken.

    Latency from the last beat of a part to its first probabilities ``params.latency_cycles``, to its statistics
    ``params.stats_latency_cycles(num_beats)``; one beat a clock on `i` and `o`. Parts of ``params.bubble_free_beats``
    or more follow one another without a bubble. Golden: :func:`pimspec.golden.softmax.softmax`.

    Parameters
    ----------
    params : SoftmaxParams

    Members
    -------
    scale : In(32)
        FP32 ``log2(e) * softmax_scale``, taken with each beat.
    i : In(stream): scores (lanes x 32), keep (lanes x 1), last
    o : Out(stream): probs (lanes x format width), keep (lanes x 1), last (of the part)
    stats : Out(stream): m (32), l (32), more (a further part of the same segment follows)

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`SoftmaxParams`.
    """

    def __init__(self, *, params: SoftmaxParams) -> None:
        self.params = params
        super().__init__(
            {
                "scale": In(FP32.width),
                "i": In(stream.Signature(layout_of(params.inputs))),
                "o": Out(stream.Signature(layout_of(params.outputs))),
                "stats": Out(stream.Signature(layout_of(params.stats))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        row = data.StructLayout({"x": data.ArrayLayout(FP32.width, p.lanes), "keep": p.lanes, "last": 1})
        part = data.StructLayout({"m": FP32.width, "more": 1})
        m.submodules.rows = self._rows = memory.Memory(shape=row, depth=p.num_rows, init=[])
        m.submodules.maxima = self._maxima = memory.Memory(shape=part, depth=p.parts, init=[])
        self._accept, self._end, self._more = Signal(), Signal(), Signal()
        self._read = Signal()  # pass 2 reads a row
        self._freed = Signal()  # an entry of `stats` is taken
        # A ring position has a phase bit on top, which tells full from empty.
        self._limit = Signal(len(Const(p.num_rows - 1)) + 1)
        self._admission(m)
        self._pass1(m)
        self._pass2(m)
        return m

    def _ring_position(self, m: Module, name: str, step: Value) -> tuple[Signal, Value]:
        """Index of a row that moves on with `step`, and the position (index and phase)."""
        index = Signal(range(self.params.num_rows), name=f"{name}_index")
        phase = Signal(name=f"{name}_phase")
        with m.If(step):
            m.d.sync += index.eq(index + 1)
            with m.If(index == self.params.num_rows - 1):
                m.d.sync += [index.eq(0), phase.eq(~phase)]
        return index, Cat(index, phase)

    def _admission(self, m: Module) -> None:
        """Which beats are accepted, and where parts end."""
        p = self.params
        beat = Signal(range(p.max_beats))
        held, ended = Signal(range(p.num_rows + 1)), Signal(range(p.parts + 1))
        cut = Signal()
        m.d.comb += [
            cut.eq(beat == p.max_beats - 1),
            self.i.ready.eq((held != p.num_rows) & (ended != p.parts)),
            self._accept.eq(self.i.ready & self.i.valid),
            self._end.eq(self.i.payload.last | cut),
            self._more.eq(~self.i.payload.last),
        ]
        with m.If(self._accept):
            m.d.sync += beat.eq(Mux(self._end, 0, beat + 1))
        m.d.sync += [
            held.eq(held + self._accept - self._read),
            ended.eq(ended + (self._accept & self._end) - self._freed),
        ]

    def _shift(self, m: Module, name: str, value: Value, length: int, advance: Value | int = 1) -> list[Value]:
        """`value` at pipeline positions 0 to `length`."""
        at: list[Value] = [value]
        for k in range(1, length + 1):
            register = Signal(value.shape(), name=f"{name}{k}", reset_less=True)
            with m.If(advance):
                m.d.sync += register.eq(at[-1])
            at.append(register)
        return at

    def _pass1(self, m: Module) -> None:
        """Scale, store, and compare. Space is reserved on acceptance, so nothing here ever waits."""
        p, beat = self.params, self.i.payload
        position = p.mul_depth + p.tree_levels  # of the operands of the accumulating comparison
        valid = Signal(position + 1)
        arriving = Cat(self._accept, valid)
        m.d.sync += valid.eq(arriving)
        end = self._shift(m, "end", self._end, position + 1)
        more = self._shift(m, "more", self._more, position + 1)
        keep = self._shift(m, "keep", beat.keep.as_value(), p.mul_depth)[-1]

        write = self._rows.write_port()
        index, _ = self._ring_position(m, "write", write.en)
        m.d.comb += [write.en.eq(arriving[p.mul_depth]), write.addr.eq(index)]
        m.d.comb += [write.data.keep.eq(keep), write.data.last.eq(end[p.mul_depth])]
        terms = []
        for j in range(p.lanes):
            m.submodules[f"scale{j}"] = core = FpMulCore(params=FpMulParams(format=FP32, depth=p.mul_depth))
            m.d.comb += [
                core.en.eq(arriving[: p.mul_depth]),
                core.i.a.eq(beat.scores[j]),
                core.i.b.eq(self.scale),
                write.data.x[j].eq(core.o.y),
            ]
            terms.append(Mux(keep[j], core.o.y, MINUS_INF))

        for level in range(p.tree_levels):
            merged = []
            for k, (left, right) in enumerate(zip(terms[0::2], terms[1::2], strict=True)):
                m.submodules[f"max{level}_{k}"] = core = FpMaxCore(params=FpMaxParams(depth=1))
                m.d.comb += [core.en.eq(arriving[p.mul_depth + level]), core.i.a.eq(left), core.i.b.eq(right)]
                merged.append(core.o.y)
            terms = merged

        m.submodules.running_max = maximum = FpMaxCore(params=FpMaxParams(depth=1))
        starts = Signal(init=1)
        with m.If(arriving[position]):
            m.d.sync += starts.eq(end[position])
        m.d.comb += [
            maximum.en.eq(arriving[position]),
            maximum.i.a.eq(terms[0]),
            maximum.i.b.eq(Mux(starts, MINUS_INF, maximum.o.y)),
        ]

        # At the end of a part its maximum enters the table, and its rows, all written by now, are released to pass 2.
        _, seen = self._ring_position(m, "seen", arriving[position])
        done = arriving[position + 1] & end[position + 1]
        table = self._maxima.write_port()
        m.d.comb += [
            table.en.eq(done),
            table.data.m.eq(maximum.o.y),
            table.data.more.eq(more[position + 1]),
        ]
        with m.If(done):
            m.d.sync += [table.addr.eq(table.addr + 1), self._limit.eq(seen)]

    def _pass2(self, m: Module) -> None:
        """Read, subtract, exponentiate, narrow; sum."""
        p = self.params
        valid = Signal(p.sum_cycles)
        advance = Signal()
        index, position = self._ring_position(m, "read", self._read)
        arriving = Cat(self._read, valid)
        with m.If(advance):
            m.d.sync += valid.eq(arriving)

        def enables(position: int, depth: int) -> Value:
            return arriving[position : position + depth] & advance.replicate(depth)

        read = self._rows.read_port()
        row = read.data
        m.d.comb += [
            self._read.eq((position != self._limit) & advance),
            read.en.eq(self._read),
            read.addr.eq(index),
        ]
        # Position 1 is the row read from memory.
        last = self._shift(m, "row_last", row.last, p.sum_cycles - 1, advance)
        keep = self._shift(m, "row_keep", row.keep, p.prob_cycles - 1, advance)[-1]
        table = self._maxima.read_port(domain="comb")
        with m.If(advance & valid[0] & row.last):
            m.d.sync += table.addr.eq(table.addr + 1)

        probs = []
        for j in range(p.lanes):
            m.submodules[f"sub{j}"] = sub = FpAddCore(params=FpAddParams(depth=p.add_depth))
            m.submodules[f"exp{j}"] = exp = Exp2Core(params=Exp2Params(depth=p.exp_depth))
            narrow = FpNarrowCore(params=FpNarrowParams(format=p.format, depth=p.narrow_depth))
            m.submodules[f"narrow{j}"] = narrow
            m.d.comb += [
                sub.en.eq(enables(1, p.add_depth)),
                sub.i.a.eq(row.x[j]),
                sub.i.b.eq(table.data.m ^ FP32.sign_mask),
                exp.en.eq(enables(1 + p.add_depth, p.exp_depth)),
                exp.i.a.eq(sub.o.y),
                narrow.en.eq(enables(1 + p.add_depth + p.exp_depth, p.narrow_depth)),
                narrow.i.a.eq(exp.o.y),
            ]
            probs.append(named(m, f"prob{j}", narrow.o.y & keep[j].replicate(p.format.width)))
            m.d.comb += [self.o.payload.probs[j].eq(probs[j]), self.o.payload.keep[j].eq(keep[j])]
        m.d.comb += self.o.payload.last.eq(last[p.prob_cycles - 1])

        total = self._sum(m, probs, enables, last[p.sum_cycles - 2])
        sum_due = valid[p.sum_cycles - 1] & last[p.sum_cycles - 1]
        probs_wait = self._exit(m, "probs", self.o, valid[p.prob_cycles - 1], advance)
        stats_wait = self._exit(m, "stats", self.stats, sum_due, advance)
        m.d.comb += advance.eq(~probs_wait & ~stats_wait)

        oldest = self._maxima.read_port(domain="comb")
        m.d.comb += [
            self._freed.eq(self.stats.valid & self.stats.ready),
            self.stats.payload.m.eq(oldest.data.m),
            self.stats.payload.more.eq(oldest.data.more),
            self.stats.payload.l.eq(total),
        ]
        with m.If(self._freed):
            m.d.sync += oldest.addr.eq(oldest.addr + 1)

    def _sum(self, m: Module, probs: list[Value], enables: Callable[[int, int], Value], last: Value) -> Value:
        """The sum of a part, in the last position; `last` belongs to the operands of its last addition."""
        p = self.params
        position, terms = p.prob_cycles, [widen(m, x, p.format, f"wide{j}") for j, x in enumerate(probs)]
        for level in range(p.tree_levels):
            sums = []
            for k, (left, right) in enumerate(zip(terms[0::2], terms[1::2], strict=True)):
                m.submodules[f"add{level}_{k}"] = core = FpAddCore(params=FpAddParams(depth=p.add_depth))
                m.d.comb += [core.en.eq(enables(position, p.add_depth)), core.i.a.eq(left), core.i.b.eq(right)]
                sums.append(core.o.y)
            terms, position = sums, position + p.add_depth
        m.submodules.accumulate = total = FpAddCore(params=FpAddParams(depth=1))
        starts = Signal(init=1)
        with m.If(enables(position, 1)):
            m.d.sync += starts.eq(last)
        m.d.comb += [
            total.en.eq(enables(position, 1)),
            total.i.a.eq(terms[0]),
            total.i.b.eq(Mux(starts, MINUS_ZERO, total.o.y)),
        ]
        return total.o.y

    def _exit(self, m: Module, name: str, port: stream.Interface, due: Value, advance: Value) -> Value:
        """Offer what is `due` once, although the pipeline may stand still for another reason; whether it must wait."""
        taken = Signal(name=f"{name}_taken")
        m.d.comb += port.valid.eq(due & ~taken)
        m.d.sync += taken.eq(~advance & (taken | (port.valid & port.ready)))
        return port.valid & ~port.ready
