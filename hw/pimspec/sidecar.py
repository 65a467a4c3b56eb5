"""JSON sidecar of a generated unit: its version, its content, and its conversion back to parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .errors import ParameterError
from .formats import FloatFormat, format_named
from .golden.units import kind_of, unit_kind
from .params.arith import UnitParams

__all__ = ["SIDECAR_VERSION", "params_from_sidecar", "unit_sidecar"]

SIDECAR_VERSION = 1


def unit_sidecar(params: UnitParams, name: str) -> dict[str, Any]:
    """Sidecar for users of one unit's Verilog: ports, payload fields, parameters, latency and interval."""
    ports: list[dict[str, Any]] = [
        {"name": "clk", "direction": "input", "width": 1},
        {"name": "rst", "direction": "input", "width": 1, "note": "synchronous, active high"},
    ]
    for stream, table, forward, backward in (
        ("i", params.inputs, "input", "output"),
        ("o", params.outputs, "output", "input"),
    ):
        ports += [
            {"name": f"{stream}__payload", "direction": forward, "width": table.width, "fields": table.describe()},
            {"name": f"{stream}__valid", "direction": forward, "width": 1},
            {"name": f"{stream}__ready", "direction": backward, "width": 1},
        ]
    values = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    return {
        "sidecar_version": SIDECAR_VERSION,
        "module": name,
        "unit": kind_of(params).name,
        "parameters": {n: v.name if isinstance(v, FloatFormat) else v for n, v in values.items()},
        "latency_cycles": params.latency_cycles,
        "interval_cycles": params.interval_cycles,
        "ports": ports,
    }


def params_from_sidecar(sidecar: Mapping[str, Any]) -> UnitParams:
    """Parameters from a sidecar of :func:`unit_sidecar`.

    Raises
    ------
    ParameterError
        If the version differs or a value is not allowed.
    UnknownNameError
        If the unit or a format does not exist.
    """
    if sidecar.get("sidecar_version") != SIDECAR_VERSION:
        raise ParameterError(f"sidecar_version must be {SIDECAR_VERSION}, not {sidecar.get('sidecar_version')!r}")
    values = dict(sidecar["parameters"])
    if "format" in values:
        values["format"] = format_named(values["format"])
    return unit_kind(sidecar["unit"]).params(**values)
