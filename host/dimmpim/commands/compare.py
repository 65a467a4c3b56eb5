"""`dimmpim compare`: serving systems side by side on one trace, or beside the published figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dimmpim.api.serving import run_comparison
from dimmpim.commands.options import require_folder
from dimmpim.commands.serve import MACHINE, WORKLOAD
from dimmpim.commands.serving_options import (
    chosen_node,
    chosen_workload,
    machine_options,
    require_until,
    workload_options,
)
from dimmpim.output_files import require_distinct
from dimmpim.processes import available_cores
from dimmpim.reports.comparison import compare_html, published_html
from dimmpim.reports.serving import fitting_tables
from dimmpim.studies.comparison import run_jobs
from dimmpim.studies.published import (
    bandwidth_table,
    cells_of,
    published_document,
    published_jobs,
    published_tables,
)
from pimhost.models import shape_named
from pimhost.systems.chime import REQUESTS
from pimhost.systems.registry import SYSTEMS, system_named
from pimspec.errors import ParameterError, require
from pimspec.files import write_atomically

_DEFAULT = click.core.ParameterSource.DEFAULT


@click.command()
@click.option(
    "--systems",
    default=",".join(SYSTEMS),
    show_default=True,
    metavar="NAMES",
    help="With commas between them; FILE.py:CLASS for one of your own.",
)
@click.option("--model", metavar="NAME", help="A name, or the path of a Hugging Face config.json.")
@click.option("--published", is_flag=True, help="Beside L3/CHIME's figures: its models, data sets and machine.")
@workload_options
@machine_options
@click.option("--jobs", type=click.IntRange(min=1), help="Processes [default: the cores there are].")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots, HTML.")
@click.pass_context
def compare(
    context: click.Context,
    systems: str,
    model: str | None,
    published: bool,
    admission: str,
    until: float | None,
    jobs: int | None,
    json_path: Path | None,
    report: Path | None,
    **options: Any,
) -> None:
    """Serve the same requests with several systems, and print them side by side.

    For one without figures the reason is told; if none has any, the exit status is 1.

    With --published, all systems run the models and data sets of L3/CHIME's throughput figure on its machine (1,000
    requests unless --requests says otherwise, some minutes a core); its bandwidths are derived from the DRAM's timing.

    \b
    Examples:
      dimmpim compare --model Llama-3.1-70B --trace azure2023_conv.csv.gz --requests 2000
      dimmpim compare --systems GPU,L3,my_system.py:MySystem --model QWEN-72B --lengths OpenR1 --report report.html
      dimmpim compare --published --json published.json --report published.html
    """
    for option, path in (("--json", json_path), ("--report", report)):
        require_folder(option, path)
    require_distinct(json=json_path, report=report)
    console, processes = Console(), jobs or available_cores()
    if published:
        allowed = {"published", "requests", "jobs", "json_path", "report"}
        given = [n for n in context.params if n not in allowed and context.get_parameter_source(n) is not _DEFAULT]
        require(not given, "options", ", ".join(sorted(given)), "only --requests, --jobs, --json, --report beside it")
        _published(console, options["requests"] or REQUESTS, processes, json_path, report)
        return
    if model is None:
        raise ParameterError("give --model, or --published")
    require_until(until)
    names = _names(systems)
    shape, node = shape_named(model), chosen_node(**{name: options[name] for name in MACHINE})
    with console.status("reading requests"):
        workload = chosen_workload(**{name: options[name] for name in WORKLOAD})
    with _bar(console, len(names)) as on_done:
        compared = run_comparison(
            names,
            model,
            node,
            workload,
            admission=admission,
            until_s=until,
            seed=options["seed"],
            processes=processes,
            on_done=on_done,
        )
    runs, has_pim = compared.figures, compared.has_pim
    title = f"{shape.name}, {workload.name}: {len(workload):,} requests"
    if json_path:  # before anything is printed: a pipe may be closed by then
        write_atomically(json_path, json.dumps(compared.to_dict(), indent=2) + "\n")
    if report:
        write_atomically(report, compare_html(title, runs, has_pim, source=workload.source))
    console.print(title, highlight=False, soft_wrap=True)
    for table in fitting_tables(runs, has_pim, console.width):
        console.print(table)
    for label, figures in runs.items():
        if isinstance(figures, str):
            console.print(f"{label}: {figures}", highlight=False, soft_wrap=True, markup=False)
            continue
        for reason in figures.energy.missing:
            console.print(f"{label}, no energy: {reason}", highlight=False, soft_wrap=True)
    if not compared.runs:
        sys.exit(1)


def _names(systems: str) -> list[str]:
    """Names, or files, of systems that differ."""
    given = [part.strip() for part in systems.split(",")]
    labels = [system_named(name).name for name in given]
    require(len(set(labels)) == len(labels), "--systems", systems, "different systems")
    return given


@contextmanager
def _bar(console: Console, jobs: int) -> Iterator[Callable[[int], None]]:
    """A bar of the systems that are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("systems", total=jobs)
        yield lambda number: bar.update(task, advance=1)


def _published(console: Console, requests: int, processes: int, json_path: Path | None, report: Path | None) -> None:
    jobs = published_jobs(requests)
    with _bar(console, len(jobs)) as on_done:
        cells = cells_of(jobs, run_jobs(jobs, processes=processes, on_done=on_done))
    if json_path:
        write_atomically(json_path, json.dumps(published_document(cells, requests), indent=2) + "\n")
    if report:
        write_atomically(report, published_html(cells, requests))
    for table in (*published_tables(cells), bandwidth_table()):
        console.print(table)
    if requests != REQUESTS:
        console.print(f"{requests:,} requests instead of the paper's {REQUESTS:,}: the end of a run weighs differently")
