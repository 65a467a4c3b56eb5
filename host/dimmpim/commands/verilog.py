"""`dimmpim verilog`: generate Verilog and its JSON sidecars."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import track

from pimspec.presets import preset_named


@click.command()
@click.option("--preset", "preset_name", required=True, metavar="NAME", help="See `dimmpim presets`.")
@click.option("--unit", "unit_name", metavar="UNIT", help="Only this unit of the preset; all by default.")
@click.option(
    "--out", "out_dir", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write into."
)
def verilog(preset_name: str, unit_name: str | None, out_dir: Path) -> None:
    """Write <unit>.v and <unit>.json for the units of a preset.

    The text is the same byte for byte every time.

    \b
    Examples:
      dimmpim verilog --preset tiny --out build/rtl/tiny
      dimmpim verilog --preset ddr5-4800-x8-16gb --unit dot --out build/rtl
    """
    preset = preset_named(preset_name)
    units = {unit_name: preset.unit(unit_name)} if unit_name else preset.units
    from pimhw.generate import write_unit  # noqa: PLC0415 - Amaranth is slow to import and errors should be quick

    written = []
    for name, params in track(units.items(), description=f"Verilog of {preset.name}", transient=True):
        written += write_unit(params, name, out_dir)
    for path in written:
        click.echo(path)
