"""Every unit as generated Verilog, under Verilator, against its golden model on a million operand sets or more."""

from __future__ import annotations

import numpy as np
import pytest

from pimhw.generate import unit_verilog
from pimsim.stimulus import stimulus
from pimsim.variants import PRESET_VARIANTS, UNIT_VARIANTS, variant_id
from pimsim.verify import check_unit, compare, expected_results
from pimsim.verilated import VerilatedUnit
from pimspec.formats import FP16
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.golden.units import UNIT_KINDS, kind_of
from pimspec.params.arith import DotParams, FpMulParams

MILLION = 1_000_000
BLOCK = 400_000
VARIANTS = [  # variants outside the presets run with the slow tests
    pytest.param(p, id=variant_id(p), marks=[] if p in PRESET_VARIANTS else pytest.mark.slow) for p in UNIT_VARIANTS
]


def blocks_for(params):
    """(operand sets, idle, refuse) of each block: no stall, idle, backpressure, both."""
    heavy = isinstance(params, DotParams) and params.lanes > 8
    free = [(BLOCK, 0.0, 0.0)] * (1 if heavy else 2)
    return [*free, (BLOCK // 4, 0.3, 0.0), (BLOCK // 4, 0.0, 0.3), (BLOCK // 4, 0.3, 0.3)]


@pytest.mark.parametrize("params", VARIANTS)
def test_rtl_equals_golden(params, count_vectors):
    """Each block has another seed, and begins with all corners."""
    verilog = unit_verilog(params, "unit")
    for seed, (count, idle, refuse) in enumerate(blocks_for(params)):
        check = check_unit(verilog, "unit", params, count=count, seed=seed, idle=idle, refuse=refuse)
        assert check.num_mismatches == 0, check.message
        count_vectors(f"RTL {kind_of(params).name} (Verilator)", count)


def test_each_kind_of_unit_gets_a_million():
    for kind in UNIT_KINDS.values():
        blocks = [block for p in PRESET_VARIANTS if kind_of(p) is kind for block in blocks_for(p)]
        assert sum(count for count, _, _ in blocks) >= MILLION, kind.name


@pytest.mark.parametrize("params", [v for v in VARIANTS if not isinstance(v.values[0], DotParams)])
def test_latency_and_interval_are_as_stated(params):
    with VerilatedUnit(
        verilog=unit_verilog(params, "unit"), top="unit", inputs=params.inputs, outputs=params.outputs
    ) as unit:
        run = unit.run(stimulus(params, 300, seed=0))
    np.testing.assert_array_equal(run.delivered_at - run.accepted_at, params.latency_cycles)
    np.testing.assert_array_equal(np.diff(run.accepted_at), params.interval_cycles)


@pytest.mark.parametrize("mode", [MODE_TREE, MODE_LANE])
@pytest.mark.parametrize("params", [v for v in VARIANTS if isinstance(v.values[0], DotParams)])
def test_dot_streams_without_bubbles(params, mode):
    """Within one mode an operand set is taken every `interval` cycles, also from one accumulation to the next."""
    operands = stimulus(params, 400, seed=3)
    operands["mode"] = np.full(400, mode)
    last = operands["last"] == 1
    with VerilatedUnit(
        verilog=unit_verilog(params, "unit"), top="unit", inputs=params.inputs, outputs=params.outputs
    ) as unit:
        run = unit.run(operands, int(last.sum()))
    expected = expected_results(params, operands)
    assert compare(run.results, expected)[0] == 0
    np.testing.assert_array_equal(np.diff(run.accepted_at), params.interval)
    latency = params.latency_cycles if mode == MODE_TREE else params.lane_latency_cycles
    np.testing.assert_array_equal(run.delivered_at - run.accepted_at[last], latency)


def test_fp16_multiply_rtl_on_every_fraction_pair(count_vectors):
    params = FpMulParams(format=FP16)
    fraction = np.arange(1024)
    a, b = (v.ravel() for v in np.meshgrid(fraction, fraction))
    with VerilatedUnit(
        verilog=unit_verilog(params, "unit"), top="unit", inputs=params.inputs, outputs=params.outputs
    ) as unit:
        for ea, eb in ((0, 0), (0, 17), (21, 9), (30, 30)):
            operands = {"a": a | (ea << 10) | 0x8000, "b": b | (eb << 10)}
            mismatches, message = compare(
                unit.run(operands).results, expected_results(params, operands), operands=operands
            )
            assert mismatches == 0, message
            count_vectors("RTL fp_mul (Verilator)", len(a))
