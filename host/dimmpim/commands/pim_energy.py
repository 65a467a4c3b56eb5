"""`dimmpim pim-energy`: the energy of attention on a rank, as the serving simulator takes it."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dimmpim.commands.options import require_folder
from dimmpim.studies.pim_energy import energy_document
from pimspec.files import write_atomically
from pimspec.params.presets import preset_named


@click.command(name="pim-energy")
@click.option("--preset", "preset_name", default="ddr4-3200-x8-8gb", show_default=True, metavar="NAME")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the constants here, as JSON.")
def pim_energy(preset_name: str, out: Path | None) -> None:
    """Fit what the DRAM commands of attention take on one rank with a line, from the timing model.

    The serving simulator (`dimmpim serve`) takes the energy of its DIMMs from it; docs/energy.md has the arithmetic.

    \b
    Examples:
      dimmpim pim-energy
      dimmpim pim-energy --preset ddr4-3200-x8-8gb --out host/pimhost/systems/pim_energy.json
    """
    preset = preset_named(preset_name)
    require_folder("--out", out)
    console = Console()
    with console.status("timing model"):
        document, errors = energy_document(preset)
    table = Table(title=f"{preset.name}: commands of one kv_head")
    for column in ("queries a kv_head", "each (nJ)", "a byte (pJ)", "lines (bytes)", "lines a byte", "greatest error"):
        table.add_column(column, justify="right")
    for group, entry in document["gqa_group_size"].items():
        table.add_row(group, *(f"{value:,g}" for value in entry.values()), f"{errors[int(group)]:.2%}")
    console.print(table)
    if out:
        write_atomically(out, json.dumps(document, indent=2) + "\n")
