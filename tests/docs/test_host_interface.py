"""Table of DDR4 commands in docs/host-interface.md, and scoreboard of the tests: both say what the contract says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimsim.rank.host_scoreboard import ACTIVE, DDR4, POWER_DOWN, SELF_REFRESH, HostScoreboard, Slot
from pimspec.dram.commands import Command
from pimspec.hostif.bus import HOST_COMMANDS, Needs
from pimspec.hostif.window import Refusal
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
PAGE = Path(__file__).parents[2] / "docs" / "host-interface.md"


def command_table():
    """Rows of the table of the page."""
    needs = {code: "" if info.needs is Needs.NOTHING else info.needs.value for code, info in HOST_COMMANDS.items()}
    return [
        f"| {code.name} | {needs[code]} | {info.host_owns} | {info.pim_owns} |" for code, info in HOST_COMMANDS.items()
    ]


def test_the_page_has_the_table_of_the_contract():
    lines = PAGE.read_text().splitlines()
    start = lines.index("| command | needs | host owns the DRAM | PIM owns the DRAM |") + 2
    rows = lines[start : lines.index("", start)]
    assert rows == command_table()


def test_all_ddr4_commands_are_in_the_table():
    of_others = {Command.DES, Command.REFsb}  # no command; a command of DDR5
    assert set(HOST_COMMANDS) == {c for c in Command if not c.name.startswith("PIM_")} - of_others
    assert set(DDR4) == set(HOST_COMMANDS)


def expected(info, cke, owned, row_open):
    """Reason to refuse a command, from the table alone."""
    awake = {Needs.POWER_DOWN: POWER_DOWN, Needs.SELF_REFRESH: SELF_REFRESH}.get(info.needs, ACTIVE)
    if cke != awake:
        return Refusal.POWER
    if owned and not info.owned:
        return Refusal.OWNED
    if row_open and info.needs in (Needs.CLOSED, Needs.ALL_CLOSED):
        return Refusal.ROW_OPEN
    return Refusal.NONE


@pytest.mark.parametrize("code", HOST_COMMANDS, ids=lambda code: code.name)
def test_the_scoreboard_judges_as_the_table_says(code):
    for cke in (ACTIVE, POWER_DOWN, SELF_REFRESH):
        for owned in (False, True):
            for row_open in (False, True):
                board = HostScoreboard(params=TINY, owned=owned)
                if row_open:
                    board.clock(0, [Slot(phase=0, code=Command.ACT, bank=1, row=7)], "")
                board.cke = cke
                reason = board.reason(Slot(phase=0, code=code, bank=1, row=8), [])
                want = Refusal.NONE if code is Command.NOP else expected(HOST_COMMANDS[code], cke, owned, row_open)
                assert reason is want, f"{cke}, PIM owns: {owned}, row open: {row_open}"
