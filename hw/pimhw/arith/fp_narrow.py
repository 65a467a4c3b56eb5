"""Floating-point narrowing: FP32 to FP16 or BF16."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux

from pimspec.formats import FP32
from pimspec.params.arith import FpNarrowParams

from ..pipeline import Cuts, PipelinedCore, StreamUnit
from .bits import named, shift_right_sticky, unpack

__all__ = ["FpNarrow", "FpNarrowCore"]


class FpNarrowCore(PipelinedCore):
    """Datapath of :class:`FpNarrow`.

    BF16 has the exponent range of FP32, so its subnormals line up and no shifter is spent. Every FP32 subnormal lies
    below half of FP16's smallest subnormal, so FP16 needs only the right shift.
    """

    def cuts_for(self, params: FpNarrowParams) -> tuple[str, ...]:
        return {1: ("out",), 2: ("shifted", "out")}[params.depth]

    def datapath(self, m: Module, cut: Cuts) -> None:
        format = self.params.format
        x = unpack(m, self.i.a, FP32, "a")
        drop = FP32.fraction_bits - format.fraction_bits
        overflow, sticky = Const(0, 1), Const(0, 1)
        if format.exponent_bits == FP32.exponent_bits:
            # Already aligned: the field less one and the hidden bit add up to the FP32 field again.
            field, significand = self.i.a[FP32.fraction_bits : -1], Cat(x.significand[:-1], Const(0, 1))
        else:
            rebias = FP32.bias - format.bias
            normal = named(m, "normal", x.exponent > rebias)
            deficit = named(m, "deficit", Mux(normal, 0, rebias + 1 - x.exponent)[:8])
            amount = named(m, "amount", Mux(deficit[4:].any(), 15, deficit)[:4])
            significand, sticky = shift_right_sticky(m, x.significand, amount)
            field = named(m, "field", Mux(normal, x.exponent - rebias - 1, 0)[:8])
            overflow = field >= format.exponent_max_field
        field, significand, sticky, sign, inf, nan = cut(
            "shifted",
            field=field,
            significand=significand,
            sticky=sticky,
            sign=x.sign,
            inf=x.is_inf | overflow,
            nan=x.is_nan,
        )
        kept, guard, rest = significand[drop:], significand[drop - 1], significand[: drop - 1]
        up = named(m, "up", guard & (kept[0] | rest.any() | sticky))
        total = named(m, "total", (Cat(Const(0, format.fraction_bits), field) + kept + up)[: format.width])
        inf = inf | (total[format.fraction_bits :] >= format.exponent_max_field)
        magnitude = Mux(inf, format.inf, total)[: format.width - 1]
        (y,) = cut("out", y=Mux(nan, format.nan, Cat(magnitude, sign)))
        m.d.comb += self.o.y.eq(y)


class FpNarrow(StreamUnit):
    """Rounding of FP32 to ``params.format``: ties to even, gradual underflow, overflow to infinity, canonical NaN.

    Latency ``params.depth`` cycles, interval 1. Golden: :func:`pimspec.golden.fp_narrow.fp_narrow`.

    Parameters
    ----------
    params : FpNarrowParams

    Members
    -------
    i : In(stream): a (32)
    o : Out(stream): y (format width)

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`FpNarrowParams`.
    """

    CORE = FpNarrowCore
