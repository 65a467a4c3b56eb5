"""2**x on FP32, for softmax."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from pimspec.formats import FP32
from pimspec.golden.exp2_table import DROPPED_BITS, FRACTION_BITS, INTERCEPT, LOW_BITS, OUTPUT_BITS, SLOPE
from pimspec.params.arith import Exp2Params

from ..pipeline import Cuts, PipelinedCore, StreamUnit
from .bits import named, shift_right_sticky, unpack

__all__ = ["Exp2", "Exp2Core"]

INTEGER_BITS = 8  # |x| < 256; anything larger is 0 or infinity


class Exp2Core(PipelinedCore):
    """Datapath of :class:`Exp2`: to fixed point, one table line with one multiplication, back to floating point."""

    def cuts_for(self, params: Exp2Params) -> tuple[str, ...]:
        return {
            1: ("out",),
            2: ("fixed", "out"),
            3: ("fixed", "product", "out"),
            4: ("operand", "fixed", "product", "out"),
        }[params.depth]

    def datapath(self, m: Module, cut: Cuts) -> None:
        (a,) = cut("operand", a=self.i.a)
        x = unpack(m, a, FP32, "a")
        fixed, large = self._to_fixed(m, x.exponent, x.significand, x.sign)
        fixed, sign, large, nan = cut("fixed", fixed=fixed, sign=x.sign, large=large, nan=x.is_nan)
        fixed = named(m, "fixed_", fixed)
        line = self._line(m, fixed[:FRACTION_BITS])
        line, integer, sign, large, nan = cut(
            "product", line=line, integer=fixed[FRACTION_BITS:], sign=sign, large=large, nan=nan
        )
        magnitude = self._to_float(m, line, named(m, "integer_", integer).as_signed())
        # A positive number may have been rounded up to 256, which sets the top bit of `integer`.
        overflow = large | (~sign & integer[FP32.emax.bit_length() :].any())
        finite = Mux(overflow, Mux(sign, 0, FP32.inf), magnitude)
        (y,) = cut("out", y=Mux(nan, FP32.nan, finite)[: FP32.width])
        m.d.comb += self.o.y.eq(y)

    def _to_fixed(self, m: Module, exponent: Value, significand: Value, sign: Value) -> tuple[Value, Value]:
        """x as a two's complement number with FRACTION_BITS fraction bits, and a flag: too large for that."""
        top = FP32.bias + FP32.fraction_bits - FRACTION_BITS  # exponent field at which no shift is needed
        large = named(m, "large", exponent >= FP32.bias + INTEGER_BITS)
        distance = named(m, "distance", (top - exponent)[:8])
        amount = named(m, "amount", Mux(distance[5:].any(), 31, distance)[:5])
        doubled, _ = shift_right_sticky(m, Cat(Const(0, 1), significand), amount, "fix")
        half, whole = doubled[0], doubled[1 : 1 + INTEGER_BITS + FRACTION_BITS]
        # Round the magnitude half up and negate in one addition: -(w + h) = ~w + 1 - h.
        carry = sign ^ half
        inverted = Cat(whole, Const(0, 1)) ^ sign.replicate(INTEGER_BITS + FRACTION_BITS + 1)
        return named(m, "fixed", (inverted + carry)[: INTEGER_BITS + FRACTION_BITS + 1]), large

    def _line(self, m: Module, fraction: Value) -> Value:
        """Table line: (2**f - 1) * 2**OUTPUT_BITS."""
        slope = Signal(max(SLOPE).bit_length())
        intercept = Signal(max(INTERCEPT).bit_length())
        with m.Switch(fraction[LOW_BITS:]):
            for segment, (start, gradient) in enumerate(zip(INTERCEPT, SLOPE, strict=True)):
                with m.Case(segment):
                    m.d.comb += [intercept.eq(start), slope.eq(gradient)]
        total = named(m, "total", intercept + slope * fraction[:LOW_BITS])
        return total[DROPPED_BITS : DROPPED_BITS + OUTPUT_BITS]

    def _to_float(self, m: Module, line: Value, integer: Value) -> Value:
        """Magnitude bits of (1 + line) * 2**integer, rounded where it is subnormal."""
        normal = named(m, "normal", integer >= FP32.emin)
        deficit = named(m, "deficit", Mux(normal, 0, FP32.emin - integer)[:8])
        right = named(m, "right", Mux(deficit[5:].any(), 31, deficit)[:5])
        pad = FP32.fraction_bits - OUTPUT_BITS
        shrunk, sticky = shift_right_sticky(m, Cat(Const(0, pad + 1), line, Const(1, 1)), right, "shrink")
        kept, guard = shrunk[1:], shrunk[0]
        up = named(m, "up", guard & (kept[0] | sticky))
        field = named(m, "field", Mux(normal, integer + (FP32.bias - 1), 0)[: FP32.exponent_bits])
        return named(m, "magnitude", (Cat(Const(0, FP32.fraction_bits), field) + kept + up)[: FP32.width - 1])


class Exp2(StreamUnit):
    """Power of two on FP32: ``y ~ 2**a``.

    The result is exact at every integer (so 1 at both zeros) and non-decreasing over all numbers. The relative error of
    a normal result is at most 2**-14 (derived in :func:`pimspec.golden.exp2.exp2`, measured in
    ``tests/pimspec/golden/test_exp2.py``). Underflow is gradual, +0 up to -150; infinity begins at 128 - 2**-15, where
    the operand rounds to 128; NaN is canonical. Latency ``params.depth`` cycles, interval 1. Golden:
    :func:`pimspec.golden.exp2.exp2`.

    Parameters
    ----------
    params : Exp2Params

    Members
    -------
    i : In(stream): a (32)
    o : Out(stream): y (32)

    Raises
    ------
    ParameterError
        From :class:`Exp2Params`.
    """

    CORE = Exp2Core
