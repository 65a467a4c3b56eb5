"""`dimmpim fit-gpu`: the constants of the GPU model, made again from measured kernel times."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from dimmpim.outputs import console_beside, progress_bar, write_json
from pimhost.gpu.fitting import document, fit_all
from pimhost.gpu.power_fit import fit_power
from pimhost.gpu.profiles import OPERATORS
from pimhost.gpu.specs import GPUS

from .options import out_option
from .parameters import InputFolder, command


@command(name="fit-gpu")
@click.option(
    "--profiles",
    required=True,
    type=InputFolder(),
    metavar="DIR",
    help="Folder with tables of measured times (aic_<gpu>_<operator>.csv.gz).",
)
@out_option("Write the constants as JSON; - for standard output.")
def fit_gpu(profiles: Path, out: Path | None) -> None:
    """Fit the GPU model to measured kernel times, and print its error on held-out rows.

    Rows that a warm cache made fast are neither fitted nor counted, except in the last column. Power constants are
    printed if the directory has a table of measured power.

    \b
    Examples:
      dimmpim fit-gpu --profiles gpu_profiles
      dimmpim fit-gpu --profiles gpu_profiles --out host/pimhost/gpu/constants.json
    """
    console = console_beside(out)
    with progress_bar(console) as progress:
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
    write_json(out, document(results))
