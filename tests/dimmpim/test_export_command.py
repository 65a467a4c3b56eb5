"""`dimmpim export`: what LLMServingSim and Ramulator 2 would make of the files, and what it refuses."""

from __future__ import annotations

import json

import pytest

from dimmpim.cli import main
from dimmpim.exports.llmservingsim import fit_latency, fitted_line
from dimmpim.exports.ramulator import command_trace, request_trace
from dimmpim.ranks import open_timing
from pimhost.driver.decode_step import time_step
from pimsim.build_cache import build_root
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import TracedCommand, read_trace, write_trace
from pimspec.dram.commands import Command
from pimspec.errors import ParameterError
from pimspec.params.presets import preset_named

FULL = preset_named("ddr4-3200-x8-8gb")
ORGANIZATION = FULL.rank.organization
LLAMA = AttentionShape(num_q_heads=32, num_kv_heads=8, head_dim=128)
C = Command


def flat_config(text):
    """An INI file as ``load_flat_config`` of LLMServingSim reads it."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    pairs = (line.split("=", 1) for line in lines if line and line[0] not in "[;" and "=" in line)
    values = {}
    for key, value in pairs:
        assert key.strip() not in values, "sections are ignored: names must differ throughout"
        try:
            values[key.strip()] = float(value) if "." in value else int(value)
        except ValueError:
            values[key.strip()] = value.strip()
    return values


def llmservingsim_ns(coefficients, shape, tokens):
    """``estimate_with_linear`` with channel_split 1."""
    gqa_ratio = (shape.num_q_heads / shape.num_kv_heads) / (32 / 8)
    kv_scale = (shape.num_q_heads * shape.head_dim) / (32 * 128)
    return coefficients["slope"] * gqa_ratio * tokens + coefficients["intercept"] * kv_scale


def modelled_ns(shape, tokens):
    with open_timing(FULL.rank.for_shape(shape)) as sim:
        return time_step(sim, shape, tokens).ns


def export(tmp_path, *arguments):
    main(["export", "llmservingsim", "--preset", FULL.name, "--out", str(tmp_path / "DIMM_PIM.ini"), *arguments])
    return json.loads((tmp_path / "DIMM_PIM.json").read_text()), (tmp_path / "DIMM_PIM.ini").read_text()


def test_the_line():
    assert fitted_line([1, 2, 3], [5, 7, 9]) == (pytest.approx(2), pytest.approx(3))
    slope, intercept = fitted_line([0, 0, 2, 2], [0, 2, 4, 6])
    assert (slope, intercept) == (pytest.approx(2), pytest.approx(1)), "between the points, by hand"


def test_coefficients_and_their_errors(tmp_path):
    document, ini = export(tmp_path, "--tokens", "512,1024,4096,8192")
    coefficients = document["attn_model"]["DIMM_PIM"]
    assert f'# "DIMM_PIM": {json.dumps(coefficients)}' in ini
    assert [point["tokens"] for point in document["points"]] == [512, 1024, 4096, 8192]
    for point in document["points"]:
        assert point["ns"] == modelled_ns(LLAMA, point["tokens"])
        assert point["fitted_ns"] == pytest.approx(llmservingsim_ns(coefficients, LLAMA, point["tokens"]))
        assert point["relative_error"] == pytest.approx(point["fitted_ns"] / point["ns"] - 1)
    errors = [abs(point["relative_error"]) for point in document["points"]]
    assert document["max_relative_error"] == max(errors) < 0.2  # the bus holds short contexts up, which no line shows
    squares = [(point["fitted_ns"] - point["ns"]) ** 2 for point in document["points"]]
    assert document["rms_error_ns"] == pytest.approx((sum(squares) / 4) ** 0.5)
    residuals = [point["fitted_ns"] - point["ns"] for point in document["points"]]
    assert sum(residuals) == pytest.approx(0, abs=1), "least squares leaves no mean"


@pytest.mark.parametrize("shape", [(64, 8, 128), (8, 8, 128), (32, 4, 64)])
def test_other_shapes_come_back_through_its_scaling(shape):
    shape = AttentionShape(num_q_heads=shape[0], num_kv_heads=shape[1], head_dim=shape[2])
    fit = fit_latency(FULL, shape, tokens=(4096, 16_384))
    coefficients = {"slope": fit.slope, "intercept": fit.intercept}
    for tokens in (4096, 16_384):
        assert llmservingsim_ns(coefficients, shape, tokens) == pytest.approx(modelled_ns(shape, tokens), rel=1e-4)


def test_ranks_share_the_kv_heads():
    one, two = (fit_latency(FULL, LLAMA, ranks=ranks, tokens=(4096, 8192)) for ranks in (1, 2))
    half = AttentionShape(num_q_heads=16, num_kv_heads=4, head_dim=128)
    assert two.measured_ns == (modelled_ns(half, 4096), modelled_ns(half, 8192))
    assert two.slope == pytest.approx(one.slope / 2, rel=0.02)
    assert two.idle_mw == pytest.approx(2 * one.idle_mw)
    assert two.peak_mw == pytest.approx(2 * one.peak_mw, rel=0.02)


def test_the_ini_gives_capacity_bandwidth_and_power(tmp_path):
    _, ini = export(tmp_path, "--tokens", "512,1024", "--ranks", "2")
    c = flat_config(ini)
    banks = c["bankgroups"] * c["banks_per_group"]
    page = c["columns"] * c["device_width"] / 8
    megabytes = page * (c["rows"] / 1024) / 1024 * banks * c["bus_width"] / c["device_width"]
    assert c["channel_size"] == 2 * megabytes == 2 * 8192
    assert c["bus_width"] / 8 * c["data_rate"] / 1000 == 25.6
    assert c["CL"] * c["tCK"] == 13.75
    assert c["idle_power"] == round(16 * 37 * 1.2)
    assert c["idle_power"] < c["peak_power"] < 10_000


TRACE = [
    TracedCommand(0, C.ACT, 0, 1, 2, 517),
    TracedCommand(4, C.ACT, 0, 3, 0, 9),
    TracedCommand(30, C.RD, 0, 1, 2, None, 16),
    TracedCommand(40, C.PIM_WR_SB),
    TracedCommand(44, C.PIM_MAC, 0, 3, 0, None, 8, 3),
    TracedCommand(58, C.WR, 0, 1, 2, None, 1016),
    TracedCommand(120, C.PREpb, 0, 1, 2),
    TracedCommand(130, C.PREab),
    TracedCommand(152, C.REFab),
]


def test_requests_for_ramulator():
    made = request_trace(TRACE, ORGANIZATION)
    assert made.text == "R 0,0,1,2,517,2\nW 0,0,1,2,517,127\n"
    assert made.left_out == {C.ACT: 2, C.PIM_WR_SB: 1, C.PIM_MAC: 1, C.PREpb: 1, C.PREab: 1, C.REFab: 1}
    made = request_trace(TRACE, ORGANIZATION, mac_interval_ck=8)
    assert made.lines == (
        "R 0,0,1,2,517,2",
        "R 0,0,3,0,9,1",
        "R 0,0,3,0,9,2",
        "W 0,0,1,2,517,127",  # at CK 58: the accesses are at 44, 52 and 60
        "R 0,0,3,0,9,3",
    )
    assert C.PIM_MAC not in made.left_out


def test_a_mac_of_all_banks_reads_those_that_are_open():
    mac = TracedCommand(44, C.PIM_MAC, 0, None, None, None, 0)
    made = request_trace([*TRACE[:2], mac], ORGANIZATION, mac_interval_ck=8)
    assert made.lines == ("R 0,0,1,2,517,0", "R 0,0,3,0,9,0")


def test_commands_for_ramulator():
    made = command_trace(TRACE, ORGANIZATION)
    assert made.lines == (
        "clock,command,Channel,Rank,BankGroup,Bank,Row,Column,type,source",
        "0,ACT,0,0,1,2,517,-1,-1,-1",
        "4,ACT,0,0,3,0,9,-1,-1,-1",
        "30,RD,0,0,1,2,517,2,0,-1",
        "58,WR,0,0,1,2,517,127,1,-1",
        "120,PREpb,0,0,1,2,-1,-1,-1,-1",
        "130,PREab,0,0,-1,-1,-1,-1,-1,-1",
        "152,REFab,0,0,-1,-1,-1,-1,-1,-1",
    )
    assert made.left_out == {C.PIM_WR_SB: 1, C.PIM_MAC: 1}


def test_a_row_is_open_until_it_is_closed():
    read = TracedCommand(200, C.RD, 0, 3, 0, None, 0)
    request_trace([*TRACE[:7], read], ORGANIZATION)  # the other bank was closed
    for closed in (TRACE, [*TRACE[:3], TracedCommand(50, C.RDA, 0, 3, 0, None, 0)]):
        with pytest.raises(ParameterError, match=r"RD at CK 200 .* no row is open there"):
            request_trace([*closed, read], ORGANIZATION)


def test_attention_of_the_timing_model(tmp_path, capsys):
    trace, requests, commands = tmp_path / "c.csv", tmp_path / "r.trace", tmp_path / "r.csv"
    shape = ("--preset", "tiny", "--shape", "4,2,16,300", "--backend", "timing")
    main(["attention", *shape, "--trace-commands", str(trace)])
    given = read_trace(trace)
    tiny = ("export", "ramulator2", "--preset", "tiny", "--trace", str(trace))
    main([*tiny, "--mac-as-reads", "--out", str(requests)])
    lines = requests.read_text().splitlines()
    assert len(lines) == sum(command.count for command in given if command.command is C.PIM_MAC)
    assert len(set(lines)) == len(lines), "each 8 bytes of a chip are read once"
    main([*tiny, "--form", "commands", "--out", str(commands)])
    assert len(commands.read_text().splitlines()) == 1 + sum(not c.command.name.startswith("PIM") for c in given)
    assert "left out:" in capsys.readouterr().out


L, R = ("llmservingsim", "--preset", FULL.name), ("ramulator2", "--preset", FULL.name, "--trace")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("llmservingsim", "--preset", "huge", "--out", "A.ini"), "unknown preset 'huge'"),
        ((*L, "--out", "A.json"), "--out must be a file called SPEC.ini, not 'A.json'"),
        ((*L, "--out", "A.b.ini"), "--out must be named with letters, digits, _ and -, not 'A.b.ini'"),
        ((*L, "--out", "gone/A.ini"), "--out must be a file in a folder that exists"),
        ((*L, "--out", "A.ini", "--heads", "32,8"), "--heads must be three numbers: q_heads,kv_heads,head_dim"),
        ((*L, "--out", "A.ini", "--heads", "32,8,-1"), "--heads must be three numbers: q_heads,kv_heads,head_dim"),
        ((*L, "--out", "A.ini", "--heads", "32,7,128"), "num_q_heads must be a multiple of num_kv_heads"),
        ((*L, "--out", "A.ini", "--ranks", "3"), "--ranks must be a divisor of the 8 kv_heads, not 3"),
        ((*L, "--out", "A.ini", "--ranks", "0"), "Invalid value for '--ranks': 0 is not in the range 1<=x<=64"),
        ((*L, "--out", "A.ini", "--tokens", "512,512"), "--tokens must be two different numbers or more"),
        ((*L, "--out", "A.ini", "--tokens", "512,0"), "--tokens must be 1..1048576, not 0"),
        ((*L, "--out", "A.ini", "--tokens", "512,9999999999"), "--tokens must be 1..1048576, not 9999999999"),
        (("llmservingsim", "--preset", "ddr4-3200-x8-16gb", "--out", "A.ini"), "documented supply currents"),
        ((*R, "gone.csv", "--out", "r"), "gone.csv: cannot be read"),
        ((*R, "bad.csv", "--out", "r"), "bad.csv:2: number of fields must be 8, not 1"),
        ((*R, "c.csv", "--out", "gone/r"), "--out must be a file in a folder that exists"),
        ((*R, "pim.csv", "--out", "r"), "no RD or WR, and so no request; --mac-as-reads makes reads of PIM_MAC"),
        (
            (*R, "c.csv", "--out", "r", "--form", "commands", "--mac-as-reads"),
            "requires --form requests",
        ),
        ((*R, "wide.csv", "--out", "r"), "row of ACT at CK 0 (rank 0, bank_group 1, bank 2, row 65536) must be below"),
        ((*R, "long.csv", "--out", "r"), "count 2): the last access must be below column 1024"),
        ((*R, "late.csv", "--out", "r"), "no row is open there, so its address is not known"),
        (("ramulator2", "--preset", "ddr5-4800-x8-16gb", "--trace", "c.csv", "--out", "r"), "must be ddr4, not 'ddr5'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIMMPIM_BUILD_DIR", str(build_root()))
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "c.csv", TRACE)
    write_trace(tmp_path / "pim.csv", [TRACE[1], TRACE[4]])
    write_trace(tmp_path / "late.csv", TRACE[2:])
    write_trace(tmp_path / "wide.csv", [TracedCommand(0, C.ACT, 0, 1, 2, 65_536)])
    write_trace(tmp_path / "long.csv", [TRACE[1], TracedCommand(44, C.PIM_MAC, 0, 3, 0, None, 1016, 2)])
    (tmp_path / "bad.csv").write_text("ck,command,rank,bank_group,bank,row,column,count\nACT\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert text in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
