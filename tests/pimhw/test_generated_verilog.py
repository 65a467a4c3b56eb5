"""Generated Verilog: lint-clean, latch-free, deterministic, and without traces of the machine."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimhw.generate import component_verilog, unit_verilog, write_unit
from pimhw.synthesis.yosys import synthesize
from pimsim.lint import lint_warnings
from pimsim.variants import PRESET_VARIANTS, UNIT_VARIANTS, variant_id
from pimspec.errors import ToolError
from pimspec.params.presets import PRESETS, preset_named

TINY_UNITS = preset_named("tiny").units
PRESET_UNITS = {
    (unit, params): f"{p.name}-{unit}" for p in reversed(PRESETS.values()) for unit, params in p.units.items()
}
"""Units of all presets, each with the name of one that has it."""


VARIANTS = [  # variants outside the presets run with the slow tests
    pytest.param(p, id=variant_id(p), marks=[] if p in PRESET_VARIANTS else pytest.mark.slow) for p in UNIT_VARIANTS
]


@pytest.mark.parametrize("params", VARIANTS)
def test_verilator_lint_is_silent(params, tmp_path):
    source, _ = write_unit(params, "unit", tmp_path)
    assert lint_warnings(source, "unit") == []


def test_lint_does_warn(tmp_path):
    source = tmp_path / "bad.v"
    source.write_text("module bad(input [3:0] a, output [7:0] y); assign y = a; endmodule\n")
    assert any("WIDTHEXPAND" in w for w in lint_warnings(source, "bad"))


@pytest.mark.parametrize(("unit", "params"), PRESET_UNITS, ids=PRESET_UNITS.values())
def test_text_is_deterministic_and_names_no_machine(unit, params, tmp_path):
    first = [p.read_bytes() for p in write_unit(params, unit, tmp_path / "a")]
    unit_verilog.cache_clear()
    second = [p.read_bytes() for p in write_unit(params, unit, tmp_path / "b")]
    assert first == second
    text = first[0].decode()
    assert str(Path.cwd()) not in text
    assert "site-packages" not in text
    assert not re.search(r'\(\* *src *=|\.py:\d+|"/|/home/|/root/', text)
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


@pytest.mark.parametrize("unit", TINY_UNITS)
def test_synthesis_infers_no_latch(unit):
    result = synthesize(unit_verilog(TINY_UNITS[unit], unit), unit)
    assert result.num_registers > 0
    assert result.area > 0
    assert result.path > 0


def test_a_latch_is_found():
    text = "module bad(input g, input d, output reg q); always @* if (g) q = d; endmodule\n"
    with pytest.raises(ToolError, match=r"(?i)(assert|selection)"):
        synthesize(text, "bad")


def test_sidecar_describes_the_ports_of_the_verilog(tmp_path):
    for unit, params in TINY_UNITS.items():
        source, sidecar = write_unit(params, unit, tmp_path)
        text, document = source.read_text(), json.loads(sidecar.read_text())
        top = text[text.index(f"module {unit}(") :]
        for port in document["ports"]:
            vector = rf"\[{port['width'] - 1}:0\] " if port["width"] > 1 else ""
            assert re.search(rf"^ +{port['direction']} {vector}{port['name']};", top, re.MULTILINE), port


class PartlyConstant(wiring.Component):
    """Output whose upper half is constant: Yosys writes it as a process that waits for nothing."""

    def __init__(self):
        super().__init__({"a": In(2), "o": Out(4)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.a[0]):
            m.d.comb += self.o[:2].eq(self.a)
        with m.Else():
            m.d.comb += self.o[0].eq(1)
        m.d.comb += self.o[2].eq(0)
        return m


def test_every_process_runs_at_time_0():
    """Verilator left a constant part of a register at the random value of its start, and Icarus at X."""
    text = component_verilog(PartlyConstant(), "partly")
    processes = re.findall(r"^  always @\*(.*?)\n(?=  \S|endmodule)", text, re.MULTILINE | re.DOTALL)
    waiting = [p for p in processes if "$evaluated" in p or re.search(r"= .*[A-Za-z_\\$]\w*", p)]
    assert len(processes) > 0
    assert waiting == processes
    assert text.count("initial \\$evaluated ") == 1
