"""`dimmpim ablation`: what bank PUs, re-layout and pipeline bring, beside CHIME's published ratios."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dimmpim.studies.ablation import DESIGNS, AblationPoint, measure
from pimhost.published import CHIME_ABLATION, CHIME_TOKENS
from pimspec.attention.shape import AttentionShape
from pimspec.files import write_atomically
from pimspec.params.presets import preset_named

from .options import require_folder, step_backend_option, token_counts

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


@click.command()
@click.option("--preset", "preset_name", default="ddr4-3200-x8-8gb", show_default=True, metavar="NAME")
@click.option("--group", "groups", type=int, multiple=True, help="Queries of a kv_head [default: 1 and 8]; repeatable.")
@click.option("--kv-heads", default=8, show_default=True, help="kv_heads of the layer that lie in this rank.")
@click.option("--head-dim", default=128, show_default=True)
@click.option("--tokens", default=",".join(map(str, CHIME_TOKENS)), show_default=True, metavar="N,N,...")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the synthetic data.")
@step_backend_option
@click.option("--threads", type=click.IntRange(1, 2), default=1, show_default=True, help="CPU cores to use.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def ablation(
    preset_name: str,
    groups: tuple[int, ...],
    kv_heads: int,
    head_dim: int,
    tokens: str,
    seed: int,
    backend: str,
    threads: int,
    json_path: Path | None,
) -> None:
    """Latency of a decode step with a PU on the buffer chip only (R-DP), bank PUs, re-layout, and pipeline.

    +Relayout and +Pipeline are RTL, compared with the golden model, or its timing model, the same clocks in seconds;
    Base adds the time in which the host would bring the vectors of the step into the order of the chips; R-DP is the
    least that the rank's bus allows. The last figure of a cell is the share of the peak bandwidth inside the rank.

    \b
    Examples:
      dimmpim ablation --threads 2 --json ablation.json
      dimmpim ablation --backend timing
      dimmpim ablation --preset tiny --group 2 --kv-heads 2 --head-dim 16 --tokens 64,256
    """
    require_folder("--json", json_path)
    counts = token_counts(tokens)
    preset = preset_named(preset_name)
    shapes = [
        AttentionShape(num_q_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=head_dim)
        for group in groups or (1, 8)
    ]
    console = Console()
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
    if json_path:
        text = json.dumps({"version": JSON_VERSION, "preset": preset.name, "points": document}, indent=2, default=str)
        write_atomically(json_path, text + "\n")
