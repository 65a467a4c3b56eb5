"""Tables of the areas and paths of a rank's units, beside published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # the study imports Amaranth's generator, which is slow
    from dimmpim.studies.rank_area import RankArea

__all__ = ["print_rank_area"]

_CHIP_NAMES = {"pim_chip": "PIM chip", "buffer_chip": "buffer chip", "rank": "rank"}


def print_rank_area(console: Console, area: RankArea) -> None:
    """Print units, totals, and the comparison with published areas."""
    console.print(_units(area))
    console.print(_totals(area))
    figures = area.to_dict()
    console.print(f"DPA controller over rank PU: {figures['dpa_over_rank_pu']:.3f} of its logic.")
    if area.is_generic:
        slowest = max(area.units, key=lambda unit: unit.path)
        most_ps = 1000 * area.clock_ns / slowest.path
        console.print(
            "Area in NAND2 equivalents (GE), path in delays of a NAND2 that drives one NAND2.\n"
            f"{slowest.name} keeps a clock of {area.clock_ns:g} ns where that delay is at most {most_ps:.0f} ps, "
            "registers not counted."
        )
    else:
        late = [unit.name for unit in area.units if area.exceeds_clock(unit)]
        console.print(
            f"Longer than the clock of {area.clock_ns:g} ns, and marked *: {', '.join(late)}."
            if late
            else f"No path of a unit is longer than the clock of {area.clock_ns:g} ns."
        )
    console.print(
        "Paths from and to registers, ports and memories, before layout; clock-to-output and set-up are not in them.\n"
        "Memories of 64 words, or of 16 words of 64 bits, and more are bits; smaller ones are registers."
    )
    console.print(_comparison(area, figures["comparison"]))
    console.print(
        f"Ours scaled from {area.node_nm:g} nm by the ratio of the nodes, memories not in it; "
        "2x and 10x: DRAM over logic process,\nas CHIME and AttAcc assume it. PAM's share is of its own die."
    )


def _units(area: RankArea) -> Table:
    path = f"path ({area.path_unit})"
    table = Table("chip", "unit", title=f"{area.preset}, {area.library} library, clock {area.clock_ns:g} ns")
    for name in ("count", f"area ({area.area_unit})", "of the chip", "registers", "memory bits", path):
        table.add_column(name, justify="right")
    totals = area.totals()
    for chip in ("pim_chip", "buffer_chip"):
        units = sorted((u for u in area.units if u.chip == chip), key=lambda u: -u.count * u.area)
        for unit in units:
            share = unit.count * unit.area / totals[chip]["area"]
            mark = "*" if area.exceeds_clock(unit) else ""
            table.add_row(
                _CHIP_NAMES[chip] if unit is units[0] else "",
                unit.name,
                str(unit.count),
                f"{unit.area:,.0f}",
                f"{share:.1%}",
                f"{unit.registers:,}",
                f"{unit.memory_bits:,}",
                f"{unit.path:.1f}" if area.is_generic else f"{unit.path:.2f}{mark}",
            )
        table.add_section()
    return table


def _totals(area: RankArea) -> Table:
    table = Table("total", title=f"{area.num_chips} PIM chips and a buffer chip")
    for name in (f"area ({area.area_unit})", "registers", "memory bits"):
        table.add_column(name, justify="right")
    for chip, total in area.totals().items():
        table.add_row(_CHIP_NAMES[chip], *(f"{total[name]:,.0f}" for name in ("area", "registers", "memory_bits")))
    return table


def _comparison(area: RankArea, rows: list[dict[str, Any]]) -> Table:
    table = Table("published, and ours beside it", title="beside published areas, mm2")
    for name in ("logic", "DRAM, 2x", "DRAM, 10x", "share of a die, 2x and 10x"):
        table.add_column(name, justify="right")
    for row in rows:
        given = [row.get("logic_mm2"), *row.get("dram_mm2", {}).values()]
        share = row.get("share_of_die")
        table.add_row(
            row["published"],
            *(f"{mm2:.4f}" if mm2 is not None else "" for mm2 in (given + [None] * 3)[:3]),
            f"{share:.2%}" if share is not None else "",
        )
        if "ours_memory_bits" in row:
            table.add_row("  ours, operand memories of a chip", f"{row['ours_memory_bits']:,} bits", "", "", "")
        else:
            name = "bank PU" if row["part"] == "bank_pu" else "all logic of a PIM chip"
            shares = row.get("ours_share_of_die", {}).values()
            table.add_row(
                f"  ours, {name}, at {row['node_nm']:g} nm",
                *(f"{mm2:.4f}" for mm2 in (row["ours_logic_mm2"], *row["ours_dram_mm2"].values())),
                " and ".join(f"{each:.1%}" for each in shares) + (f" of {row['die']}" if shares else ""),
            )
    return table
