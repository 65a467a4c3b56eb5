"""`dimmpim compare`: serving systems side by side on one trace, or beside the published figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from dimmpim.api.serving import run_comparison
from dimmpim.commands.options import json_option
from dimmpim.commands.parameters import OutputFile, command
from dimmpim.commands.serve import MACHINE, WORKLOAD
from dimmpim.commands.serving_options import (
    chosen_node,
    chosen_workload,
    jobs_option,
    machine_options,
    workload_options,
)
from dimmpim.endings import FAILED
from dimmpim.outputs import console_beside, progress_bar, write_json, write_output
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

_DEFAULT = click.core.ParameterSource.DEFAULT


@command()
@click.option(
    "--systems",
    default=",".join(SYSTEMS),
    show_default=True,
    metavar="NAME,NAME,...",
    help="Serving systems separated by commas; FILE.py:CLASS for one of your own.",
)
@click.option("--model", metavar="NAME", help="Model name, or path of a Hugging Face config.json.")
@click.option("--published", is_flag=True, help="Models, data sets and machine of L3/CHIME, beside its figures.")
@workload_options
@machine_options
@jobs_option
@json_option
@click.option("--report", type=OutputFile(), metavar="FILE.html", help="Write an HTML page with plots.")
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
    """Simulate several serving systems under the same requests, and print their figures side by side.

    A system that cannot serve the model has the reason in place of figures; if none has figures, the exit status is 1.

    With --published, all systems run the models and data sets of L3/CHIME's throughput figure on its machine (1,000
    requests unless --requests says otherwise, some minutes on each core); its bandwidths are derived from DRAM timing.

    \b
    Examples:
      dimmpim compare --model Llama-3.1-70B --trace azure2023_conv.csv.gz --requests 2000
      dimmpim compare --systems GPU,L3,my_system.py:MySystem --model QWEN-72B --lengths OpenR1 --report report.html
      dimmpim compare --published --json published.json --report published.html
    """
    console, processes = console_beside(json_path, report), jobs or available_cores()
    if published:
        allowed = {"published", "requests", "jobs", "json_path", "report"}
        given = [n for n in context.params if n not in allowed and context.get_parameter_source(n) is not _DEFAULT]
        if given:
            refused = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in given))
            raise ParameterError(
                f"--published excludes {refused}: it takes --requests, --jobs, --json and --report only"
            )
        _published(console, options["requests"] or REQUESTS, processes, json_path, report)
        return
    if model is None:
        raise ParameterError("give --model, or --published")
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
        write_json(json_path, compared.to_dict())
    if report:
        write_output(report, compare_html(title, runs, has_pim, source=workload.source))
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
        context.exit(FAILED)


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
    with progress_bar(console, *columns) as bar:
        task = bar.add_task("systems", total=jobs)
        yield lambda number: bar.update(task, advance=1)


def _published(console: Console, requests: int, processes: int, json_path: Path | None, report: Path | None) -> None:
    jobs = published_jobs(requests)
    with _bar(console, len(jobs)) as on_done:
        cells = cells_of(jobs, run_jobs(jobs, processes=processes, on_done=on_done))
    if json_path:
        write_json(json_path, published_document(cells, requests))
    if report:
        write_output(report, published_html(cells, requests))
    for table in (*published_tables(cells), bandwidth_table()):
        console.print(table)
    if requests != REQUESTS:
        console.print(f"{requests:,} requests instead of the paper's {REQUESTS:,}: the end of a run weighs differently")
