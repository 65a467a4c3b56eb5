"""Merge unit: exact merge of partial attention results, and the final normalisation."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory

from pimspec.formats import FP32
from pimspec.params.arith import Exp2Params, FpAddParams, FpMaxParams, FpMulParams, FpNarrowParams, ReciprocalParams
from pimspec.params.rank_pu import MergeParams

from ..arith.exp2 import Exp2Core
from ..arith.fp_add import FpAddCore
from ..arith.fp_max import FpMaxCore
from ..arith.fp_mul import FpMulCore
from ..arith.fp_narrow import FpNarrowCore
from ..arith.reciprocal import Reciprocal
from ..pipeline import StreamComponent

__all__ = ["Merge"]

FILL, WEIGH, MERGE, EMIT = range(4)  # bits of the state


class Merge(StreamComponent):
    """Merge unit: folds partials ``(o, m, l)`` left to right and delivers the last, normalised or as it is.

    The first partial after reset, or after one with `last`, is stored as it is. Each further one is merged:
    ``m' = maximum(m1, m2)``, ``a_i = exp2(RNE(m_i - m'))`` but 1 where m_i equals m',
    ``l' = RNE(RNE(l1 * a1) + RNE(l2 * a2))`` and the same for each element of o; FP32 throughout (policy of
    :mod:`pimspec.formats`). After a partial with `last` the result leaves: o as it is, or with `normalise`
    ``narrow(RNE(o * reciprocal(l)))``.

    One of the two weights is always 1 (or both are NaN), and multiplying by 1 changes nothing that the addition lets
    through: each lane holds one multiplier, which scales the side with the smaller maximum, and one adder. `l` goes
    through lane 0 ahead of the beats of o, so that its reciprocal is under way while they pass; the subtraction of the
    maxima uses the adder of lane 0 before that. The multipliers also normalise. The vector lies in a memory with one
    read and one write port.

    Cycles, if nothing is idle or refused: ``params.first_cycles`` for the first partial, ``params.merge_cycles`` for
    each further one, ``params.emit_cycles(...)`` for the result; `i` is not ready while the weight is computed and
    while the result leaves. Golden: :mod:`pimspec.golden.merge`.

    Timing model: ``struct Merge`` of ``rank_pu.h``.

    Parameters
    ----------
    params : MergeParams

    Members
    -------
    i : In(stream): o (lanes x 32), m (32), l (32), last, normalise
        ``params.num_beats`` beats a partial. All fields but `o` are read with its first beat; `normalise` counts only
        where `last` is set.
    o : Out(stream): o (lanes x 32), m (32), l (32), normalised
        ``params.num_beats`` beats a fold, m and l the same in each. A normalised element is a number of
        ``params.format`` in the low bits, zeros above.

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`MergeParams`.
    """

    def __init__(self, *, params: MergeParams) -> None:
        super().__init__(params=params)
        p = params
        self._vector = memory.Memory(shape=data.ArrayLayout(FP32.width, p.lanes), depth=p.num_beats, init=[])
        self._row, self._write = self._vector.read_port(), self._vector.write_port()
        self._compare = FpMaxCore(params=FpMaxParams(depth=1))
        self._exp = Exp2Core(params=Exp2Params(depth=p.exp_depth))
        self._reciprocal = Reciprocal(params=ReciprocalParams(format=FP32, bits_per_cycle=p.bits_per_cycle))
        self._m, self._l = Signal(FP32.width, reset_less=True), Signal(FP32.width, reset_less=True)
        self._last, self._normalise = Signal(reset_less=True), Signal(reset_less=True)
        self._new_m = Signal(FP32.width, reset_less=True)  # of the partial that is weighed
        self._scale_old = Signal(reset_less=True)  # the multipliers scale the partial so far, not the new one
        self._in_weigh, self._weighing, self._emitting, self._advance = Signal(), Signal(), Signal(), Signal()
        self._sum_l, self._merge_beat, self._normal_beat = Signal(), Signal(), Signal()  # what enters the multipliers
        self._written, self._l_written, self._reciprocal_due = Signal(), Signal(), Signal()
        self._filling, self._step, self._step_result = Signal(), Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.vector = self._vector
        weight, take_new = self._weight(m)
        m.submodules.reciprocal = self._reciprocal
        sums = self._lanes(m, weight, take_new)
        self._control(m)

        # Results of the lanes return to the memory and to `l`; the first partial goes there directly.
        with m.If(self._l_written):
            m.d.sync += self._l.eq(sums[0])
        for j in range(p.lanes):
            m.d.comb += self._write.data[j].eq(Mux(self._written, sums[j], self.i.payload.o[j]))

        request = Signal()
        with m.If(self._reciprocal_due):
            m.d.sync += request.eq(1)
        with m.Elif(self._reciprocal.i.ready):
            m.d.sync += request.eq(0)
        m.d.comb += [self._reciprocal.i.valid.eq(request), self._reciprocal.i.payload.a.eq(self._l)]
        m.d.comb += [
            self.o.payload.m.eq(self._m),
            self.o.payload.l.eq(self._l),
            self.o.payload.normalised.eq(self._normalise),
        ]
        return m

    def _weight(self, m: Module) -> tuple[Value, Value]:
        """The weight of the side with the smaller maximum, and whether the new partial has the larger one.

        Compared, subtracted (in lane 0) and exponentiated while the operands stand still; the cores then keep it. Equal
        maxima, also infinite ones, are subtracted as zeros: the weight is ``exp2(0)``, which is 1.
        """
        p = self.params
        m.submodules.compare = self._compare
        m.submodules.exp = self._exp
        with m.If(self._weighing):
            m.d.sync += self._new_m.eq(self.i.payload.m)
        m.d.comb += [
            self._compare.en.eq(self._weighing),
            self._compare.i.a.eq(self._m),
            self._compare.i.b.eq(self.i.payload.m),
            self._exp.en.eq(self._weighing.replicate(p.exp_depth)),
        ]
        with m.If(self._weighing):
            m.d.sync += self._scale_old.eq(self._compare.o.less)
        return self._exp.o.y, self._compare.o.less

    def _lanes(self, m: Module, weight: Value, take_new: Value) -> list[Value]:
        """Multipliers, adders and narrowing; the sums."""
        p, new = self.params, self.i.payload
        entering = self._sum_l | self._merge_beat
        merging, is_l = Signal(p.mul_depth + p.add_depth), Signal(p.mul_depth + p.add_depth)
        normal = Signal(p.mul_depth + p.narrow_depth)
        m.d.sync += [merging.eq(Cat(entering, merging)), is_l.eq(Cat(self._sum_l, is_l))]
        with m.If(self._advance):
            m.d.sync += normal.eq(Cat(self._normal_beat, normal))
        merge_at, normal_at = Cat(entering, merging), Cat(self._normal_beat, normal)
        sums = []
        for j in range(p.lanes):
            m.submodules[f"mul{j}"] = mul = FpMulCore(params=FpMulParams(format=FP32, depth=p.mul_depth))
            m.submodules[f"add{j}"] = add = FpAddCore(params=FpAddParams(depth=p.add_depth))
            m.submodules[f"narrow{j}"] = narrow = FpNarrowCore(
                params=FpNarrowParams(format=p.format, depth=p.narrow_depth)
            )
            old, fresh = self._row.data[j], new.o[j]
            if j == 0:
                old, fresh = Mux(self._sum_l, self._l, old), Mux(self._sum_l, new.l, fresh)
            moving_on = normal_at[: p.mul_depth] & self._advance.replicate(p.mul_depth)
            m.d.comb += [
                mul.en.eq(merge_at[: p.mul_depth] | moving_on),
                mul.i.a.eq(Mux(self._scale_old, old, fresh)),
                mul.i.b.eq(Mux(self._emitting, self._reciprocal.o.payload.y, weight)),
            ]
            other = Mux(take_new, fresh, old)
            for k in range(p.mul_depth):
                register = Signal(FP32.width, name=f"other{j}_{k}", reset_less=True)
                with m.If(merge_at[k]):
                    m.d.sync += register.eq(other)
                other = register
            m.d.comb += [
                add.i.a.eq(mul.o.y),
                add.i.b.eq(other),
                add.en.eq(merge_at[p.mul_depth : p.mul_depth + p.add_depth]),
                narrow.i.a.eq(mul.o.y),
                narrow.en.eq(normal_at[p.mul_depth : -1] & self._advance.replicate(p.narrow_depth)),
                self.o.payload.o[j].eq(Mux(self._normalise, narrow.o.y, self._row.data[j])),
            ]
            if j == 0:
                # Operands are chosen by the state alone: nothing is in the adder when a weight begins.
                differ = (~self._compare.o.equal).replicate(FP32.width)
                with m.If(self._in_weigh):
                    m.d.comb += [
                        add.i.a.eq(Mux(take_new, self._m, self._new_m) & differ),
                        add.i.b.eq((self._compare.o.y ^ FP32.sign_mask) & differ),
                        add.en.eq(self._weighing.replicate(p.add_depth)),
                    ]
                m.d.comb += self._exp.i.a.eq(add.o.y)
            sums.append(add.o.y)
        m.d.comb += [
            self._written.eq(merging[-1] & ~is_l[-1]),
            self._l_written.eq(merging[-1] & is_l[-1]),
            self.o.valid.eq(Mux(self._normalise, normal[-1], self._emitting)),
            self._advance.eq(self.o.ready | ~self.o.valid),
        ]
        return sums

    def _control(self, m: Module) -> None:
        """Counters, and the state set by the first beat of a partial."""
        p, first_beat = self.params, self.i.payload
        beat = Signal(range(p.num_beats))  # of what comes in or leaves the memory
        result = Signal(range(p.num_beats))  # of what comes out of the lanes
        next_beat = Signal.like(beat)
        step, step_result = self._step, self._step_result
        final_beat, final_result = beat == p.num_beats - 1, result == p.num_beats - 1
        m.d.comb += [
            next_beat.eq(Mux(step, Mux(final_beat, 0, beat + 1), beat)),
            self._row.addr.eq(next_beat),
            self._write.addr.eq(Mux(self._filling, beat, result)),
            self._write.en.eq(self._written | (self._filling & step)),
        ]
        m.d.sync += beat.eq(next_beat)
        with m.If(step_result):
            m.d.sync += result.eq(Mux(final_result, 0, result + 1))

        first = self._filling & step & ~beat.any()
        last = Mux(first, first_beat.last, self._last)
        normalise = Mux(first, first_beat.normalise, self._normalise)
        m.d.comb += self._reciprocal_due.eq((first | self._l_written) & last & normalise)
        with m.If(first | self._sum_l):
            m.d.sync += [self._last.eq(first_beat.last), self._normalise.eq(first_beat.normalise)]
        with m.If(first):
            m.d.sync += [self._m.eq(first_beat.m), self._l.eq(first_beat.l)]
        self._states(m, in_done=step & final_beat, out_done=step_result & final_result)

    def _states(self, m: Module, *, in_done: Value, out_done: Value) -> None:
        """State machine; `in_done` and `out_done` mark the last beat into and out of the lanes."""
        p = self.params
        state = Signal(4, init=1 << FILL)
        waited = Signal(range(p.weigh_cycles))
        started, all_in = Signal(), Signal()  # in MERGE: `l` is on its way; all beats are
        # What chooses operands is ahead of the longest paths: bits of the state, not the priority of the cases below.
        m.d.comb += [
            self._in_weigh.eq(state[WEIGH]),
            self._sum_l.eq(state[MERGE] & ~started),
            self._emitting.eq(state[EMIT]),
        ]
        with m.If(state[FILL]):
            m.d.comb += [self._filling.eq(1), self.i.ready.eq(1), self._step.eq(self.i.valid)]
            with m.If(in_done):
                m.d.sync += [state.eq(Mux(self._last, 1 << EMIT, 1 << WEIGH)), self._scale_old.eq(1)]
        with m.Elif(state[WEIGH]):
            m.d.comb += self._weighing.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += waited.eq(waited + 1)
                with m.If(waited == p.weigh_cycles - 1):
                    m.d.sync += [waited.eq(0), self._m.eq(self._compare.o.y), state.eq(1 << MERGE)]
        with m.Elif(state[MERGE]):
            m.d.comb += [
                self.i.ready.eq(started & ~all_in),
                self._merge_beat.eq(self.i.ready & self.i.valid),
                self._step.eq(self._merge_beat),
                self._step_result.eq(self._written),
            ]
            m.d.sync += started.eq(1)
            with m.If(in_done):
                m.d.sync += all_in.eq(1)
            with m.If(out_done):
                m.d.sync += [started.eq(0), all_in.eq(0), state.eq(Mux(self._last, 1 << EMIT, 1 << WEIGH))]
                m.d.sync += self._scale_old.eq(1)
        with m.Else():
            entering = self._reciprocal.o.valid & ~all_in & self._advance
            m.d.comb += [
                self._normal_beat.eq(self._normalise & entering),
                self._step.eq(Mux(self._normalise, self._normal_beat, self.o.ready)),
                self._step_result.eq(self.o.valid & self.o.ready),
                self._reciprocal.o.ready.eq(out_done),
            ]
            with m.If(in_done):
                m.d.sync += all_in.eq(1)
            with m.If(out_done):
                m.d.sync += [all_in.eq(0), state.eq(1 << FILL)]
