"""`dimmpim sweep`: many configurations into one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dimmpim.commands.options import require_folder
from dimmpim.commands.serving_options import chosen_workload, gpu_model_option, require_until
from dimmpim.processes import available_cores
from dimmpim.sweep.grid import grid, numbers
from dimmpim.sweep.run import SweepTable, here, on_ray
from dimmpim.sweep.studies import ATTENTION, SERVE, Point, Study, files_digest
from dimmpim.sweep.table import ERROR, Row, require_suffix
from pimhost.gpu.registry import gpu_times
from pimhost.gpu.specs import GPUS, gpu_named
from pimhost.kv_file import MAX_TOKENS, parse_shape
from pimhost.models import MODELS, shape_named
from pimhost.serving.simulator import Admission
from pimhost.systems.node import DGX_A100, GIB
from pimhost.systems.registry import SYSTEMS, system_named
from pimhost.workloads.lengths import LENGTHS
from pimhost.workloads.readers import FORMATS
from pimhost.workloads.workload import Workload
from pimsim.timing.timing_model import timing_library
from pimspec.errors import UnknownNameError, require
from pimspec.params.presets import preset_named

_MOST_REASONS = 5
_NUMBERS = "N,..."
_SCHEDULES = ("overlapped", "static_order")

many = partial(click.option, multiple=True)
"""An option that makes an axis of the grid."""


def _all(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_output_options = _all(
    (
        click.option(
            "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="FILE.csv or FILE.parquet."
        ),
        click.option("--resume", is_flag=True, help="Keep the rows that are there, and add those that are missing."),
        click.option("--jobs", type=click.IntRange(min=1), help="At a time [default: the cores there are]."),
        click.option("--ray", metavar="ADDRESS", help="On this Ray cluster instead, such as auto or ray://host:10001."),
    )
)
_node_options = _all(
    (
        many("--gpu", default=[DGX_A100.gpu], show_default=True, metavar="NAME", help=", ".join(GPUS)),
        many("--tp", default=[str(DGX_A100.tp_size)], show_default=True, metavar=_NUMBERS, help="GPUs of one copy."),
        many("--dp", default=[str(DGX_A100.dp_size)], show_default=True, metavar=_NUMBERS, help="Copies."),
        many("--channels", default=[str(DGX_A100.channels)], show_default=True, metavar=_NUMBERS),
        many("--ranks-per-channel", default=[str(DGX_A100.ranks_per_channel)], show_default=True, metavar=_NUMBERS),
        many("--rank-gib", default=[str(DGX_A100.rank_bytes // GIB)], show_default=True, metavar=_NUMBERS),
        many("--preset", default=[DGX_A100.preset], show_default=True, metavar="NAME", help="Of the rank with PIM."),
        gpu_model_option(multiple=True, default=[DGX_A100.gpu_model]),
        many("--gpu-memory-share", default=[str(DGX_A100.gpu_memory_share)], show_default=True, metavar=_NUMBERS),
    )
)


@click.group()
def sweep() -> None:
    """Run many configurations, and write a table with a row for each: CSV or Parquet.

    Options that may be given several times make a grid of all combinations. Numbers may be lists (1,2,4) and ranges:
    1:9:2 is 1, 3, 5, 7, 9, and 1024:8192:x2 is 1024, 2048, 4096, 8192. A configuration that cannot run is a row too,
    with its reason. Ctrl-C leaves the finished rows in FILE.partial.csv, and --resume goes on with them.

    \b
    Examples:
      dimmpim sweep serve --system GPU --system L3 --model GPT-175B --lengths OpenR1 --rate 0.5:4:x2 --out rates.csv
      dimmpim sweep attention --preset ddr4-3200-x8-8gb --shape 8,8,128 --tokens 1024:131072:x2 --out rank.parquet
    """


@sweep.command(name="serve")
@many("--system", required=True, metavar="NAME", help=f"{', '.join(SYSTEMS)}, or FILE.py:CLASS for one of your own.")
@many("--model", required=True, metavar="NAME", help="A name, or the path of a Hugging Face config.json.")
@many("--trace", type=click.Path(exists=True, dir_okay=False), help="Plain or gzip.")
@click.option("--format", "trace_format", metavar="NAME", help=f"{', '.join(FORMATS)} [default: recognised].")
@many("--lengths", metavar="NAME", help=f"Synthetic lengths: {', '.join(LENGTHS)}.")
@many("--requests", metavar=_NUMBERS, help="So many [default: all of a trace; 1000].")
@many("--rate", metavar=_NUMBERS, help="Arrivals: a Poisson process of so many requests a second.")
@many("--seed", default=["1"], show_default=True, metavar=_NUMBERS)
@_node_options
@many(
    "--admission",
    type=click.Choice([a.value for a in Admission]),
    default=[Admission.GROW.value],
    show_default=True,
    help="A request begins with memory for its prompt, or for all it will need.",
)
@click.option("--until", type=float, metavar="S", help="Stop each run after S seconds of simulated time.")
@_output_options
def sweep_serve(
    trace_format: str | None,
    until: float | None,
    out: Path,
    resume: bool,
    jobs: int | None,
    ray: str | None,
    **given: tuple[str, ...],
) -> None:
    """Serving systems under requests, as `dimmpim serve` runs one.

    Every option of the grid may be given several times; the columns are told in docs/sweep.md.

    \b
    Examples:
      dimmpim sweep serve --system GPU --system L3 --model Llama-3.1-70B --trace azure2023_conv.csv.gz --out runs.csv
      dimmpim sweep serve --system L3 --model QWEN-72B --lengths OpenThoughts --requests 200 --rate 0.5:8:x2 \\
        --channels 8,16 --ranks-per-channel 1:4:1 --gpu A100 --gpu H100 --jobs 8 --out grid.parquet
      dimmpim sweep serve --system L3 --system my_system.py:MySystem --model GPT-175B --lengths OpenR1 --seed 1:10:1 \\
        --ray auto --out seeds.parquet --resume
    """
    _require_out(out)
    require_until(until)
    require(bool(given["trace"]) or not trace_format, "--format", trace_format, "given with --trace only")
    axes: dict[str, Sequence[Any]] = {
        "system": _different(_system_label(name) for name in given["system"]),
        "model": _different(_model_label(name) for name in given["model"]),
        "source": _sources(given["trace"], given["lengths"]),
        "requests_asked": numbers("--requests", given["requests"], int, least=1) or [None],
        "rate": numbers("--rate", given["rate"], float, least=1e-9) or [None],
        "seed": numbers("--seed", given["seed"], int, least=0),
        "gpu": _different(gpu_named(name).name for name in given["gpu"]),
        "gpu_model": _different(given["gpu_model"]),
        **{
            name: numbers(f"--{name.replace('_', '-')}", given[name], int, least=1)
            for name in ("tp", "dp", "channels", "ranks_per_channel", "rank_gib")
        },
        "preset": _different(preset_named(name).name for name in given["preset"]),
        "gpu_memory_share": numbers("--gpu-memory-share", given["gpu_memory_share"], float, least=0, most=1),
        "admission": _different(given["admission"]),
    }
    for model in axes["gpu_model"]:
        gpu_times(model, axes["gpu"][0])  # so that a package that is missing is said before the work begins
    configurations = grid(axes)
    for row in configurations:
        row["trace"], row["lengths"] = row.pop("source")
        row["trace_format"] = trace_format if row["trace"] else None
        row["until_s"] = until
        row["files_sha256"] = files_digest(_files(row))
    with Console().status("reading requests"):  # so that a fault in a trace is said before the work begins
        for options in {tuple(_workload_options(row).items()) for row in configurations}:
            _workload(**dict(options))
    _sweep(
        SERVE,
        configurations,
        _serve_point,
        out,
        resume=resume,
        jobs=jobs,
        ray=ray,
    )


@sweep.command(name="attention")
@many("--preset", required=True, metavar="NAME", help="See `dimmpim presets`.")
@many("--shape", required=True, metavar="Q_HEADS,KV_HEADS,HEAD_DIM", help="Of one layer.")
@many("--tokens", required=True, metavar=_NUMBERS, help="Of the context.")
@many(
    "--schedule",
    type=click.Choice(_SCHEDULES),
    default=[_SCHEDULES[0]],
    show_default=True,
    help="Banks and bus at the same time, or in turns.",
)
@_output_options
def sweep_attention(
    preset: tuple[str, ...],
    shape: tuple[str, ...],
    tokens: tuple[str, ...],
    schedule: tuple[str, ...],
    out: Path,
    resume: bool,
    jobs: int | None,
    ray: str | None,
) -> None:
    """Attention of a decode step on one rank, by the timing model, which has the clocks of the RTL.

    \b
    Examples:
      dimmpim sweep attention --preset ddr4-3200-x8-8gb --shape 8,8,128 --tokens 1024:131072:x2 --out mha.csv
      dimmpim sweep attention --preset ddr4-3200-x8-8gb --preset ddr4-3200-x8-16gb --shape 8,8,128 --shape 64,8,128 \\
        --tokens 500,1000:8000:1000 --schedule overlapped --schedule static_order --out shapes.parquet
    """
    _require_out(out)
    axes = {
        "preset": _different(preset_named(name).name for name in preset),
        "shape": _different(_heads(text) for text in shape),
        "tokens": numbers("--tokens", tokens, int, least=1, most=MAX_TOKENS),
        "schedule": _different(schedule),
    }
    configurations = grid(axes)
    for row in configurations:
        row["num_q_heads"], row["num_kv_heads"], row["head_dim"] = row.pop("shape")
    if not ray:
        timing_library()  # once, not in each process
    _sweep(ATTENTION, configurations, Point, out, resume=resume, jobs=jobs, ray=ray)


def _require_out(out: Path) -> None:
    require_folder("--out", out)
    require_suffix("--out", out)


def _different(values: Any) -> list[Any]:
    """Each once, in their order."""
    return list(dict.fromkeys(values))


def _system_label(name: str) -> str:
    """The project's name of it, or the file as given."""
    system = system_named(name)
    return system.name if SYSTEMS.get(system.name) is system else name


def _model_label(name: str) -> str:
    shape = shape_named(name)
    return shape.name if MODELS.get(shape.name) is shape else name


def _heads(text: str) -> tuple[int, int, int]:
    require(text.count(",") == 2, "--shape", text, "three numbers: q_heads,kv_heads,head_dim")
    shape, _ = parse_shape(f"{text},1")
    return shape.num_q_heads, shape.num_kv_heads, shape.head_dim


def _sources(traces: Sequence[str], lengths: Sequence[str]) -> list[tuple[str | None, str | None]]:
    require(bool(traces or lengths), "source", "none", "--trace, --lengths, or several of them")
    known = {name.lower(): name for name in LENGTHS}
    for name in lengths:
        if name.lower() not in known:
            raise UnknownNameError("lengths", name, LENGTHS)
    named = _different(known[name.lower()] for name in lengths)
    return [*((trace, None) for trace in _different(traces)), *((None, name) for name in named)]


def _files(row: Mapping[str, Any]) -> tuple[str, ...]:
    """That a configuration depends on."""
    files = [row["trace"], row["system"].rpartition(":")[0], None if row["model"] in MODELS else row["model"]]
    return tuple(name for name in files if name)


def _workload_options(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trace": None if row["trace"] is None else Path(row["trace"]),
        "trace_format": row["trace_format"],
        "lengths_name": row["lengths"],
        "requests": row["requests_asked"],
        "rate": row["rate"],
        "seed": row["seed"],
    }


@lru_cache(maxsize=64)
def _workload(**options: Any) -> Workload:
    return chosen_workload(**options)


def _serve_point(row: Row) -> Point:
    system, model = row["system"], row["model"]
    return Point(
        row,
        _workload(**_workload_options(row)),
        system=system if system in SYSTEMS else str(Path(system).absolute()),
        model=model if model in MODELS else str(Path(model).absolute()),
    )


def _sweep(
    study: Study,
    configurations: Sequence[Row],
    point: Callable[[Row], Point],
    out: Path,
    *,
    resume: bool,
    jobs: int | None,
    ray: str | None,
) -> None:
    """Run what is missing, write the table, and say what is in it."""
    console, table = Console(), SweepTable(study.layout, out, resume=resume)
    missing = table.missing(configurations)
    failed = 0
    if missing:
        executor = on_ray(ray, jobs) if ray else here(jobs or available_cores())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        try:
            with (
                Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
                closing(executor(study, [partial(point, row) for row in missing])) as rows,
            ):
                task = bar.add_task("configurations", total=len(configurations))
                bar.update(task, completed=len(configurations) - len(missing))
                for row in rows:
                    table.add(row)
                    failed += row[ERROR] is not None
                    what = f"configurations, {failed} without figures" if failed else "configurations"
                    bar.update(task, advance=1, description=what)
        except BaseException:
            if table.has_new_rows:
                there, where = len(table.rows(configurations)), table.save()
                click.echo(f"{there} of {len(configurations)} configurations are in {where}; add --resume", err=True)
            raise
    table.finish(configurations)
    rows_found = table.rows(configurations)[: len(configurations)]
    reasons = _different(row[ERROR] for row in rows_found if row[ERROR] is not None)
    said = [f"{len(configurations):,} configurations"]
    if len(missing) < len(configurations):
        said.append(f"{len(configurations) - len(missing):,} of them were there")
    if reasons:
        said.append(f"{sum(row[ERROR] is not None for row in rows_found):,} without figures")
    console.print(f"{out}: {', '.join(said)}", highlight=False, soft_wrap=True, markup=False)
    for reason in reasons[:_MOST_REASONS]:
        console.print(f"  {reason}", highlight=False, soft_wrap=True, markup=False)
    if len(reasons) > _MOST_REASONS:
        console.print(f"  and {len(reasons) - _MOST_REASONS:,} other reasons", highlight=False)
