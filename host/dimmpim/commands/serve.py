"""`dimmpim serve`: a serving system under a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dimmpim.api.serving import run_serving
from dimmpim.commands.options import require_folder
from dimmpim.commands.serving_options import (
    chosen_node,
    chosen_workload,
    machine_options,
    require_until,
    workload_options,
)
from dimmpim.output_files import require_distinct
from dimmpim.reports.serving import energy_table, figures_table
from dimmpim.reports.serving_timeline import serve_timeline
from dimmpim.studies.comparison import faults_told
from pimhost.models import shape_named
from pimhost.serving.simulator import MOST_SPANS
from pimhost.systems.registry import SYSTEMS, system_named
from pimspec.files import write_atomically

MACHINE = ("gpu", "tp", "dp", "channels", "ranks_per_channel", "rank_gib", "preset", "gpu_memory_share", "gpu_model")
WORKLOAD = ("trace", "trace_format", "lengths_name", "requests", "rate", "seed")


@click.command()
@click.option(
    "--system", required=True, metavar="NAME", help=f"{', '.join(SYSTEMS)}, or FILE.py:CLASS for one of your own."
)
@click.option("--model", required=True, metavar="NAME", help="A name, or the path of a Hugging Face config.json.")
@workload_options
@machine_options
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
@click.option(
    "--timeline", "timeline_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a trace for Perfetto."
)
def serve(
    system: str,
    model: str,
    admission: str,
    until: float | None,
    json_path: Path | None,
    timeline_path: Path | None,
    **options: Any,
) -> None:
    """Simulate a serving system: throughput, TTFT, TPOT, batch, utilisation, energy.

    GPU times are those of the fitted model (`dimmpim fit-gpu`) unless --gpu-model says otherwise, PIM times were
    measured on RTL (`dimmpim pim-latency`). The node is that of L3/CHIME unless said otherwise: 8 A100, 16 channels of
    DDR4-3200 with 64 ranks of 32 GiB. The same options and seed give the same bytes of output.

    \b
    Examples:
      dimmpim serve --system L3 --model Llama-3.1-70B --trace azure2023_conv.csv.gz
      dimmpim serve --system GPU --model Llama-3.1-70B --trace azure2023_conv.csv.gz --requests 2000 --json out.json
      dimmpim serve --system L3 --model GPT-175B --lengths OpenR1 --requests 200 --timeline timeline.json
      dimmpim serve --system my_system.py:MySystem --model QWEN-72B --lengths OpenThoughts --rate 0.5 --tp 4 --dp 2
    """
    for option, path in (("--json", json_path), ("--timeline", timeline_path)):
        require_folder(option, path)
    require_distinct(json=json_path, timeline=timeline_path)
    require_until(until)
    chosen, shape = system_named(system), shape_named(model)
    node = chosen_node(**{name: options[name] for name in MACHINE})
    with faults_told(chosen.name):
        chosen(shape, node.replica())  # what cannot be served is said before the work begins
    console = Console()
    with console.status("reading requests"):
        workload = chosen_workload(**{name: options[name] for name in WORKLOAD})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{chosen.name}, {shape.name}", total=len(workload))
        served, outcomes = run_serving(
            chosen,
            shape,
            node,
            workload,
            admission=admission,
            until_s=until,
            seed=options["seed"],
            most_spans=MOST_SPANS if timeline_path else 0,
            on_progress=lambda ended: bar.update(task, completed=ended),
        )
    figures = served.figures
    if json_path:  # before anything is printed: a pipe may be closed by then
        write_atomically(json_path, json.dumps(served.to_dict(), indent=2) + "\n")
    if timeline_path:
        write_atomically(timeline_path, serve_timeline(outcomes[0], chosen))
    title = f"{shape.name} on {chosen.name}, {workload.name}: {len(workload):,} requests"
    console.print(title, highlight=False, soft_wrap=True)
    console.print(figures_table({chosen.name: figures}, {chosen.name: chosen.has_pim}))
    console.print(energy_table(figures))
    for reason in figures.energy.missing:
        console.print(f"no energy: {reason}", highlight=False, soft_wrap=True)
