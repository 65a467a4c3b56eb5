"""`dimmpim presets`: the ranks that have a name, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from dimmpim.api.presets import Preset
from dimmpim.api.presets import preset as preset_by_name
from dimmpim.api.presets import presets as all_presets
from dimmpim.outputs import console_beside, write_json
from pimspec.sidecar import unit_sidecar

from .parameters import OutputFile, command

_NOTE = """\
GiB: of a rank. host GB/s: its data bus. PIM GB/s: all its banks together.
lanes: products of a bank PU per column access and query. q: queries of a
kv_head at once. head_dim and q are fitted to the model by most commands.
"""


def _document(preset: Preset) -> dict[str, Any]:
    """Figures and unit parameters of a preset."""
    units = {name: unit_sidecar(params, name) for name, params in preset.units.items()}
    return {**preset.to_dict(), "units": units}


def _table(presets: list[Preset]) -> Table:
    """A row for each preset, in 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("preset", no_wrap=True)
    for name in ("chips", "banks", "lanes", "GiB", "host\nGB/s", "PIM\nGB/s", "head\n_dim", "q"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("format", no_wrap=True)
    for p in presets:
        numbers = (p.chips, p.banks_per_chip, p.lanes, f"{p.capacity_bytes / 2**30:g}")
        rates = (f"{p.host_bytes_per_s / 1e9:.4g}", f"{p.bank_bytes_per_s / 1e9:.4g}")
        table.add_row(p.name, *map(str, numbers), *rates, str(p.head_dim), str(p.queries_at_once), p.format.name)
    return table


def _details(preset: Preset) -> Table:
    """All figures of a preset, and its units."""
    rank, org = preset.rank, preset.rank.organization
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    chip = f"{org.bank_groups} bank_groups of {org.banks_per_group} banks, x{org.device_width_bits}"
    rows = (
        ("DRAM part", rank.dram),
        ("chips", f"{preset.chips}"),
        ("chip", f"{chip}, {org.chip_bytes / 2**30:g} GiB"),
        ("row of a bank", f"{org.page_bytes:,} bytes, {org.column_accesses_per_row} column accesses"),
        ("capacity", f"{preset.capacity_bytes / 2**30:g} GiB"),
        ("bandwidth of the host's data bus", f"{preset.host_bytes_per_s / 1e9:.4g} GB/s"),
        ("bandwidth of all banks", f"{preset.bank_bytes_per_s / 1e9:.4g} GB/s"),
        ("clock of controller and PUs", f"{preset.clock_ns:g} ns, {rank.ck_per_clock} CK"),
        ("lanes of a bank PU", f"{preset.lanes} for each query"),
        ("queries of a kv_head at once", f"{preset.queries_at_once}"),
        ("head_dim", f"{preset.head_dim}"),
        ("format", preset.format.name),
        ("tokens of a segment", f"{rank.segment_tokens:,}"),
        ("queries in the buffers", f"{rank.queries}"),
        ("tFAW", "waived: not JEDEC-legal" if rank.relaxed_faw else "kept"),
    )
    for what, value in rows:
        table.add_row(what, value)
    units = preset.units
    clocks = ", ".join(f"{name} {unit.latency_cycles}/{unit.interval_cycles}" for name, unit in units.items())
    table.add_row("units, latency/interval in clocks", clocks)
    return table


@command()
@click.argument("name", required=False)
@click.option(
    "--json",
    "json_path",
    type=OutputFile(),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write figures and unit parameters as JSON; to standard output without FILE.",
)
def presets(name: str | None, json_path: Path | None) -> None:
    """List the hardware presets, or show one: chips, banks, lanes, capacity and bandwidths of the rank.

    \b
    Examples:
      dimmpim presets
      dimmpim presets ddr4-3200-x8-8gb
      dimmpim presets --json
    """
    chosen = list(all_presets().values()) if name is None else [preset_by_name(name)]
    if json_path:
        documents = [_document(preset) for preset in chosen]
        write_json(json_path, documents if name is None else documents[0])
        return
    console = console_beside()
    if name is None:
        console.print(_table(chosen))
        console.print(_NOTE, end="", highlight=False)
    else:
        console.print(f"{chosen[0].name}: {chosen[0].description}", highlight=False, soft_wrap=True)
        console.print(_details(chosen[0]))
