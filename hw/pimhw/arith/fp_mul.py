"""Floating-point multiplier: two FP16, BF16 or FP32 numbers into FP32."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Value

from pimspec.formats import FP16, FP32
from pimspec.params.arith import FpMulParams

from ..pipeline import Cuts, PipelinedCore, StreamUnit
from .bits import leading_zeros, limited_leading_zeros, named, shift_left, shift_right_sticky, unpack

__all__ = ["FpMul", "FpMulCore"]


class _Tail(NamedTuple):
    """Values that cross the cut behind the multiplier array."""

    exponent: Value  # biased FP32 exponent that the top bit of `product` stands for
    product: Value
    sign: Value
    inf: Value
    nan: Value


class FpMulCore(PipelinedCore):
    """Datapath of :class:`FpMul`.

    FP16 needs neither a rounder nor a subnormal or overflow path at its output: the product of two FP16 numbers has at
    most 22 significand bits and a magnitude of 0 or 2**-48..2**32 (``tests/pimspec/golden/test_fp_mul.py`` proves it by
    exhaustion). BF16 rounds only where the result is subnormal; FP32 rounds everywhere.
    """

    def cuts_for(self, params: FpMulParams) -> tuple[str, ...]:
        if params.format == FP16:
            order = {1: ("out",), 2: ("product", "out"), 3: ("operands", "product", "out")}
        else:
            order = {
                1: ("out",),
                2: ("product", "out"),
                3: ("product", "shifted", "out"),
                4: ("operands", "product", "shifted", "out"),
            }
        return order[params.depth]

    def datapath(self, m: Module, cut: Cuts) -> None:
        format = self.params.format
        a, b = cut("operands", a=self.i.a, b=self.i.b)
        x, y = unpack(m, a, format, "a"), unpack(m, b, format, "b")
        inf = named(m, "inf", x.is_inf | y.is_inf)
        any_zero = ~x.significand.any() | ~y.significand.any()
        nan = named(m, "nan", x.is_nan | y.is_nan | (inf & any_zero))
        # Biased FP32 exponent that the top bit of the product stands for.
        exponent = x.exponent + y.exponent + (FP32.bias + 1 - 2 * format.bias)
        sign, inf, nan, exponent, product = cut(
            "product", sign=x.sign ^ y.sign, inf=inf, nan=nan, exponent=exponent, product=x.significand * y.significand
        )
        tail = _Tail(exponent=exponent, product=product, sign=sign, inf=inf, nan=nan)
        (y_out,) = cut("out", y=self._exact(m, tail) if format == FP16 else self._rounded(m, cut, tail))
        m.d.comb += self.o.y.eq(y_out)

    def _exact(self, m: Module, t: _Tail) -> Value:
        product = t.product
        zeros = named(m, "zeros", leading_zeros(m, product))
        significand = shift_left(m, product, zeros[:5])
        field = named(m, "field", (t.exponent - zeros)[: FP32.exponent_bits])
        fraction = Cat(Const(0, FP32.precision - len(product)), significand[:-1])
        finite = Mux(significand[-1], Cat(fraction, field), 0)
        return _special(finite, t.sign, t.inf, t.nan)

    def _rounded(self, m: Module, cut: Cuts, t: _Tail) -> Value:
        exponent, product = t.exponent, t.product
        width = max(len(product), FP32.precision + 2)
        wide = named(m, "wide", Cat(Const(0, width - len(product)), product))
        normal = named(m, "normal", exponent >= 1)
        field = named(m, "field", Mux(normal, exponent - 1, 0)[:9])  # exponent field less one, before shifting
        left = named(m, "left", limited_leading_zeros(m, wide, field))
        deficit = named(m, "deficit", Mux(normal, 0, 1 - exponent)[:8])
        right = named(m, "right", Mux(deficit[5:].any(), 31, deficit)[:5])
        grown = shift_left(m, wide, left)
        shrunk, sticky = shift_right_sticky(m, grown, right)
        field, shrunk, sticky, sign, inf, nan = cut(
            "shifted", field=(field - left)[:9], shrunk=shrunk, sticky=sticky, sign=t.sign, inf=t.inf, nan=t.nan
        )
        kept = shrunk[-FP32.precision :]
        guard = shrunk[-FP32.precision - 1]
        up = named(m, "up", guard & (kept[0] | shrunk[: -FP32.precision - 1].any() | sticky))
        field = field & kept[-1].replicate(9)  # without a hidden bit the result is subnormal or 0
        # The hidden bit adds one to the exponent field, a carry out of rounding another.
        total = named(m, "total", Cat(Const(0, FP32.fraction_bits), field) + kept + up)
        overflow = named(m, "overflow", total[FP32.fraction_bits :] >= FP32.exponent_max_field)
        return _special(total[: FP32.width - 1], sign, inf | overflow, nan)


def _special(finite: Value, sign: Value, inf: Value, nan: Value) -> Value:
    """Result word: canonical NaN over infinity over the finite magnitude."""
    return Mux(nan, FP32.nan, Cat(Mux(inf, FP32.inf, finite)[: FP32.width - 1], sign))


class FpMul(StreamUnit):
    """Multiplier of two numbers of ``params.format`` into FP32: ``y = RNE_fp32(a * b)``.

    Exact for FP16; for BF16 exact unless the product leaves FP32's normal range; FP32 rounds once. Special values and
    rounding follow the policy of :mod:`pimspec.formats`. Latency ``params.depth`` cycles, interval 1. Golden:
    :func:`pimspec.golden.fp_mul.fp_mul`.

    Parameters
    ----------
    params : FpMulParams

    Members
    -------
    i : In(stream): a, b (format width)
    o : Out(stream): y (32)

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`FpMulParams`.
    """

    CORE = FpMulCore
