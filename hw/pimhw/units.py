"""Mapping from unit parameters to the component that implements them."""

from __future__ import annotations

from amaranth.lib import wiring

from pimspec.golden.units import kind_of
from pimspec.params.arith import UnitParams

from .arith.dot import Dot
from .arith.exp2 import Exp2
from .arith.fp_add import FpAdd
from .arith.fp_max import FpMax
from .arith.fp_mul import FpMul
from .arith.fp_narrow import FpNarrow
from .arith.reciprocal import Reciprocal

__all__ = ["COMPONENTS", "make_unit"]

COMPONENTS: dict[str, type[wiring.Component]] = {
    "fp_mul": FpMul,
    "fp_add": FpAdd,
    "fp_max": FpMax,
    "fp_narrow": FpNarrow,
    "exp2": Exp2,
    "reciprocal": Reciprocal,
    "dot": Dot,
}


def make_unit(params: UnitParams) -> wiring.Component:
    """Component for `params`."""
    return COMPONENTS[kind_of(params).name](params=params)
