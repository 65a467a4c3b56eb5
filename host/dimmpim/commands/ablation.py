"""`dimmpim ablation`: what bank PUs, re-layout and pipeline bring, beside CHIME's published ratios."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from dimmpim.api.presets import preset_under
from dimmpim.outputs import console_beside, write_json
from dimmpim.studies.ablation import DESIGNS, AblationPoint, measure
from pimhost.published import CHIME_ABLATION, CHIME_TOKENS
from pimspec.attention.shape import MAX_GQA_GROUP_SIZE, AttentionShape

from .options import (
    head_dim_option,
    json_option,
    kv_heads_option,
    preset_option,
    rules_options,
    seed_option,
    step_backend_option,
    threads_option,
    token_counts,
)
from .parameters import command

JSON_VERSION = 1


def _table(name: str, points: list[AblationPoint]) -> Table:
    title = f"{name}, {points[0].shape.num_kv_heads} kv_heads: latency over Base, ours / CHIME's; R-DP over it; of peak"
    table = Table("design", *(f"{point.tokens} tokens" for point in points), title=title)
    for design in DESIGNS:
        cells = []
        for point in points:
            published = "-"
            if name in CHIME_ABLATION and point.tokens in CHIME_TOKENS:
                column = CHIME_TOKENS.index(point.tokens)
                theirs = {d: CHIME_ABLATION[name][d][column] for d in DESIGNS}
                published = f"{theirs[design]:.3f}"
                speedup = f"{1 / point.ratio(design, 'R-DP'):.2f}x / {theirs['R-DP'] / theirs[design]:.2f}x"
            else:
                speedup = f"{1 / point.ratio(design, 'R-DP'):.2f}x"
            peak = point.utilization_of_peak[design]
            cells.append(f"{point.ratio(design):.3f} / {published}\n{speedup}\n{peak:.3f}")
        table.add_row(design, *cells, end_section=True)
    return table


@command()
@preset_option("ddr4-3200-x8-8gb")
@click.option(
    "--group",
    "groups",
    type=click.IntRange(1, MAX_GQA_GROUP_SIZE),
    multiple=True,
    help="Queries that share a kv_head; repeatable [default: 1 and 8].",
)
@kv_heads_option("Number of kv_heads of the layer in this rank.")
@head_dim_option
@click.option(
    "--tokens",
    default=",".join(map(str, CHIME_TOKENS)),
    show_default=True,
    metavar="N,N,...",
    help="Context lengths.",
)
@seed_option()
@step_backend_option
@rules_options
@threads_option
@json_option
def ablation(
    preset_name: str,
    groups: tuple[int, ...],
    kv_heads: int,
    head_dim: int,
    tokens: str,
    seed: int,
    backend: str,
    rules: dict[str, Any],
    threads: int,
    json_path: Path | None,
) -> None:
    """Compare decode-step latency of four designs: R-DP, Base, +Relayout and +Pipeline.

    R-DP, a PU on the buffer chip only, takes the least time that the rank's bus allows. Base has bank PUs, and adds the
    time in which the host would re-order the vectors of the step. +Relayout and +Pipeline are simulated, as RTL with
    results checked against the golden model, or by the timing model. The last figure of a cell is the share of the
    rank's internal peak bandwidth.

    \b
    Examples:
      dimmpim ablation --threads 2 --json ablation.json
      dimmpim ablation --backend timing
      dimmpim ablation --backend timing --group 8 --bus-tccd short
      dimmpim ablation --preset tiny --group 2 --kv-heads 2 --head-dim 16 --tokens 64,256
    """
    counts = token_counts(tokens)
    preset = preset_under(preset_name, **rules)
    shapes = [
        AttentionShape(num_q_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=head_dim)
        for group in groups or (1, 8)
    ]
    console = console_beside(json_path)
    document = []
    for shape in shapes:
        name = f"GQA-{shape.gqa_group_size}" if shape.gqa_group_size > 1 else "MHA"
        with console.status(name) as status:
            points = list(
                measure(
                    preset.rank.for_shape(shape), shape, counts, backend=backend, threads=threads, seed=seed,
                    progress=status.update,
                )
            )  # fmt: skip
        console.print(_table(name, points))
        document += [{"name": name, **asdict(point)} for point in points]
    write_json(json_path, {"version": JSON_VERSION, "preset": preset.name, "points": document})
