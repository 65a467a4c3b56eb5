"""CK of the CA pins: enough for every command of attention, whose traces come back from the pins."""

from __future__ import annotations

import pytest

from dimmpim.cli import main
from pimspec.dram.ca_encoding import decode_stream, encode_stream, occupied_cks
from pimspec.dram.ca_tables import ca_table
from pimspec.dram.command_trace import read_trace
from pimspec.dram.commands import PIM_COMMANDS, Command
from pimspec.dram.timing import DramStandard
from pimspec.params.presets import preset_named

SHAPES = {
    "tiny": "4,2,16,600",
    "ddr4-3200-x8-8gb": "4,4,128,8192",
    "ddr4-3200-x8-8gb-gqa8": "16,2,128,8192",
    "ddr4-3200-x8-8gb-relaxed": "4,4,128,8192",
    "ddr4-3200-x8-16gb": "4,4,128,8192",
    "ddr5-4800-x8-16gb": "4,4,256,8192",
}
"""All presets but that of BF16, whose commands are those of FP16."""
DENSER = (("ddr4-3200-x8-8gb-gqa8", ("--bus-tccd", "short")), ("ddr5-4800-x8-16gb", ("--bus-tccd", "short")))
RUNS = [*((name, ()) for name in SHAPES), *DENSER]


def attention_trace(preset, options, path):
    """Commands of a decode step by the timing model."""
    step = ("--preset", preset, "--shape", SHAPES[preset], "--backend", "timing")
    main(["attention", *step, *options, "--trace-commands", str(path)])
    return read_trace(path)


def pin_fields(org, traced):
    """Fields of a traced command that pins carry; a column access is given by its number.

    A trace does not say which bursts are resumed: those that do not start at column 0.
    """
    found = {name: getattr(traced, name) for name in ("bank_group", "bank", "row") if getattr(traced, name) is not None}
    if traced.column is not None:
        found["column"] = traced.column // org.burst_length
    if traced.command is Command.PIM_MAC:
        found |= {"count": traced.count, "resume": int(found["column"] != 0)}
    widths = ca_table(org.standard).widths(traced.command)
    return {name: value for name, value in found.items() if name in widths}


@pytest.mark.parametrize(("preset", "options"), RUNS, ids=lambda x: "-".join(x).strip("-") if x else "")
def test_no_two_commands_of_attention_need_one_ck(preset, options, tmp_path, capsys):
    """The CK after each PIM command of DDR4, and that before each command of two cycles of DDR5, is free."""
    org = preset_named(preset).rank.organization
    trace = attention_trace(preset, options, tmp_path / "commands.csv")
    capsys.readouterr()
    free, second_cycles = 0, 0
    for traced in trace:
        cks = occupied_cks(org.standard, traced.ck, traced.command)
        assert cks.start >= free, f"{traced}: CK {cks.start} has the last cycle of the command before"
        free, second_cycles = cks.stop, second_cycles + len(cks) - 1
    counts = {command: sum(traced.command is command for traced in trace) for command in PIM_COMMANDS}
    assert all(counts[c] > 50 for c in (Command.PIM_MAC, Command.PIM_WR_SB, Command.PIM_RD_RB)), counts
    if org.standard is DramStandard.DDR4:
        assert second_cycles == sum(counts.values())


@pytest.mark.parametrize("preset", ["ddr4-3200-x8-8gb", "ddr5-4800-x8-16gb"])
def test_a_trace_comes_back_from_the_pins(preset, tmp_path, capsys):
    """With the fields that a trace has: those of bus commands for the bank PU are not among them."""
    org = preset_named(preset).rank.organization
    trace = attention_trace(preset, (), tmp_path / "commands.csv")
    capsys.readouterr()
    start = trace[0].ck - 1
    stream = [(traced.ck - start, traced.command, pin_fields(org, traced)) for traced in trace]
    seen = decode_stream(org.standard, encode_stream(org.standard, stream, stream[-1][0] + 2))
    assert seen.unknown == []
    assert [(ck, command) for ck, command, _ in seen.commands] == [(ck, command) for ck, command, _ in stream]
    for given, got in zip(stream, seen.commands, strict=True):
        assert got[2].items() >= given[2].items(), f"{given}, {got}"
    assert any(fields.get("resume") for _, _, fields in stream)
