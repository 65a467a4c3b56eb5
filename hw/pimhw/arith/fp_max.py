"""FP32 comparator and maximum."""

from __future__ import annotations

from amaranth.hdl import Module, Mux

from pimspec.formats import FP32
from pimspec.params.arith import FpMaxParams

from ..pipeline import Cuts, PipelinedCore, StreamUnit
from .bits import named

__all__ = ["FpMax", "FpMaxCore"]


class FpMaxCore(PipelinedCore):
    """Datapath of :class:`FpMax`: one magnitude comparator."""

    def cuts_for(self, params: FpMaxParams) -> tuple[str, ...]:
        return {1: ("out",), 2: ("compared", "out")}[params.depth]

    def datapath(self, m: Module, cut: Cuts) -> None:
        a, b = self.i.a, self.i.b
        mag_a, mag_b = a[:-1], b[:-1]
        below = named(m, "below", mag_a < mag_b)
        same = named(m, "same", mag_a == mag_b)
        a, b, below, same, zeros, unordered = cut(
            "compared",
            a=a,
            b=b,
            below=below,
            same=same,
            zeros=~(mag_a.any() | mag_b.any()),
            unordered=(mag_a > FP32.inf) | (mag_b > FP32.inf),
        )
        # As sign-magnitude integers -0 lies below +0, which is the order that maximum asks for.
        take_b = named(m, "take_b", Mux(a[-1], ~b[-1] | (~below & ~same), ~b[-1] & below))
        equal = named(m, "equal", ~unordered & ((same & (a[-1] == b[-1])) | zeros))
        y, less, equal, unordered = cut(
            "out",
            y=Mux(unordered, FP32.nan, Mux(take_b, b, a)),
            less=take_b & ~unordered & ~equal,
            equal=equal,
            unordered=unordered,
        )
        m.d.comb += [self.o.y.eq(y), self.o.less.eq(less), self.o.equal.eq(equal), self.o.unordered.eq(unordered)]


class FpMax(StreamUnit):
    """FP32 ``maximum`` of IEEE 754-2019 (NaN if either is NaN, +0 over -0), with a < b, a == b and unordered.

    Latency ``params.depth`` cycles, interval 1. Golden: :func:`pimspec.golden.fp_max.fp_max`.

    Parameters
    ----------
    params : FpMaxParams

    Members
    -------
    i : In(stream): a, b (32)
    o : Out(stream): y (32), less (1), equal (1), unordered (1)

    Raises
    ------
    ParameterError
        From :class:`FpMaxParams`.
    """

    CORE = FpMaxCore
