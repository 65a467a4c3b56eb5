"""`dimmpim fit-gpu`: the constants of the GPU model, made again from measured kernel times."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pimhost.gpu.fitting import document, fit_all
from pimhost.gpu.power_fit import fit_power
from pimhost.gpu.profiles import OPERATORS
from pimhost.gpu.specs import GPUS
from pimspec.files import write_atomically

from .options import require_folder


@click.command(name="fit-gpu")
@click.option(
    "--profiles",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with the tables of measured times (aic_<gpu>_<operator>.csv.gz).",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the constants here, as JSON.")
def fit_gpu(profiles: Path, out: Path | None) -> None:
    """Fit the GPU model on measured kernel times, and print its error on rows that were held back.

    Rows that a warm cache made fast are neither fitted nor counted, except in the last column. Constants of the power
    are printed, where the directory has a table of it.

    \b
    Examples:
      dimmpim fit-gpu --profiles gpu_profiles
      dimmpim fit-gpu --profiles gpu_profiles --out host/pimhost/gpu/constants.json
    """
    require_folder("--out", out)
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("fitting", total=len(GPUS) * len(OPERATORS))
        results = fit_all(profiles, on_progress=lambda what: progress.update(task, advance=1, description=what))
    table = Table(title="relative error of the GPU model on rows that were held back")
    for column in ("GPU", "operator"):
        table.add_column(column)
    for column in ("rows", "median", "90 %", "all rows", "median of all"):
        table.add_column(column, justify="right")
    for r in results:
        e = r.error
        shares = (f"{e.median:.1%}", f"{e.p90:.1%}", f"{e.held_back_rows:,}", f"{e.median_all:.1%}")
        table.add_row(r.gpu, r.operator, f"{e.held_back_trusted:,}", *shares)
    console.print(table)
    for power in fit_power(profiles):
        console.print(
            f"{power.gpu}: {power.static_w:g} W, {power.flop_pj:g} pJ a FLOP, {power.byte_pj:g} pJ a byte; error "
            f"{power.rms_error:.1%} rms, at most {power.greatest_error:.1%}, {power.rows} rows",
            highlight=False,
            soft_wrap=True,
        )
    if out:
        write_atomically(out, json.dumps(document(results), indent=2) + "\n")
