"""Reciprocal of an FP32 number by digit recurrence."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal

from pimspec.formats import FP32

from ..pipeline import StreamComponent
from .bits import named, unpack

__all__ = ["Reciprocal"]


class Reciprocal(StreamComponent):
    """``y = RNE_fmt(1 / a)``: one FP32 number in, one number of ``params.format`` out, correctly rounded.

    Special values and rounding follow the policy of :mod:`pimspec.formats`: 1/+-0 = +-Inf, 1/+-Inf = +-0, NaN gives the
    canonical NaN, subnormal operands count at full value, underflow is gradual, overflow delivers an infinity. Golden:
    :func:`pimspec.golden.reciprocal.reciprocal`.

    Restoring radix-2 division, ``params.bits_per_cycle`` quotient bits a cycle, one operand at a time. A power of two
    `start` is divided by the significand s in [2**23, 2**24). At each step the remainder is doubled, and s is
    subtracted if it fits. The choice of `start` replaces hardware that other dividers need:

    * ``start = 2**23`` gives a quotient in (1/2, 1], of which the first bit is always 1: no normalisation.
    * A result that is subnormal by d bits starts from ``2**(23 - d)``: its quotient comes out in place, with d leading
      zeros, and no shifter follows.
    * For s = 2**23, which equals `start`, every quotient bit is 1 and the remainder stays s. Rounding such a quotient
      up carries into the exponent and gives the exact power of two.
    * 1/Inf, and any result of half the smallest subnormal or less, starts from 0 and so gives 0; with the exponent
      field all ones that is also infinity (and NaN, after its quiet bit is set).

    Rounding needs the guard bit alone, and neither sticky bit nor remainder. Only the quotient of a power of two is
    exact, and the one that would be a tie (half the smallest subnormal) starts from 0. So a guard bit of 1 always means
    more than half.

    Subnormal operands below 2**-128 overflow in every format. So operands need no more than two bits of normalisation,
    and none for FP16, where all of them overflow. The quotient register becomes the output register when it is rounded.

    An operand is accepted while the unit is idle or its result is being taken; a result is held until it is taken.
    Latency ``params.latency_cycles`` = interval ``params.interval_cycles`` = ``params.num_steps + 2`` (load, steps,
    round), whatever the operand.

    Parameters
    ----------
    params : ReciprocalParams

    Members
    -------
    i : In(stream): a (32)
    o : Out(stream): y (format width)

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`ReciprocalParams`.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        format, num_steps = self.params.format, self.params.num_steps
        num_bits = num_steps * self.params.bits_per_cycle  # significand, guard, and up to 3 that nothing reads

        # Steps while `remaining` is above 1, rounding at 1.
        remaining = Signal(range(num_steps + 2))
        done = Signal()
        accept = Signal()
        m.d.comb += [
            self.i.ready.eq((remaining == 0) & (self.o.ready | ~done)),
            accept.eq(self.i.ready & self.i.valid),
            self.o.valid.eq(done),
        ]
        with m.If(accept):
            m.d.sync += remaining.eq(num_steps + 1)
        with m.Elif(remaining != 0):
            m.d.sync += remaining.eq(remaining - 1)
        with m.If(remaining == 1):
            m.d.sync += done.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += done.eq(0)

        sign, nan = Signal(reset_less=True), Signal(reset_less=True)
        field = Signal(format.exponent_bits, reset_less=True)  # of the result; less one until it is rounded
        divisor = Signal(FP32.fraction_bits, reset_less=True)  # without its hidden bit
        remainder = Signal(FP32.precision, reset_less=True)
        quotient = Signal(num_bits, reset_less=True)
        m.d.comb += self.o.payload.y.eq(Cat(quotient[: format.fraction_bits], field, sign))

        # Load.
        is_nan, new_sign, new_field, fraction, start = self._operand(m)
        with m.If(accept):
            m.d.sync += [
                sign.eq(new_sign),
                nan.eq(is_nan),
                field.eq(new_field),
                divisor.eq(fraction),
                remainder.eq(start),
            ]

        # Steps. The remainder never exceeds the divisor, so a step that does not subtract leaves it below 2**24.
        rest, bits = remainder, []
        for k in range(self.params.bits_per_cycle):
            doubled = Cat(Const(0, 1), rest)
            difference = named(m, f"difference_{k}", (doubled - Cat(divisor, Const(1, 1)))[: FP32.precision + 2])
            fits = ~difference[-1]
            rest = named(m, f"rest_{k}", Mux(fits, difference, doubled)[: FP32.precision])
            bits.insert(0, fits)
        with m.If(remaining > 1):
            m.d.sync += [remainder.eq(rest), quotient.eq(Cat(*bits, quotient))]

        # Round. The hidden bit adds one to the exponent field, a carry out of rounding another.
        drop = num_bits - format.precision
        kept, guard = quotient[drop:], quotient[drop - 1]
        total = named(m, "total", (Cat(Const(0, format.fraction_bits), field) + kept + guard)[: format.width - 1])
        with m.If(remaining == 1):
            m.d.sync += [
                field.eq(total[format.fraction_bits :]),
                quotient.eq(Cat(total[: format.fraction_bits - 1], total[format.fraction_bits - 1] | nan)),
            ]
        return m

    def _operand(self, m: Module):
        """Values to load: NaN flag, sign, exponent field less one, fraction of the divisor, first remainder."""
        format, a = self.params.format, self.i.payload.a
        x = unpack(m, a, FP32, "a")
        # 1 / (s * 2**(exponent - 150)) = (2**24 / s) * 2**(126 - exponent), and 1 < 2**24 / s <= 2.
        top = 125 + format.bias  # this exponent gives 1, the field of the smallest normal number
        if format.exponent_bits == FP32.exponent_bits:
            # One or two leading zeros still give a finite result, except for 2**-128, which rounding carries to Inf.
            normal, high, low = a[FP32.fraction_bits : -1].any(), x.significand[-2], x.significand[-3]
            fraction = Mux(normal, x.significand, Mux(high, x.significand << 1, x.significand << 2))
            exponent = Mux(normal, a[FP32.fraction_bits : -1], Mux(high, 0, -1))
            overflow, max_deficit = ~(normal | high | low), 2  # 2 is as subnormal as a finite operand gets
        else:
            fraction, exponent = x.significand, x.exponent
            overflow, max_deficit = x.exponent <= top + 1 - format.exponent_max_field, format.precision
        less_one = named(m, "less_one", top - exponent)
        subnormal = named(m, "subnormal", less_one < 0)
        deficit = named(m, "deficit", Mux(subnormal, exponent - top, 0)[:8])
        full = named(m, "full", overflow | x.is_nan)
        empty = named(m, "empty", overflow | (deficit > max_deficit))  # NaN and Inf too, by their exponent
        start = Mux(empty, 0, Const(1 << FP32.fraction_bits, FP32.precision) >> deficit[: max_deficit.bit_length()])
        field = Mux(full, format.exponent_max_field, Mux(subnormal, 0, less_one)[: format.exponent_bits])
        return (
            x.is_nan,
            a[-1] & ~x.is_nan,
            field,
            named(m, "fraction", fraction[: FP32.fraction_bits]),
            named(m, "start", start),
        )
