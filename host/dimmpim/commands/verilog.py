"""`dimmpim verilog`: generate Verilog and its JSON sidecars."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from dimmpim.outputs import progress_bar
from pimspec.files import write_atomically
from pimspec.params.presets import Preset, preset_named

from .options import preset_option
from .parameters import OutputFolder, command, require_alone, require_companion


@command()
@preset_option()
@click.option("--unit", "unit_name", metavar="UNIT", help="Unit of the preset to generate [default: all units].")
@click.option("--rank", "whole_rank", is_flag=True, help="Whole rank instead, within a minute.")
@click.option("--no-dpa", is_flag=True, help="With --rank: leave out the DPA controller.")
@click.option("--prefix", metavar="X", help="With --rank: begins the name of each module, for two ranks in a design.")
@click.option(
    "--out", "out_dir", required=True, type=OutputFolder(), metavar="DIR", help="Folder for the generated files."
)
def verilog(
    preset_name: str, unit_name: str | None, whole_rank: bool, prefix: str | None, no_dpa: bool, out_dir: Path
) -> None:
    """Generate Verilog (UNIT.v) and its parameters (UNIT.json) for the units of a preset, or for its rank.

    The rank is module pim_rank in pim_rank.v: the buffer chip with its DPA controller and the PIM DRAM chips, whose
    cell arrays are ports. Beside it: pim_rank.json (ports and their fields, parameters), pim_rank.core (FuseSoC,
    targets lint and sim), pim_rank_tb.v (testbench), pim_rank.sdc (clock, delays) and pim_rank.vlt (waivers).

    Verilator reads pim_rank.v without a warning; with -Wall it needs the waivers, in front: verilator --lint-only -Wall
    pim_rank.vlt pim_rank.v.

    Generation is deterministic: the same preset gives the same bytes.

    \b
    Examples:
      dimmpim verilog --preset tiny --out build/rtl/tiny
      dimmpim verilog --preset ddr5-4800-x8-16gb --unit dot --out build/rtl
      dimmpim verilog --preset ddr4-3200-x8-8gb --rank --out build/rtl
      dimmpim verilog --preset tiny --rank --prefix small_ --no-dpa --out build/small
      fusesoc --cores-root build/rtl run --target lint dimmpim:rank:pim_rank
    """
    preset = preset_named(preset_name)
    require_alone(rank=whole_rank, unit=unit_name)
    if whole_rank:
        _write_rank(preset, out_dir, prefix or "", dpa=not no_dpa)
        return
    require_companion("--prefix", prefix, "--rank")
    require_companion("--no-dpa", no_dpa, "--rank")
    units = {unit_name: preset.unit(unit_name)} if unit_name else preset.units
    from pimhw.generate import write_unit  # noqa: PLC0415 - Amaranth is slow to import and errors should be quick

    written = []
    with progress_bar(Console(stderr=True)) as bar:
        for name, params in bar.track(units.items(), description=f"Verilog of {preset.name}"):
            written += write_unit(params, name, out_dir)
    for path in written:
        click.echo(path)


def _write_rank(preset: Preset, out_dir: Path, prefix: str, *, dpa: bool) -> None:
    from pimhw.delivery.files import rank_files  # noqa: PLC0415 - as above
    from pimhw.delivery.names import require_prefix  # noqa: PLC0415

    require_prefix(prefix)
    params = preset.rank.with_dpa() if dpa else preset.rank
    with Console(stderr=True).status(f"Verilog of the rank of {preset.name}"):
        files = rank_files(params, preset.name, prefix)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        write_atomically(out_dir / name, contents)
        click.echo(out_dir / name)
