"""`dimmpim scheduling`: what dynamic command scheduling brings, and what programs cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from dimmpim.studies.scheduling import SchedulingPoint, measure
from pimspec.attention.shape import AttentionShape
from pimspec.files import write_atomically
from pimspec.params.presets import preset_named

from .options import require_folder, step_backend_option, token_counts

JSON_VERSION = 1


def _table(name: str, requests: int) -> Table:
    table = Table(
        title=f"{name}, batch of {requests}: share of time in which the MAC units work; clocks of one request alone",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in (
        "tokens", "static", "dynamic", "ideal", "of ideal", "descriptors", "program", "overhead"
    ):  # fmt: skip
        table.add_column(column, justify="right")
    return table


def _add(table: Table, point: SchedulingPoint) -> None:
    table.add_row(
        f"{point.tokens:,}",
        f"{point.static_share:.3f}",
        f"{point.dynamic_share:.3f}",
        f"{point.ideal_share:.3f}",
        f"{point.of_ideal:.3f}",
        f"{point.descriptor_clocks:,.0f}",
        f"{point.program_clocks:,.0f}",
        f"{point.overhead:+.2%}",
    )


@click.command()
@click.option("--preset", "preset_name", default="ddr4-3200-x8-8gb", show_default=True, metavar="NAME")
@click.option("--group", default=1, show_default=True, help="Queries of a kv_head: 1 is MHA.")
@click.option("--kv-heads", default=8, show_default=True, help="kv_heads of a request that lie in this rank.")
@click.option("--head-dim", default=128, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=2, show_default=True, help="That run back to back.")
@click.option(
    "--tokens", default="1024,2048,4096,8192,16384,32768", show_default=True, metavar="N,N,...", help="Contexts."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the synthetic data.")
@click.option(
    "--phases", type=click.IntRange(1), default=1, show_default=True, help="Refresh phases to take the mean over."
)
@step_backend_option
@click.option("--threads", type=click.IntRange(1, 2), default=1, show_default=True, help="CPU cores to use.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def scheduling(
    preset_name: str,
    group: int,
    kv_heads: int,
    head_dim: int,
    requests: int,
    tokens: str,
    seed: int,
    phases: int,
    backend: str,
    threads: int,
    json_path: Path | None,
) -> None:
    """Programs in static order and dynamically scheduled, beside ideal issue and descriptors.

    Ideal issue waits for DRAM timing and refresh alone. On RTL all results are compared with the golden model; the
    timing model has the same clocks, in seconds.

    \b
    Examples:
      dimmpim scheduling --threads 2 --json scheduling.json
      dimmpim scheduling --preset ddr4-3200-x8-8gb-gqa8 --group 8 --kv-heads 4 --backend timing --phases 8
      dimmpim scheduling --preset tiny --group 2 --kv-heads 2 --head-dim 16 --tokens 64,256
    """
    require_folder("--json", json_path)
    counts = token_counts(tokens)
    preset = preset_named(preset_name)
    shape = AttentionShape(num_q_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=head_dim)
    params = preset.rank.for_shape(shape).with_dpa()
    console = Console()
    table, points = _table(f"GQA-{group}" if group > 1 else "MHA", requests), []
    with console.status("") as status:
        for point in measure(
            params,
            shape,
            counts,
            requests=requests,
            backend=backend,
            phases=phases,
            threads=threads,
            seed=seed,
            progress=status.update,
        ):
            _add(table, point)
            points.append(point)
    console.print(table)
    if json_path:
        document = [
            {**asdict(p), "static_share": p.static_share, "dynamic_share": p.dynamic_share, "overhead": p.overhead}
            for p in points
        ]
        text = json.dumps({"version": JSON_VERSION, "preset": preset.name, "points": document}, indent=2, default=str)
        write_atomically(json_path, text + "\n")
