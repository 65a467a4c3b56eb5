"""`dimmpim pim-latency`: the latency table of the serving simulator, measured again on a rank."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from dimmpim.commands.options import out_option, preset_option, threads_option
from dimmpim.commands.parameters import command
from dimmpim.outputs import console_beside, progress_bar, write_json
from dimmpim.studies.pim_latency import CHECKS, GROUPS, HEADS, TOKENS, measure_table
from pimspec.params.presets import preset_named


@command(name="pim-latency")
@preset_option("ddr4-3200-x8-8gb")
@click.option(
    "--backend",
    type=click.Choice(["timing", "rtl"]),
    default="timing",
    show_default=True,
    help="Timing model, with the clock counts of the RTL, or RTL simulation (minutes).",
)
@threads_option
@out_option("Write the table as JSON; - for standard output.")
def pim_latency(preset_name: str, backend: str, threads: int, out: Path | None) -> None:
    """Measure attention latency on one rank, and how well a table of it interpolates.

    The serving simulator (`dimmpim serve`) takes its PIM times from such a table.

    \b
    Examples:
      dimmpim pim-latency
      dimmpim pim-latency --preset ddr4-3200-x8-16gb
      dimmpim pim-latency --preset ddr4-3200-x8-8gb --backend rtl --out host/pimhost/systems/pim_latency.json
    """
    preset = preset_named(preset_name)
    console = console_beside(out)
    total = len(GROUPS) * (len(HEADS) * len(TOKENS) + len(CHECKS))
    with progress_bar(console) as progress:
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
    write_json(out, document)
