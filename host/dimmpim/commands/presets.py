"""`dimmpim presets`: what exists."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

from pimspec.params.presets import PRESETS
from pimspec.sidecar import unit_sidecar


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print presets with all unit parameters as JSON.")
def presets(as_json: bool) -> None:
    """List presets and their units.

    \b
    Examples:
      dimmpim presets
      dimmpim presets --json
    """
    if as_json:
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
        click.echo(json.dumps(document, indent=2))
        return
    table = Table()
    table.add_column("preset", no_wrap=True)
    table.add_column("what it is")
    table.add_column("units (latency/interval in clocks)")
    for p in PRESETS.values():
        units = ", ".join(f"{n} ({u.latency_cycles}/{u.interval_cycles})" for n, u in p.units.items())
        table.add_row(p.name, p.description, units)
    Console().print(table)
