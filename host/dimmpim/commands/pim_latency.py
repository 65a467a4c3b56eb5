"""`dimmpim pim-latency`: the latency table of the serving simulator, measured again on a rank."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dimmpim.commands.options import require_folder
from dimmpim.studies.pim_latency import CHECKS, GROUPS, HEADS, TOKENS, measure_table
from pimspec.files import write_atomically
from pimspec.params.presets import preset_named


@click.command(name="pim-latency")
@click.option("--preset", "preset_name", default="ddr4-3200-x8-8gb", show_default=True, metavar="NAME")
@click.option(
    "--backend",
    type=click.Choice(["timing", "rtl"]),
    default="timing",
    show_default=True,
    help="The timing model, which has the clocks of the RTL, or the RTL itself (minutes).",
)
@click.option("--threads", type=click.IntRange(1, 2), default=1, show_default=True, help="RTL: CPU cores to use.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here, as JSON.")
def pim_latency(preset_name: str, backend: str, threads: int, out: Path | None) -> None:
    """Measure how long attention takes on one rank, and how well a table of it interpolates.

    The serving simulator (`dimmpim serve`) takes its PIM times from such a table.

    \b
    Examples:
      dimmpim pim-latency
      dimmpim pim-latency --preset ddr4-3200-x8-16gb
      dimmpim pim-latency --preset ddr4-3200-x8-8gb --backend rtl --out host/pimhost/systems/pim_latency.json
    """
    preset = preset_named(preset_name)
    require_folder("--out", out)
    console = Console()
    total = len(GROUPS) * (len(HEADS) * len(TOKENS) + len(CHECKS))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("building", total=total)
        document = measure_table(
            preset,
            backend=backend,
            threads=threads,
            on_progress=lambda what: progress.update(task, advance=1, description=what),
        )
    table = Table(title=f"{preset.name}: clocks that the table was not made from")
    for column in ("queries a kv_head", "kv_heads", "tokens", "measured", "table", "error"):
        table.add_column(column, justify="right")
    for row in document["checks"]:
        counts = (f"{row[key]:,}" for key in ("gqa_group_size", "kv_heads", "tokens", "clocks", "predicted"))
        table.add_row(*counts, f"{row['relative_error']:+.2%}")
    console.print(table)
    if out:
        write_atomically(out, json.dumps(document, indent=2) + "\n")
