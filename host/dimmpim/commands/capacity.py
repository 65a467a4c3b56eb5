"""`dimmpim capacity`: how much of the memory holds live tokens, static against lazy allocation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import click
from rich.table import Table

from dimmpim.outputs import console_beside, write_json
from pimhost.capacity import measure_capacity
from pimspec.attention.regions import num_regions
from pimspec.attention.shape import AttentionShape
from pimspec.params.presets import preset_named

from .options import head_dim_option, json_option, kv_heads_option, preset_option, seed_option
from .parameters import command

JSON_VERSION = 1
MOST_LAYERS = 1024
COLUMNS = ("static", "lazy", "static_of_capacity", "lazy_of_capacity")


@command()
@preset_option("ddr4-3200-x8-8gb")
@click.option(
    "--layers",
    type=click.IntRange(1, MOST_LAYERS),
    default=2,
    show_default=True,
    help="Layers whose K and V lie in the rank.",
)
@kv_heads_option("Number of kv_heads of each layer.")
@head_dim_option
@click.option(
    "--chunk-bytes",
    type=click.IntRange(1),
    default=1 << 20,
    show_default=True,
    help="Bytes of a chunk, a power of two.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 10_000),
    default=10,
    show_default=True,
    help="Times that the rank is filled for each data set.",
)
@seed_option("Seed for the synthetic lengths.")
@click.option(
    "--context",
    type=click.IntRange(1, 1 << 31),
    metavar="TOKENS",
    help="Tokens that static allocation reserves [default: the longest of the data set].",
)
@json_option
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
    """Compare memory utilization of static and lazy KV-cache allocation in one rank.

    The rank is filled with requests until one no longer fits. Lengths are synthetic: truncated normal distributions
    with the published mean, standard deviation and range of each data set. Static allocation reserves the longest
    context for each request; lazy allocation grants chunks as tokens come. `static` and `lazy` are live over granted
    bytes, `of capacity` live bytes over the whole rank; `requests` are those that fit, static / lazy.

    \b
    Examples:
      dimmpim capacity
      dimmpim capacity --layers 2 --kv-heads 32 --trials 3 --json capacity.json
      dimmpim capacity --context 131072
    """
    preset = preset_named(preset_name)
    shape = AttentionShape(num_q_heads=kv_heads, num_kv_heads=kv_heads, head_dim=head_dim, format=preset.format)
    params = preset.rank.for_shape(shape).with_dpa(num_slots=256, chunk_bytes=chunk_bytes).require_dpa()
    console = console_beside(json_path)
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
    document = {
        "version": JSON_VERSION,
        "preset": preset.name,
        "lengths": "synthetic: truncated normal",
        "seed": seed,
        "trials": trials,
        "points": [asdict(point) for point in points],
        "average": means,
    }
    write_json(json_path, document)
