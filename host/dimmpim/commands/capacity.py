"""`dimmpim capacity`: how much of the memory holds live tokens, static against lazy allocation."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import click
from rich.console import Console
from rich.table import Table

from pimcompiler.attention import num_regions
from pimhost.capacity import measure_capacity
from pimspec.attention.shape import AttentionShape
from pimspec.files import write_atomically
from pimspec.params.presets import preset_named

JSON_VERSION = 1
COLUMNS = ("static", "lazy", "static_of_capacity", "lazy_of_capacity")


@click.command()
@click.option("--preset", "preset_name", default="ddr4-3200-x8-8gb", show_default=True, metavar="NAME")
@click.option("--layers", default=2, show_default=True, help="Layers whose K and V lie in the rank.")
@click.option("--kv-heads", default=8, show_default=True, help="kv_heads of each.")
@click.option("--head-dim", default=128, show_default=True)
@click.option("--chunk-bytes", default=1 << 20, show_default=True, help="Bytes of a chunk, a power of two.")
@click.option("--trials", default=10, show_default=True, help="Fills of the rank for each data set.")
@click.option("--seed", default=1, show_default=True)
@click.option("--context", type=int, help="Tokens that static allocation reserves [default: the data set's most].")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def capacity(
    preset_name: str,
    layers: int,
    kv_heads: int,
    head_dim: int,
    chunk_bytes: int,
    trials: int,
    seed: int,
    context: int | None,
    json_path: Path | None,
) -> None:
    """Fill a rank with requests until one no longer fits, and compare live with granted bytes.

    Lengths are synthetic: truncated normal distributions with the published mean, standard deviation and range of each
    data set. Static allocation reserves the longest context for each request; lazy allocation grants chunks as tokens
    come. `of capacity` is live bytes over the whole rank; `requests` are those that fit, static / lazy.

    \b
    Examples:
      dimmpim capacity
      dimmpim capacity --layers 2 --kv-heads 32 --trials 3 --json capacity.json
      dimmpim capacity --context 131072
    """
    preset = preset_named(preset_name)
    shape = AttentionShape(num_q_heads=kv_heads, num_kv_heads=kv_heads, head_dim=head_dim, format=preset.format)
    params = preset.rank.for_shape(shape).with_dpa(num_slots=256, chunk_bytes=chunk_bytes).require_dpa()
    console = Console()
    with console.status("filling the rank"):
        points = measure_capacity(params, num_regions(shape, layers), trials=trials, seed=seed, context=context)
    means = {column: fmean(getattr(point, column) for point in points) for column in COLUMNS}
    table = Table(
        "lengths",
        "mean tokens",
        *(column.replace("_", " ") for column in COLUMNS),
        "requests",
        title=f"capacity utilization, {layers} layers of {kv_heads} kv_heads, chunks of {chunk_bytes} B",
    )
    for point in points:
        cells = [f"{getattr(point, column):.3f}" for column in COLUMNS]
        resident = f"{point.static_requests:.0f} / {point.lazy_requests:.0f}"
        table.add_row(point.dataset, f"{point.mean_tokens:.0f}", *cells, resident, end_section=point is points[-1])
    table.add_row("average", "", *(f"{means[column]:.3f}" for column in COLUMNS), "")
    console.print(table)
    if json_path:
        document = {
            "version": JSON_VERSION,
            "preset": preset.name,
            "lengths": "synthetic: truncated normal",
            "seed": seed,
            "trials": trials,
            "points": [asdict(point) for point in points],
            "average": means,
        }
        write_atomically(json_path, json.dumps(document, indent=2) + "\n")
