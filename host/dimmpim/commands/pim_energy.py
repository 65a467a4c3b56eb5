"""`dimmpim pim-energy`: the energy of attention on a rank, as the serving simulator takes it."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from dimmpim.commands.options import out_option, preset_option
from dimmpim.commands.parameters import command
from dimmpim.outputs import console_beside, write_json
from dimmpim.studies.pim_energy import energy_document
from pimspec.params.presets import preset_named


@command(name="pim-energy")
@preset_option("ddr4-3200-x8-8gb")
@out_option("Write the constants as JSON; - for standard output.")
def pim_energy(preset_name: str, out: Path | None) -> None:
    """Fit a line to the DRAM commands of attention on one rank, from the timing model.

    The serving simulator (`dimmpim serve`) takes the DRAM energy of attention from such fits; docs/energy.md has the
    arithmetic.

    \b
    Examples:
      dimmpim pim-energy
      dimmpim pim-energy --preset ddr4-3200-x8-8gb --out host/pimhost/systems/pim_energy.json
    """
    preset = preset_named(preset_name)
    console = console_beside(out)
    with console.status("timing model"):
        document, errors = energy_document(preset)
    table = Table(title=f"{preset.name}: commands of one kv_head")
    for column in ("queries a kv_head", "each (nJ)", "a byte (pJ)", "lines (bytes)", "lines a byte", "greatest error"):
        table.add_column(column, justify="right")
    for group, entry in document["gqa_group_size"].items():
        table.add_row(group, *(f"{value:,g}" for value in entry.values()), f"{errors[int(group)]:.2%}")
    console.print(table)
    write_json(out, document)
