"""Truth tables in docs/ca-encoding.md: those of the code, pin for pin, so that no encoding changes unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimspec.dram.ca_encoding import occupied_cks
from pimspec.dram.ca_tables import CA_TABLES, ca_table
from pimspec.dram.commands import PIM_COMMANDS, Command
from pimspec.dram.timing import DramStandard
from pimspec.hostif.bus import BusState

PAGE = Path(__file__).parents[2] / "docs" / "ca-encoding.md"
COLUMNS = {
    DramStandard.DDR4: {
        **{name: (name,) for name in ("CKE", "CS_n", "ACT_n")},
        "RAS_n/A16": ("RAS_n",),
        "CAS_n/A15": ("CAS_n",),
        "WE_n/A14": ("WE_n",),
        "BG1:0": ("BG1", "BG0"),
        "BA1:0": ("BA1", "BA0"),
        **{name: (name,) for name in ("A17", "A13", "A12", "A11", "A10")},
        "A9:3": tuple(f"A{k}" for k in range(9, 2, -1)),
        "A2:0": ("A2", "A1", "A0"),
    },
    DramStandard.DDR5: {
        "CS_n": ("CS_n",),
        "CA0:4": tuple(f"CA{k}" for k in range(5)),
        "CA5": ("CA5",),
        "CA6:7": ("CA6", "CA7"),
        "CA8:10": ("CA8", "CA9", "CA10"),
        **{name: (name,) for name in ("CA11", "CA12", "CA13")},
    },
}
STATES = {BusState.ACTIVE: "", BusState.POWER_DOWN: " (in power-down)", BusState.SELF_REFRESH: " (in self refresh)"}


def cell(pins, levels, places, cycle):
    """Text of neighbouring pins: H, L, V for no meaning, and bits of fields, runs of bits together."""
    runs = []
    for pin in pins:
        name, bit = places.get((cycle, pin), (levels.get(pin, "h").replace("h", "V"), None))
        if bit is not None and runs and runs[-1][0] == name and abs(bit - runs[-1][-1]) == 1:
            runs[-1].append(bit)
        else:
            runs.append([name, bit])
    if all(name == "V" for name, _ in (run[:2] for run in runs)):
        return "V"
    whole = {name: sum(field == name for field, _ in places.values()) for name, *_ in runs}
    return " ".join(run_text(name, bits, whole[name]) for name, *bits in runs)


def run_text(name, bits, width):
    if bits[0] is None or width == 1:
        return name
    return f"{name}[{bits[0]}]" if len(bits) == 1 else f"{name}[{bits[0]}:{bits[-1]}]"


def truth_table(standard):
    """Lines of the table of the page."""
    columns = COLUMNS[standard]
    lines = [f"| command | cycle | {' | '.join(columns)} | source |", "|---" * (len(columns) + 3) + "|"]
    for row in ca_table(standard).rows:
        for cycle, levels in enumerate(row.levels):
            cells = [cell(pins, levels, row.places(), cycle) for pins in columns.values()]
            name, source = f"{row.name}{STATES[row.before]}", "JEDEC" if row.jedec else "project"
            lines.append(f"| {name} | {cycle + 1} | {' | '.join(cells)} | {source} |")
    return lines


@pytest.mark.parametrize("standard", CA_TABLES, ids=lambda s: s.value)
def test_the_page_has_the_table_of_the_code(standard):
    table, lines = truth_table(standard), PAGE.read_text().splitlines()
    start = lines.index(table[0])
    assert lines[start : lines.index("", start)] == table


@pytest.mark.parametrize("standard", CA_TABLES, ids=lambda s: s.value)
def test_every_pin_has_a_column(standard):
    pins = [pin for group in COLUMNS[standard].values() for pin in group]
    assert pins == list(ca_table(standard).pins)


def test_the_page_says_how_many_ck_a_pim_command_takes():
    lines = PAGE.read_text().splitlines()
    start = lines.index("| PIM command | CK on DDR4 | CK on DDR5 | fields |") + 2
    for line, command in zip(lines[start:], PIM_COMMANDS, strict=False):
        ddr4, ddr5 = (len(occupied_cks(standard, 9, command)) for standard in (DramStandard.DDR4, DramStandard.DDR5))
        fields = ", ".join(f"`{name}`" for name in sorted(ca_table(DramStandard.DDR4).widths(command)))
        assert line == f"| {command.name} | {ddr4} | {ddr5} | {fields} |"
    assert Command.PIM_RD_RB in PIM_COMMANDS
