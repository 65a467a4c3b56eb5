"""Trace files: exact text, round trips, and the texts of refusals."""

from __future__ import annotations

import os
import random

import pytest

from pimsim.legal_streams import legal_stream
from pimspec.dram.command_trace import (
    TRACE_FIELDS,
    TracedCommand,
    TraceStatistics,
    iter_trace,
    read_trace,
    write_trace,
)
from pimspec.dram.commands import COMMANDS, Command, CommandAddress
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError

HEADER = "ck,command,rank,bank_group,bank,row,column"
TRACE = [
    TracedCommand(100, Command.ACT, 0, 1, 2, row=517),
    TracedCommand(122, Command.RD, 0, 1, 2, column=8),
    TracedCommand(123, Command.REFsb, 1, bank=3),
    TracedCommand(123, Command.REFab, 1),
    TracedCommand(130, Command.PIM_MAC, 0, 1, 2, column=0),
]
TEXT = f"{HEADER}\n100,ACT,0,1,2,517,\n122,RD,0,1,2,,8\n123,REFsb,1,,3,,\n123,REFab,1,,,,\n130,PIM_MAC,0,1,2,,0\n"


def test_the_file_follows_the_format(tmp_path):
    path = tmp_path / "trace.csv"
    write_trace(path, TRACE)
    assert path.read_bytes() == TEXT.encode()
    assert read_trace(path) == TRACE
    assert ",".join(TRACE_FIELDS) == HEADER


def test_count_has_its_own_field(tmp_path):
    path = tmp_path / "trace.csv"
    trace = [*TRACE, TracedCommand(200, Command.PIM_MAC, 1, column=16, count=64)]
    write_trace(path, trace)
    lines = path.read_text().splitlines()
    assert lines[0] == f"{HEADER},count"
    assert lines[1] == "100,ACT,0,1,2,517,,"
    assert lines[-2:] == ["130,PIM_MAC,0,1,2,,0,1", "200,PIM_MAC,1,,,,16,64"]
    assert read_trace(path) == trace
    path.write_text(f"{HEADER},count\n5,PIM_MAC,0,,,,0,\n")
    assert read_trace(path) == [TracedCommand(5, Command.PIM_MAC, column=0)]


@pytest.mark.parametrize("name", ["ddr4-3200-x8-8gb", "ddr5-4800-x8-16gb"])
def test_random_streams_survive_a_round_trip(name, tmp_path):
    trace = legal_stream(dram_preset(name), num_commands=600, rng=random.Random(3))
    assert {traced.command for traced in trace} >= {Command.ACT, Command.RD, Command.PIM_MAC, Command.PIM_WR_R}
    write_trace(tmp_path / "a", iter(trace))
    assert list(iter_trace(tmp_path / "a")) == trace
    write_trace(tmp_path / "b", iter_trace(tmp_path / "a"))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_line_ends_of_other_systems_and_a_missing_last_one(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert read_trace(path) == TRACE
    path.write_bytes(TEXT.rstrip("\n").encode())
    assert read_trace(path) == TRACE
    write_trace(path, [])
    assert path.read_text() == f"{HEADER}\n"
    assert read_trace(path) == []


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "header must be ck,command,rank,bank_group,bank,row,column, but the file is empty"),
        ("ck,command,rank,bank_group,bank,row\n", 1, "header must be ck,command"),
        ("command,ck,rank,bank_group,bank,row,column\n", 1, "header must be ck,command"),
        (f"{HEADER},note\n", 1, "header must be ck,command"),
        (f"{HEADER}\n1,ACT,0,0,0,5\n", 2, "number of fields must be 7, not 6"),
        (f"{HEADER}\n1,ACT,0,0,0,5,,\n", 2, "number of fields must be 7, not 8"),
        (f"{HEADER},count\n1,ACT,0,0,0,5,\n", 2, "number of fields must be 8, not 7"),
        (f"{HEADER}\n1,REFab,0,,,,\n\n", 3, "number of fields must be 7, not 1"),
        (f"{HEADER}\n1,READ,0,0,0,,5\n", 2, "unknown command 'READ'"),
        (f"{HEADER}\n1,DES,0,,,,\n", 2, "command must be one that is issued"),
        (f"{HEADER}\n-1,REFab,0,,,,\n", 2, "ck must be a decimal number of at most 18 digits, not '-1'"),
        (f"{HEADER}\n 1,REFab,0,,,,\n", 2, "ck must be a decimal number"),
        (f"{HEADER}\n1_0,REFab,0,,,,\n", 2, "ck must be a decimal number"),
        (f"{HEADER}\n1.0,REFab,0,,,,\n", 2, "ck must be a decimal number"),
        (f"{HEADER}\n\u0661,REFab,0,,,,\n", 2, "ck must be a decimal number"),
        (f"{HEADER}\n{'9' * 5000},REFab,0,,,,\n", 2, "ck must be a decimal number of at most 18 digits"),
        (f"{HEADER}\n,REFab,0,,,,\n", 2, "ck must be given, not empty"),
        (f"{HEADER}\n1,REFab,,,,,\n", 2, "rank must be given, not empty"),
        (f"{HEADER}\n7,REFab,0,,,,\n6,REFab,0,,,,\n", 3, "ck must be at least that of the line before, 7, not 6"),
        (f"{HEADER}\n1,ACT,0,0,0,,\n", 2, "row of ACT must be given, not None"),
        (f"{HEADER}\n1,ACT,0,0,0,5,5\n", 2, "column of ACT must be empty, not 5"),
        (f"{HEADER}\n1,RD,0,0,,,5\n", 2, "bank of RD must be given, not None"),
        (f"{HEADER}\n1,REFab,0,1,,,\n", 2, "bank_group of REFab must be empty, not 1"),
        (f"{HEADER}\n1,PIM_MAC,0,1,,,5\n", 2, "PIM_MAC with a bank_group must name a bank too"),
        (f"{HEADER},count\n1,RD,0,0,0,,5,2\n", 2, "count of RD must be empty, not '2'"),
        (f"{HEADER},count\n1,PIM_MAC,0,,,,5,0\n", 2, "count must be 1 or more, not 0"),
        (f"{HEADER},count\n1,PIM_MAC,0,,,,5,x\n", 2, "count must be a decimal number"),
        (f"{HEADER}\n1,ACT,0,\x1c0,0,5,\n", 2, "bank_group must be a decimal number"),
    ],
)
def test_malformed_files_are_refused_with_file_line_and_reason(tmp_path, text, line, reason):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}:{line}: {reason}")


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(f"{HEADER}\n1,REFab,0,,,,\n\xff\xfe".encode("latin-1"))
    with pytest.raises(ParameterError, match="binary:3: not UTF-8 text"):
        read_trace(tmp_path / "binary")
    with pytest.raises(ParameterError, match=r"none\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")


def test_lines_before_a_fault_are_delivered(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(TEXT + "garbage\n")
    lines = iter_trace(path)
    assert [next(lines) for _ in TRACE] == TRACE
    with pytest.raises(ParameterError, match=r"trace\.csv:7: "):
        next(lines)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "trace.csv"
    write_trace(path, TRACE)
    with pytest.raises(ParameterError, match="ck must be at least that of the command before, 130, not 100"):
        write_trace(path, [TRACE[-1], TRACE[0]])
    assert path.read_text() == TEXT
    assert os.listdir(tmp_path) == ["trace.csv"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((-1, Command.REFab), "ck must be an integer of 0 or more, not -1"),
        ((1.5, Command.REFab), "ck must be an integer of 0 or more, not 1.5"),
        ((1, Command.REFab, True), "rank must be an integer of 0 or more, not True"),
        ((1, Command.ACT, 0, 0, -2, 0), "bank must be an integer of 0 or more, not -2"),
        ((1, "ACT", 0), "command must be a Command, not 'ACT'"),
        ((1, Command.DES, 0), "command must be one that is issued"),
        ((1, Command.RD, 0, 0, 0, None, 8, 2), "count of RD must be 1, not 2"),
        ((1, Command.PIM_MAC, 0, None, None, None, 8, 0), "count must be an integer of 1 or more, not 0"),
        ((1, Command.PIM_MAC, 0, None, None, None, 8, True), "count must be an integer of 1 or more, not True"),
    ],
)
def test_bad_commands_are_refused(arguments, reason):
    with pytest.raises(ParameterError) as caught:
        TracedCommand(*arguments)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("command", [c for c in Command if c is not Command.DES])
def test_fields_are_those_of_the_command_table(command):
    """Every field of COMMANDS must be given and no other, but for the bank_group and bank that may mean all."""
    given = {what: 1 for what in COMMANDS[command].fields if what != "register"}
    traced = TracedCommand(1, command, **given)
    assert traced.address == CommandAddress(rank=1, bank_group=given.get("bank_group"), bank=given.get("bank"))
    optional = {Command.PIM_MAC: {"bank_group"}, Command.REFsb: {"bank_group"}}.get(command, set())
    for what in ("bank_group", "bank", "row", "column"):
        changed = {key: value for key, value in given.items() if key != what} if what in given else {**given, what: 1}
        if what in optional:
            assert getattr(TracedCommand(1, command, **changed), what) == changed.get(what)
        else:
            with pytest.raises(ParameterError):
                TracedCommand(1, command, **changed)


def test_an_empty_trace_has_text_and_statistics():
    assert str(TRACE[0]) == "ACT at CK 100 (rank 0, bank_group 1, bank 2, row 517)"
    assert str(TracedCommand(9, Command.PIM_MAC, column=8, count=4)) == "PIM_MAC at CK 9 (rank 0, column 8, count 4)"
    empty = TraceStatistics(
        counts={}, elapsed_cycles=0, column_accesses=0, banks_used=0, column_cycles=8, data_bus_cycles=0
    )
    assert (empty.row_efficiency, empty.data_bus_use, empty.accesses_per_activation) == (0, 0, 0)
