"""Command codes, metadata and addresses."""

from __future__ import annotations

import pytest

from pimspec.dram.commands import (
    COMMAND_BITS,
    COMMANDS,
    HOST_ONLY_COMMANDS,
    PIM_COMMANDS,
    Bus,
    Command,
    CommandAddress,
    CommandInfo,
    Scope,
    ca_cycles,
    command_named,
    supported_commands,
)
from pimspec.dram.timing import DramStandard
from pimspec.errors import ParameterError, UnknownNameError

CODES = {
    "DES": 0, "ACT": 1, "PREpb": 2, "PREab": 3, "RD": 4, "RDA": 5, "WR": 6, "WRA": 7, "REFab": 8, "REFsb": 9, "MRS": 10,
    "ZQCS": 11, "ZQCL": 12, "SRE": 13, "SRX": 14, "PDE": 15, "PIM_WR_R": 16, "PIM_LD_SB": 17, "PIM_WR_SB": 18,
    "PIM_MAC": 19, "PIM_RD_RB": 20, "PDX": 21, "NOP": 22,
}  # fmt: skip


def _names(predicate):
    return {command.name for command, info in COMMANDS.items() if predicate(info)}


def test_codes_are_frozen():
    assert {command.name: command.value for command in Command} == CODES


def test_codes_fit_the_stated_width():
    assert COMMAND_BITS == 5
    assert max(Command) < 1 << COMMAND_BITS


def test_every_command_has_metadata():
    assert set(COMMANDS) == set(Command)
    assert all(info.meaning for info in COMMANDS.values())
    with pytest.raises(TypeError):
        COMMANDS[Command.ACT] = COMMANDS[Command.RD]


def test_rows():
    assert _names(lambda i: i.opens_row) == {"ACT"}
    assert _names(lambda i: i.closes_row) == {"PREpb", "PREab", "RDA", "WRA"}
    assert _names(lambda i: i.refreshes) == {"REFab", "REFsb"}
    assert _names(lambda i: i.needs_open_row) == {"RD", "RDA", "WR", "WRA", "PIM_LD_SB", "PIM_MAC"}
    assert _names(lambda i: i.needs_idle) == {"ACT", "REFab", "REFsb", "MRS", "ZQCS", "ZQCL", "SRE"}


def test_cells_and_bus():
    assert _names(lambda i: i.reads) == {"RD", "RDA", "PIM_LD_SB", "PIM_MAC"}
    assert _names(lambda i: i.writes) == {"WR", "WRA"}
    assert _names(lambda i: i.bus is Bus.READ) == {"RD", "RDA", "PIM_RD_RB"}
    assert _names(lambda i: i.bus is Bus.WRITE) == {"WR", "WRA", "PIM_WR_R", "PIM_WR_SB"}


def test_scopes():
    assert _names(lambda i: i.scope is Scope.NONE) == {"DES", "NOP"}
    assert _names(lambda i: i.scope is Scope.SAME_BANK) == {"REFsb"}
    assert _names(lambda i: i.scope is Scope.BANK) == {
        "ACT",
        "PREpb",
        "RD",
        "RDA",
        "WR",
        "WRA",
        "PIM_LD_SB",
        "PIM_RD_RB",
    }


def test_address_fields():
    assert COMMANDS[Command.ACT].fields == ("rank", "bank_group", "bank", "row")
    assert COMMANDS[Command.PREab].fields == ("rank",)
    assert COMMANDS[Command.REFsb].fields == ("rank", "bank")
    assert COMMANDS[Command.PIM_WR_R].fields == ("rank", "register")
    for info in COMMANDS.values():
        assert ("column" in info.fields) == (info.reads or info.writes)
        assert ("row" in info.fields) == info.opens_row


def test_pim_commands_are_those_of_the_paper():
    assert {c.name for c in PIM_COMMANDS} == {"PIM_WR_R", "PIM_LD_SB", "PIM_WR_SB", "PIM_MAC", "PIM_RD_RB"}


def test_supported_commands():
    ddr4, ddr5 = supported_commands(DramStandard.DDR4), supported_commands(DramStandard.DDR5)
    assert set(ddr5) - set(ddr4) == {Command.REFsb}
    assert not {Command.DES, *HOST_ONLY_COMMANDS} & set(ddr5)
    assert Command.MRS not in supported_commands(DramStandard.HBM3)
    assert set(ddr4) - set(supported_commands(DramStandard.DDR4, pim=False)) == set(PIM_COMMANDS)


def test_ca_cycles():
    two = {c.name for c in Command if ca_cycles(c, DramStandard.DDR5) == 2}
    assert two == {"ACT", "RD", "RDA", "WR", "WRA", "MRS"} | {c.name for c in PIM_COMMANDS}
    assert {c.name for c in Command if ca_cycles(c, DramStandard.HBM3) == 2} == {"ACT"}
    for standard in (DramStandard.DDR4, DramStandard.GDDR6):
        assert all(ca_cycles(c, standard) == 1 for c in Command)


def test_address_covers():
    assert CommandAddress(rank=1).covers(1, 3, 2)
    assert not CommandAddress(rank=1).covers(0, 3, 2)
    assert CommandAddress(bank=2).covers(0, 3, 2)
    assert not CommandAddress(bank=2).covers(0, 3, 1)
    assert not CommandAddress(bank_group=1, bank=2).covers(0, 3, 2)


def test_bad_metadata_and_addresses_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'PREab'"):
        command_named("PREabc")
    assert command_named("PIM_MAC") is Command.PIM_MAC
    with pytest.raises(ParameterError, match="rank must be 0 or more, not -1"):
        CommandAddress(rank=-1)
    with pytest.raises(ParameterError, match="bank must be 0 or more, or None for all, not -2"):
        CommandAddress(bank=-2)
    with pytest.raises(ParameterError, match="address field must be one of rank"):
        CommandInfo(scope=Scope.BANK, meaning="x", fields=("col",))
    with pytest.raises(ParameterError, match="not both set"):
        CommandInfo(scope=Scope.BANK, meaning="x", reads=True, writes=True)
    with pytest.raises(ParameterError, match="not both set"):
        CommandInfo(scope=Scope.BANK, meaning="x", needs_idle=True, needs_open_row=True)
