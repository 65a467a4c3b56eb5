"""`dimmpim verilog`: generate Verilog and its JSON sidecars."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from dimmpim.outputs import progress_bar
from pimspec.files import write_atomically
from pimspec.params.presets import Preset, preset_named

from .options import preset_option
from .parameters import OutputFolder, command, require_alone


@command()
@preset_option()
@click.option("--unit", "unit_name", metavar="UNIT", help="Unit of the preset to generate [default: all units].")
@click.option("--rank", "whole_rank", is_flag=True, help="Whole rank instead: pim_rank.v, within half a minute.")
@click.option(
    "--out", "out_dir", required=True, type=OutputFolder(), metavar="DIR", help="Folder for the generated files."
)
def verilog(preset_name: str, unit_name: str | None, whole_rank: bool, out_dir: Path) -> None:
    """Generate Verilog (UNIT.v) and its parameters (UNIT.json) for the units of a preset, or for its rank.

    The rank is module pim_rank in pim_rank.v: the buffer chip and the PIM DRAM chips, whose cell arrays are ports.

    Generation is deterministic: the same preset gives the same bytes.

    \b
    Examples:
      dimmpim verilog --preset tiny --out build/rtl/tiny
      dimmpim verilog --preset ddr5-4800-x8-16gb --unit dot --out build/rtl
      dimmpim verilog --preset ddr4-3200-x8-8gb --rank --out build/rtl
    """
    preset = preset_named(preset_name)
    require_alone(rank=whole_rank, unit=unit_name)
    if whole_rank:
        _write_rank(preset, out_dir)
        return
    units = {unit_name: preset.unit(unit_name)} if unit_name else preset.units
    from pimhw.generate import write_unit  # noqa: PLC0415 - Amaranth is slow to import and errors should be quick

    written = []
    with progress_bar(Console(stderr=True)) as bar:
        for name, params in bar.track(units.items(), description=f"Verilog of {preset.name}"):
            written += write_unit(params, name, out_dir)
    for path in written:
        click.echo(path)


def _write_rank(preset: Preset, out_dir: Path) -> None:
    from pimhw.pim_rank import rank_verilog  # noqa: PLC0415 - as above

    with Console(stderr=True).status(f"Verilog of the rank of {preset.name}"):
        text = rank_verilog(preset.rank)
    out_dir.mkdir(parents=True, exist_ok=True)
    sidecar = {"name": "pim_rank", "preset": preset.name, "params": asdict(preset.rank)}
    for name, contents in (("pim_rank.v", text), ("pim_rank.json", json.dumps(sidecar, indent=2, default=str) + "\n")):
        write_atomically(out_dir / name, contents)
        click.echo(out_dir / name)
