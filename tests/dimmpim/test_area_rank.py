"""`dimmpim area --rank`: every unit of a rank's chips through synthesis, with totals and published areas."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from dimmpim.cli import cli, main
from dimmpim.ranks import rank_verilog_modules
from dimmpim.studies.rank_area import RANK_PU, ChipUnit, RankArea, comparison
from pimhw.synthesis.units import rank_units
from pimhw.synthesis.yosys import synthesize_unit
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank.with_dpa()


def _area(path, *arguments):
    result = CliRunner().invoke(cli, ["area", "--rank", *arguments, "--json", str(path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output, json.loads(path.read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return _area(tmp_path_factory.mktemp("area") / "area.json", "--preset", "tiny")


def test_every_unit_of_a_rank_has_area_registers_memory_bits_and_path(tiny):
    output, figures = tiny
    units = {unit["name"]: unit for unit in figures["units"]}
    assert len(units) == len(figures["units"])
    assert {"bank_pu", "rest of pim_chip", "dpa", "host_port", "engine", *RANK_PU} < set(units)
    assert units["bank_pu"]["count"] == units["shadow"]["count"] == TINY.num_banks
    for name, unit in units.items():
        assert unit["area"] > 50, name
        assert unit["path"] > 5, name
        assert unit["exceeds_clock"] is None
        assert re.search(rf"{name} .* {unit['count']} .* {unit['area']:,.0f} ", output), name
    # bits that follow from the parameters: two slots of scores, and the words of the operand buffers
    p = TINY.softmax
    scores = p.num_rows * p.lanes * p.queries_per_line * 32
    assert units["softmax"]["memory_bits"] > scores
    assert units["softmax"]["memory_bits"] - scores == p.stats_entries * (
        2 * 32 * p.queries_per_line + 1 + p.group_line_bits
    )
    word = TINY.queries_at_once * TINY.lanes * TINY.format.width
    assert units["bank_pu"]["memory_bits"] == TINY.bank_pu.operand_words * word


def test_totals_of_a_rank_are_those_of_its_units(tiny):
    output, figures = tiny
    totals = figures["totals"]
    for what in ("area", "registers", "memory_bits"):
        for chip in ("pim_chip", "buffer_chip"):
            parts = [unit["count"] * unit[what] for unit in figures["units"] if unit["chip"] == chip]
            assert totals[chip][what] == pytest.approx(sum(parts))
        assert totals["rank"][what] == pytest.approx(
            TINY.num_chips * totals["pim_chip"][what] + totals["buffer_chip"][what]
        )
    assert f"{totals['rank']['area']:,.0f}" in output
    assert 100_000 < totals["pim_chip"]["area"] < totals["rank"]["area"]
    ratio = re.search(r"DPA controller over rank PU: (\d\.\d+)", output)
    assert ratio
    assert float(ratio[1]) == pytest.approx(figures["dpa_over_rank_pu"], abs=1e-3)


MODULE = re.compile(r"^module (\S+) ?\(", re.MULTILINE)


@pytest.mark.parametrize("chip", ["pim_chip", "buffer_chip"])
def test_every_module_of_a_chip_is_in_a_unit_and_every_part_is_counted(chip):
    modules = rank_verilog_modules(TINY)
    text = modules[chip] + (modules["bank_pu"] if chip == "pim_chip" else "")
    units = [unit for unit in rank_units(modules) if unit.chip == chip]
    assert {name for unit in units for name in MODULE.findall(unit.verilog)} == set(MODULE.findall(text))
    rest = units[-1]
    assert rest.top == chip
    for unit in units[:-1]:
        instances = re.findall(rf"^  {re.escape(unit.top)} +\S+ +\($", text, re.MULTILINE)
        assert len(instances) == unit.count
        assert unit.top not in MODULE.findall(rest.verilog)
        assert unit.top in MODULE.findall(rest.black_boxes)


MEMORIES = """
module top(input clk, input we, input [5:0] a, input [63:0] d, output reg [63:0] deep, output reg [63:0] wide,
           output reg [31:0] few);
  reg [63:0] m0 [0:63]; reg [63:0] m1 [0:15]; reg [31:0] m2 [0:15];
  always @(posedge clk) begin
    if (we) begin m0[a] <= d; m1[a[3:0]] <= ~d; m2[a[3:0]] <= d[31:0]; end
    deep <= m0[a]; wide <= m1[a[3:0]]; few <= m2[a[3:0]];
  end
endmodule
"""


def test_large_memories_are_bits_and_small_ones_are_registers():
    figures = synthesize_unit(MEMORIES, "top")
    assert figures.memory_bits == 64 * 64 + 16 * 64
    assert figures.num_registers >= 16 * 32 + 32
    assert figures.path > 0


def test_what_is_longer_than_a_clock_is_told():
    units = [
        ChipUnit(chip="pim_chip", name="bank_pu", count=16, area=20_000, registers=1, memory_bits=8, path=2.4),
        ChipUnit(chip="buffer_chip", name="dpa", count=1, area=1, registers=1, memory_bits=8, path=2.6),
    ]
    area = RankArea(preset="p", library="x.lib", node_nm=45, num_chips=8, clock_ns=2.5, units=units)
    assert [area.exceeds_clock(unit) for unit in units] == [False, True]
    assert area.totals()["rank"] == {"area": 8 * 16 * 20_000 + 1, "registers": 8 * 16 + 1, "memory_bits": 8 * 128 + 8}


def test_published_areas_stand_beside_ours_in_both_conventions():
    units = [ChipUnit(chip="pim_chip", name="bank_pu", count=16, area=20_000, registers=1, memory_bits=8, path=2.4)]
    area = RankArea(preset="p", library="x.lib", node_nm=45, num_chips=8, clock_ns=2.5, units=units)
    chime, attacc, buffer, pam = comparison(area)
    assert chime["dram_mm2"] == pytest.approx({"CHIME": 0.0064, "AttAcc": 0.032})
    assert chime["ours_logic_mm2"] == pytest.approx(0.02 * 28 / 45)
    assert chime["ours_dram_mm2"]["CHIME"] == pytest.approx(2 * 0.02 * 28 / 45)
    assert attacc["dram_mm2"]["AttAcc"] == pytest.approx(0.094)
    assert attacc["ours_logic_mm2"] == pytest.approx(0.02 * 7 / 45)
    assert buffer["ours_memory_bits"] == 16 * 8
    assert pam["share_of_die"] == 0.0504
    assert pam["ours_share_of_die"]["AttAcc"] == pytest.approx(10 * 16 * 0.02 * 28 / 45 / 76.22)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rank",), "--rank requires --preset"),
        (("--rank", "--preset", "nope"), "unknown preset 'nope'"),
        (("--rank", "--preset", "tiny", "--node", "28"), "--node requires --rank and --liberty"),
        (("--rank", "--preset", "tiny", "--node", "0"), "is not in the range"),
        (("--rank", "--preset", "tiny", "--liberty", "noise.lib"), "a Liberty file with cells"),
    ],
)
def test_bad_options_are_refused_before_the_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.lib").write_text("nothing of a library")
    with pytest.raises(SystemExit) as ending:
        main(["area", *arguments])
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_units_of_a_full_rank_have_the_area_of_their_lanes(tmp_path, tiny):
    _, figures = _area(tmp_path / "area.json", "--preset", "ddr4-3200-x8-8gb")
    units = {unit["name"]: unit for unit in figures["units"]}
    small = {unit["name"]: unit for unit in tiny[1]["units"]}
    assert figures["num_chips"] == 8
    assert units["bank_pu"]["count"] == 16
    assert units["softmax"]["area"] > small["softmax"]["area"]  # 8 tokens of one query instead of 2 of two
    assert units["reducer"]["area"] > small["reducer"]["area"]
