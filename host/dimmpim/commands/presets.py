"""`dimmpim presets`: what exists."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dimmpim.outputs import write_json
from pimspec.params.presets import PRESETS
from pimspec.sidecar import unit_sidecar

from .parameters import OutputFile, command


@command()
@click.option(
    "--json",
    "json_path",
    type=OutputFile(),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write the presets with all unit parameters as JSON; to standard output without FILE.",
)
def presets(json_path: Path | None) -> None:
    """List the hardware presets and their units.

    \b
    Examples:
      dimmpim presets
      dimmpim presets --json
    """
    if json_path:
        document = [
            {
                "name": p.name,
                "description": p.description,
                "dram": p.dram,
                "ck_per_clock": p.rank.ck_per_clock,
                "format": p.format.name,
                "units": {name: unit_sidecar(params, name) for name, params in p.units.items()},
            }
            for p in PRESETS.values()
        ]
        write_json(json_path, document)
        return
    table = Table()
    table.add_column("preset", no_wrap=True)
    table.add_column("what it is")
    table.add_column("units (latency/interval in clocks)")
    for p in PRESETS.values():
        units = ", ".join(f"{n} ({u.latency_cycles}/{u.interval_cycles})" for n, u in p.units.items())
        table.add_row(p.name, p.description, units)
    Console().print(table)
