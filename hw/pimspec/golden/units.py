"""Arithmetic units by name: parameters, and the golden model in one uniform form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnknownNameError
from ..params.arith import (
    DotParams,
    Exp2Params,
    FpAddParams,
    FpMaxParams,
    FpMulParams,
    FpNarrowParams,
    ReciprocalParams,
    UnitParams,
)
from .dot import dot
from .exp2 import exp2
from .fp_add import fp_add
from .fp_max import fp_max
from .fp_mul import fp_mul
from .fp_narrow import fp_narrow
from .reciprocal import reciprocal

Operands = Mapping[str, NDArray[np.int64]]
Results = dict[str, NDArray[np.int64]]
GoldenModel = Callable[[Any, Operands], Results]


def _max(params: FpMaxParams, v: Operands) -> Results:
    return dict(zip(("y", "less", "equal", "unordered"), fp_max(v["a"], v["b"]), strict=True))


def _dot(params: DotParams, v: Operands) -> Results:
    y, mode = dot(v["a"], v["b"], v["mode"], v["first"], v["last"], params.format)
    return {"y": y, "mode": mode}


@dataclass(frozen=True, kw_only=True)
class UnitKind:
    """One kind of unit.

    Parameters
    ----------
    name : str
        Name of the unit's files: ``pimhw/arith/<name>.py`` and ``pimspec/golden/<name>.py``.
    params : type
        Parameter class of the unit.
    golden : callable
        ``golden(params, operands) -> results``: arrays by field name, in the order in which the unit takes operand sets
        and delivers results.
    """

    name: str
    params: type[UnitParams]
    golden: GoldenModel


UNIT_KINDS: dict[str, UnitKind] = {
    kind.name: kind
    for kind in (
        UnitKind(name="fp_mul", params=FpMulParams, golden=lambda p, v: {"y": fp_mul(v["a"], v["b"], p.format)}),
        UnitKind(name="fp_add", params=FpAddParams, golden=lambda p, v: {"y": fp_add(v["a"], v["b"])}),
        UnitKind(name="fp_max", params=FpMaxParams, golden=_max),
        UnitKind(name="fp_narrow", params=FpNarrowParams, golden=lambda p, v: {"y": fp_narrow(v["a"], p.format)}),
        UnitKind(name="exp2", params=Exp2Params, golden=lambda p, v: {"y": exp2(v["a"])}),
        UnitKind(name="reciprocal", params=ReciprocalParams, golden=lambda p, v: {"y": reciprocal(v["a"], p.format)}),
        UnitKind(name="dot", params=DotParams, golden=_dot),
    )
}


def unit_kind(name: str) -> UnitKind:
    """Unit kind of this name; raises :class:`UnknownNameError`."""
    try:
        return UNIT_KINDS[name]
    except KeyError:
        raise UnknownNameError("unit", name, UNIT_KINDS) from None


def kind_of(params: UnitParams) -> UnitKind:
    """Unit kind of these parameters."""
    return next(k for k in UNIT_KINDS.values() if k.params is type(params))
