"""`dimmpim serve`: a serving system under a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from dimmpim.api.serving import run_serving
from dimmpim.commands.options import json_option
from dimmpim.commands.parameters import OutputFile, command
from dimmpim.commands.serving_options import (
    chosen_node,
    chosen_workload,
    machine_options,
    workload_options,
)
from dimmpim.outputs import console_beside, progress_bar, write_json, write_output
from dimmpim.reports.serving import energy_table, figures_table
from dimmpim.reports.serving_timeline import serve_timeline
from dimmpim.studies.comparison import faults_told
from pimhost.models import shape_named
from pimhost.serving.simulator import MOST_SPANS
from pimhost.systems.registry import SYSTEMS, system_named

MACHINE = ("gpu", "tp", "dp", "channels", "ranks_per_channel", "rank_gib", "preset", "gpu_memory_share", "gpu_model")
WORKLOAD = ("trace", "trace_format", "lengths_name", "requests", "rate", "seed")


@command()
@click.option(
    "--system",
    required=True,
    metavar="NAME",
    help=f"Serving system: {', '.join(SYSTEMS)}, or FILE.py:CLASS for one of your own.",
)
@click.option("--model", required=True, metavar="NAME", help="Model name, or path of a Hugging Face config.json.")
@workload_options
@machine_options
@json_option
@click.option(
    "--timeline",
    "timeline_path",
    type=OutputFile(),
    metavar="FILE",
    help="Write a trace for Perfetto or chrome://tracing.",
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
    """Simulate a serving system: throughput, TTFT, TPOT, batch size, utilization and energy.

    GPU times come from the fitted model (`dimmpim fit-gpu`) unless --gpu-model says otherwise; PIM times were measured
    on RTL (`dimmpim pim-latency`). The default node is that of L3/CHIME: 8 A100, 16 channels of DDR4-3200 with 64 ranks
    of 32 GiB. The same options and seed give the same output, byte for byte.

    \b
    Examples:
      dimmpim serve --system L3 --model Llama-3.1-70B --trace azure2023_conv.csv.gz
      dimmpim serve --system GPU --model Llama-3.1-70B --trace azure2023_conv.csv.gz --requests 2000 --json out.json
      dimmpim serve --system L3 --model GPT-175B --lengths OpenR1 --requests 200 --timeline timeline.json
      dimmpim serve --system my_system.py:MySystem --model QWEN-72B --lengths OpenThoughts --rate 0.5 --tp 4 --dp 2
    """
    chosen, shape = system_named(system), shape_named(model)
    node = chosen_node(**{name: options[name] for name in MACHINE})
    with faults_told(chosen.name):
        chosen(shape, node.replica())  # what cannot be served is said before the work begins
    console = console_beside(json_path, timeline_path)
    with console.status("reading requests"):
        workload = chosen_workload(**{name: options[name] for name in WORKLOAD})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with progress_bar(console, *columns) as bar:
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
        write_json(json_path, served.to_dict())
    if timeline_path:
        write_output(timeline_path, serve_timeline(outcomes[0], chosen))
    title = f"{shape.name} on {chosen.name}, {workload.name}: {len(workload):,} requests"
    console.print(title, highlight=False, soft_wrap=True)
    console.print(figures_table({chosen.name: figures}, {chosen.name: chosen.has_pim}))
    console.print(energy_table(figures))
    for reason in figures.energy.missing:
        console.print(f"no energy: {reason}", highlight=False, soft_wrap=True)
