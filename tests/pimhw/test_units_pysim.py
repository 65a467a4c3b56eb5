"""Every kind of unit under Amaranth's own simulator, before Verilog is generated."""

from __future__ import annotations

import pytest

from pimhw.pipeline import layout_of
from pimhw.units import COMPONENTS, make_unit
from pimsim.pysim import run_pysim
from pimsim.stimulus import stimulus
from pimsim.variants import UNIT_VARIANTS, variant_id
from pimsim.verify import compare, expected_results
from pimspec.golden.units import UNIT_KINDS
from pimspec.params.presets import preset_named


@pytest.mark.parametrize(("idle", "refuse"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.4, 0.4)])
@pytest.mark.parametrize("name", preset_named("tiny").units)
def test_pysim_equals_golden(name, idle, refuse, count_vectors):
    params = preset_named("tiny").unit(name)
    count = 60 if name == "reciprocal" else 200
    operands = stimulus(params, 3000, seed=11)
    operands = {field: values[-count:].copy() for field, values in operands.items()}
    if name == "dot":
        operands["first"][0] = operands["last"][-1] = 1
    expected = expected_results(params, operands)
    num_results = len(next(iter(expected.values())))
    run = run_pysim(make_unit(params), params, operands, num_results, idle=idle, refuse=refuse, seed=11)
    mismatches, message = compare(run.results, expected, operands=operands, seed=11)
    assert mismatches == 0, message
    count_vectors("RTL in pysim", count)


@pytest.mark.parametrize("params", UNIT_VARIANTS, ids=variant_id)
def test_hardware_layout_is_the_contracts(params):
    unit = make_unit(params)
    for port, table in ((unit.i, params.inputs), (unit.o, params.outputs)):
        layout = layout_of(table)
        assert port.payload.shape() == layout
        for row in table.describe():
            assert layout[row["name"]].offset == row["offset"]
        assert layout.size == table.width


def test_every_kind_has_hardware():
    assert COMPONENTS.keys() == UNIT_KINDS.keys()
