"""FP32 adder."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux

from pimspec.formats import FP32
from pimspec.params.arith import FpAddParams

from ..pipeline import Cuts, PipelinedCore, StreamUnit
from .bits import limited_leading_zeros, named, shift_left, shift_right_sticky, unpack

__all__ = ["FpAdd", "FpAddCore"]


class FpAddCore(PipelinedCore):
    """Datapath of :class:`FpAdd`: one path, with the larger magnitude first, so the difference is never negative.

    Subnormal results are exact and need no rounding. So the only cost of gradual underflow is the limit on the
    normalising shift, taken as a marker bit ahead of the leading-zero count.
    """

    def cuts_for(self, params: FpAddParams) -> tuple[str, ...]:
        return {
            1: ("out",),
            2: ("aligned", "out"),
            3: ("aligned", "added", "out"),
            4: ("aligned", "added", "normal", "out"),
            5: ("ordered", "aligned", "added", "normal", "out"),
        }[params.depth]

    def datapath(self, m: Module, cut: Cuts) -> None:
        a, b = self.i.a, self.i.b
        swap = named(m, "swap", a[:-1] < b[:-1])
        big, small = cut("ordered", big=Mux(swap, b, a), small=Mux(swap, a, b))
        big, small = named(m, "big", big), named(m, "small", small)
        x, y = unpack(m, big, FP32, "x"), unpack(m, small, FP32, "y")
        subtract = named(m, "subtract", x.sign ^ y.sign)
        nan = x.is_nan | y.is_nan | (x.is_inf & y.is_inf & subtract)
        distance = named(m, "distance", (x.exponent - y.exponent)[:8])
        amount = named(m, "amount", Mux(distance[5:].any(), 31, distance)[:5])
        aligned, sticky = shift_right_sticky(m, Cat(Const(0, 2), y.significand), amount)
        aligned = Cat(sticky, aligned)  # guard, round and sticky below the significand
        x_sig, aligned, exponent, x_sign, both_negative, subtract, inf, nan = cut(
            "aligned",
            x_sig=x.significand,
            aligned=aligned,
            exponent=x.exponent,
            x_sign=x.sign,
            both_negative=x.sign & y.sign,
            subtract=subtract,
            inf=x.is_inf,
            nan=nan,
        )
        operand = named(m, "operand", aligned ^ subtract.replicate(len(aligned)), len(aligned))
        base = named(m, "base", Cat(Const(0, 3), x_sig))
        total = named(m, "total", (base + operand + subtract)[: len(base) + 1])
        # In a subtraction the carry out only says that the result is not negative, which is known.
        total = named(m, "sum_", Cat(total[:-1], total[-1] & ~subtract))
        total, exponent, x_sign, both_negative, inf, nan = cut(
            "added", total=total, exponent=exponent, x_sign=x_sign, both_negative=both_negative, inf=inf, nan=nan
        )
        # The top bit of `total` stands for exponent + 1; shifting by at most `exponent` keeps the field at 1 or more.
        left = named(m, "left", limited_leading_zeros(m, total, exponent))
        shifted = shift_left(m, total, left)
        sign = Mux(total.any(), x_sign, both_negative)
        shifted, field, sign, inf, nan = cut(
            "normal", shifted=shifted, field=(exponent - left)[:8], sign=sign, inf=inf, nan=nan
        )
        kept = shifted[-FP32.precision :]
        guard = shifted[-FP32.precision - 1]
        up = named(m, "up", guard & (kept[0] | shifted[: -FP32.precision - 1].any()))
        field = field & kept[-1].replicate(8)  # without a hidden bit the result is subnormal or 0
        rounded = named(m, "rounded", (Cat(Const(0, FP32.fraction_bits), field) + kept + up)[: FP32.width - 1])
        overflow = rounded[FP32.fraction_bits :].all()
        magnitude = Mux(inf | overflow, FP32.inf, rounded)[: FP32.width - 1]
        (y_out,) = cut("out", y=Mux(nan, FP32.nan, Cat(magnitude, sign)))
        m.d.comb += self.o.y.eq(y_out)


class FpAdd(StreamUnit):
    """FP32 addition: ``y = RNE(a + b)``, gradual underflow, policy of :mod:`pimspec.formats`.

    Latency ``params.depth`` cycles, interval 1. Golden: :func:`pimspec.golden.fp_add.fp_add`.

    Parameters
    ----------
    params : FpAddParams

    Members
    -------
    i : In(stream): a, b (32)
    o : Out(stream): y (32)

    Raises
    ------
    ParameterError
        From :class:`FpAddParams`.
    """

    CORE = FpAddCore
