"""`dimmpim verilog`: generate Verilog and its JSON sidecars."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from pimspec.errors import require
from pimspec.files import write_atomically
from pimspec.params.presets import Preset, preset_named


@click.command()
@click.option("--preset", "preset_name", required=True, metavar="NAME", help="See `dimmpim presets`.")
@click.option("--unit", "unit_name", metavar="UNIT", help="Only this unit of the preset; all by default.")
@click.option("--rank", "whole_rank", is_flag=True, help="The whole rank instead: pim_rank.v, half a minute.")
@click.option(
    "--out", "out_dir", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write into."
)
def verilog(preset_name: str, unit_name: str | None, whole_rank: bool, out_dir: Path) -> None:
    """Write <unit>.v and <unit>.json for the units of a preset, or its rank.

    The rank is module pim_rank in pim_rank.v: the buffer chip and the PIM DRAM chips, whose cell arrays are ports.

    The text is the same byte for byte every time.

    \b
    Examples:
      dimmpim verilog --preset tiny --out build/rtl/tiny
      dimmpim verilog --preset ddr5-4800-x8-16gb --unit dot --out build/rtl
      dimmpim verilog --preset ddr4-3200-x8-8gb --rank --out build/rtl
    """
    preset = preset_named(preset_name)
    require(not (whole_rank and unit_name), "--rank", "given with --unit", "given without")
    if whole_rank:
        _write_rank(preset, out_dir)
        return
    units = {unit_name: preset.unit(unit_name)} if unit_name else preset.units
    from pimhw.generate import write_unit  # noqa: PLC0415 - Amaranth is slow to import and errors should be quick

    written = []
    for name, params in track(units.items(), description=f"Verilog of {preset.name}", transient=True):
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
