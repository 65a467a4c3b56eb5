"""Comparison of hardware results with the golden model, with a failure text that can be acted upon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimspec.golden.units import kind_of
from pimspec.params.arith import UnitParams

from .stimulus import stimulus
from .verilated import VerilatedUnit

__all__ = ["UnitCheck", "check_unit", "compare", "expected_results"]

Columns = Mapping[str, NDArray[np.int64]]


def _show(columns: Columns, index: int) -> str:
    def word(value: object) -> str:
        return "[" + " ".join(map(word, value)) + "]" if isinstance(value, np.ndarray) else f"{value:#x} ({value})"

    return ", ".join(f"{name}={word(values[index])}" for name, values in columns.items())


def compare(got: Columns, expected: Columns, *, operands: Columns | None = None, seed: int = 0) -> tuple[int, str]:
    """Number of differing rows, and a text that shows the first with seed, index, hex and decimal (empty if none).

    `operands` are shown beside the result where the unit delivers one result per operand set.
    """
    rows = len(next(iter(expected.values())))
    bad = np.zeros(rows, dtype=bool)
    for name, values in expected.items():
        if got[name].shape != values.shape:
            return rows, f"seed {seed}: field {name!r} has shape {got[name].shape}, expected {values.shape}"
        bad |= (got[name] != values).reshape(rows, -1).any(axis=1)
    if not bad.any():
        return 0, ""
    index = int(np.argmax(bad))
    text = f"seed {seed}, result {index}: got {_show(got, index)}; expected {_show(expected, index)}"
    if operands is not None and len(next(iter(operands.values()))) == rows:
        text += f"; operands {_show(operands, index)}"
    return int(bad.sum()), f"{int(bad.sum())} of {rows} results differ; {text}"


def expected_results(params: UnitParams, operands: Columns) -> dict[str, NDArray[np.int64]]:
    """Results of the unit's golden model for `operands`, as int64 arrays."""
    results = kind_of(params).golden(params, operands)
    return {name: np.asarray(values, dtype=np.int64) for name, values in results.items()}


@dataclass(frozen=True, kw_only=True)
class UnitCheck:
    """Outcome of one run of a unit against its golden model."""

    num_operand_sets: int
    num_results: int
    num_mismatches: int
    message: str
    num_cycles: int


def check_unit(
    verilog: str, top: str, params: UnitParams, *, count: int, seed: int, idle: float = 0.0, refuse: float = 0.0
) -> UnitCheck:
    """Comparison of `count` seeded operand sets through the Verilated unit with the golden model."""
    operands = stimulus(params, count, seed)
    expected = expected_results(params, operands)
    num_results = len(next(iter(expected.values())))
    with VerilatedUnit(verilog=verilog, top=top, inputs=params.inputs, outputs=params.outputs) as unit:
        run = unit.run(operands, num_results, idle=idle, refuse=refuse, seed=seed)
    mismatches, message = compare(run.results, expected, operands=operands, seed=seed)
    return UnitCheck(
        num_operand_sets=count,
        num_results=num_results,
        num_mismatches=mismatches,
        message=message,
        num_cycles=int(run.delivered_at[-1] - run.accepted_at[0]) + 1,
    )
