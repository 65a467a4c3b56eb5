"""External oracle: Berkeley TestFloat's vectors against the RTL, where `testfloat_gen` is on the path.

Built for RISC-V semantics, whose default NaN is the canonical one, TestFloat expects the unit's bits for every operand.
"""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from pimhw.generate import unit_verilog
from pimsim.verify import compare
from pimsim.verilated import VerilatedUnit
from pimspec.formats import BF16, FP16, FP32
from pimspec.params.arith import FpAddParams, FpMulParams, FpNarrowParams

HEX = np.full(256, 255, dtype=np.uint8)
HEX[np.frombuffer(b"0123456789ABCDEF", dtype=np.uint8)] = np.arange(16)

FUNCTIONS = [
    ("f32_add", FpAddParams(depth=2), 2),
    ("f32_mul", FpMulParams(format=FP32, depth=2), 2),
    ("f32_to_f16", FpNarrowParams(format=FP16), 1),
    ("f32_to_bf16", FpNarrowParams(format=BF16), 1),
]


def vectors(function: str, num_operands: int, result_digits: int, level: int):
    """Operand and result columns of testfloat_gen's fixed-width hexadecimal lines."""
    command = [shutil.which("testfloat_gen"), "-rnear_even", "-tininessafter", "-level", str(level), function]
    text = subprocess.run(command, capture_output=True, check=True).stdout
    digits = [8] * num_operands + [result_digits]
    table = HEX[np.frombuffer(text, dtype=np.uint8)].reshape(-1, sum(digits) + len(digits) + 3)
    columns, start = [], 0
    for count in digits:
        columns.append(sum(table[:, start + k].astype(np.int64) << 4 * (count - 1 - k) for k in range(count)))
        start += count + 1
    return columns


@pytest.mark.parametrize("level", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("function", "params", "num_operands"), FUNCTIONS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_rtl_agrees_with_testfloat(function, params, num_operands, level, count_vectors):
    if shutil.which("testfloat_gen") is None:
        pytest.skip("testfloat_gen (Berkeley TestFloat 3, SPECIALIZE_TYPE=RISCV) is not on the path")
    *operands, result = vectors(function, num_operands, params.outputs.width // 4, level)
    operands = dict(zip("ab", operands, strict=False))
    with VerilatedUnit(
        verilog=unit_verilog(params, "unit"), top="unit", inputs=params.inputs, outputs=params.outputs
    ) as unit:
        mismatches, message = compare(unit.run(operands).results, {"y": result}, operands=operands)
    assert mismatches == 0, message
    count_vectors(f"RTL against TestFloat {function} level {level}", len(result))
