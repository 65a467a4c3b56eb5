"""`dimmpim scheduling`: what dynamic command scheduling brings, and what programs cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.table import Table

from dimmpim.outputs import console_beside, write_json
from dimmpim.studies.scheduling import SchedulingPoint, measure
from pimspec.attention.shape import MAX_GQA_GROUP_SIZE, AttentionShape
from pimspec.params.presets import preset_named

from .options import (
    head_dim_option,
    json_option,
    kv_heads_option,
    preset_option,
    seed_option,
    step_backend_option,
    threads_option,
    token_counts,
)
from .parameters import command

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


@command()
@preset_option("ddr4-3200-x8-8gb")
@click.option(
    "--group",
    type=click.IntRange(1, MAX_GQA_GROUP_SIZE),
    default=1,
    show_default=True,
    help="Queries that share a kv_head; 1 is MHA.",
)
@kv_heads_option("Number of kv_heads of a request in this rank.")
@head_dim_option
@click.option(
    "--requests", type=click.IntRange(1, 256), default=2, show_default=True, help="Requests that run back to back."
)
@click.option(
    "--tokens",
    default="1024,2048,4096,8192,16384,32768",
    show_default=True,
    metavar="N,N,...",
    help="Context lengths.",
)
@seed_option()
@click.option(
    "--phases",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Refresh phases whose figures are averaged.",
)
@step_backend_option
@threads_option
@json_option
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
    """Compare static command order, dynamic scheduling and ideal issue, and the overhead of programs.

    Ideal issue waits for DRAM timing and refresh alone; `descriptors` runs the same step without a program. RTL results
    are compared with the golden model; the timing model has the same clock counts, within seconds.

    \b
    Examples:
      dimmpim scheduling --threads 2 --json scheduling.json
      dimmpim scheduling --preset ddr4-3200-x8-8gb-gqa8 --group 8 --kv-heads 4 --backend timing --phases 8
      dimmpim scheduling --preset tiny --group 2 --kv-heads 2 --head-dim 16 --tokens 64,256
    """
    counts = token_counts(tokens)
    preset = preset_named(preset_name)
    shape = AttentionShape(num_q_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=head_dim)
    params = preset.rank.for_shape(shape).with_dpa()
    console = console_beside(json_path)
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
    document = [
        {**asdict(p), "static_share": p.static_share, "dynamic_share": p.dynamic_share, "overhead": p.overhead}
        for p in points
    ]
    write_json(json_path, {"version": JSON_VERSION, "preset": preset.name, "points": document})
