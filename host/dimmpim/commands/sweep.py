"""`dimmpim sweep`: many configurations into one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from dimmpim.commands.options import MOST_SEED
from dimmpim.commands.parameters import InputFile, OutputFile, group, require_companion
from dimmpim.commands.serving_options import (
    MOST_RATE,
    MOST_REQUESTS,
    admission_option,
    chosen_workload,
    format_option,
    gpu_model_option,
    jobs_option,
    until_option,
)
from dimmpim.outputs import progress_bar
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
from pimhost.systems.node import (
    DGX_A100,
    GIB,
    MOST_CHANNELS,
    MOST_RANK_BYTES,
    MOST_RANKS_PER_CHANNEL,
    MOST_TP,
)
from pimhost.systems.registry import SYSTEMS, system_named
from pimhost.workloads.lengths import LENGTHS
from pimhost.workloads.workload import Workload
from pimsim.timing.timing_model import timing_library
from pimspec.errors import ParameterError, UnknownNameError, require
from pimspec.params.presets import preset_named

_MOST_REASONS = 5
_NUMBERS = "N,..."
_MOST = {
    "tp": MOST_TP,
    "dp": MOST_CHANNELS,
    "channels": MOST_CHANNELS,
    "ranks_per_channel": MOST_RANKS_PER_CHANNEL,
    "rank_gib": MOST_RANK_BYTES // GIB,
}
_SCHEDULES = ("overlapped", "static_order")

many = partial(click.option, multiple=True)
"""An option that makes an axis of the grid."""


def _all(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _numbers_option(name: str, default: float, text: str) -> Callable[[Any], Any]:
    return many(name, default=[str(default)], show_default=True, metavar=_NUMBERS, help=text)


_output_options = _all(
    (
        click.option(
            "--out", required=True, type=OutputFile(dash=False), metavar="FILE", help="Table: FILE.csv or FILE.parquet."
        ),
        click.option("--resume", is_flag=True, help="Keep the existing rows, and add the missing ones."),
        jobs_option,
        click.option("--ray", metavar="ADDRESS", help="Ray cluster to run on, such as auto or ray://host:10001."),
    )
)
_node_options = _all(
    (
        many("--gpu", default=[DGX_A100.gpu], show_default=True, metavar="NAME", help=f"GPU: {', '.join(GPUS)}."),
        _numbers_option("--tp", DGX_A100.tp_size, "GPUs that hold one copy of the model."),
        _numbers_option("--dp", DGX_A100.dp_size, "Copies of the model, which share the channels."),
        _numbers_option("--channels", DGX_A100.channels, "Memory channels of the node."),
        _numbers_option("--ranks-per-channel", DGX_A100.ranks_per_channel, "Ranks of each channel."),
        _numbers_option("--rank-gib", DGX_A100.rank_bytes // GIB, "Capacity of a rank in GiB."),
        many(
            "--preset",
            default=[DGX_A100.preset],
            show_default=True,
            metavar="NAME",
            help="Hardware preset of a PIM rank.",
        ),
        gpu_model_option(multiple=True, default=[DGX_A100.gpu_model]),
        _numbers_option("--gpu-memory-share", DGX_A100.gpu_memory_share, "Share of GPU memory for weights, K and V."),
    )
)


@group()
def sweep() -> None:
    """Run a grid of configurations, and write a table with a row for each: CSV or Parquet.

    Repeatable options span the grid of all combinations. Numbers may be lists (1,2,4) and ranges: 1:9:2 is 1, 3, 5, 7,
    9, and 1024:8192:x2 is 1024, 2048, 4096, 8192. A configuration that cannot run has a row with the reason. Ctrl-C
    leaves the finished rows in FILE.partial.csv, and --resume continues with them.

    \b
    Examples:
      dimmpim sweep serve --system GPU --system L3 --model GPT-175B --lengths OpenR1 --rate 0.5:4:x2 --out rates.csv
      dimmpim sweep attention --preset ddr4-3200-x8-8gb --shape 8,8,128 --tokens 1024:131072:x2 --out rank.parquet
    """


@sweep.command(name="serve")
@many(
    "--system",
    required=True,
    metavar="NAME",
    help=f"Serving system: {', '.join(SYSTEMS)}, or FILE.py:CLASS for one of your own.",
)
@many("--model", required=True, metavar="NAME", help="Model name, or path of a Hugging Face config.json.")
@many("--trace", type=InputFile(), metavar="FILE", help="Request trace, plain or gzip.")
@format_option
@many("--lengths", metavar="NAME", help=f"Synthetic lengths: {', '.join(LENGTHS)}.")
@many("--requests", metavar=_NUMBERS, help="Number of requests [default: all of a trace; 1000 synthetic ones].")
@many("--rate", metavar=_NUMBERS, help="Poisson arrivals, requests per second on average.")
@_numbers_option("--seed", 1, "Seed for synthetic lengths and arrivals.")
@_node_options
@admission_option(multiple=True, default=[Admission.GROW.value])
@until_option
@_output_options
def sweep_serve(
    trace_format: str | None,
    until: float | None,
    out: Path,
    resume: bool,
    jobs: int | None,
    ray: str | None,
    **given: tuple[Any, ...],
) -> None:
    """Run serving systems under requests, each configuration as `dimmpim serve` runs it.

    docs/sweep.md describes the columns.

    \b
    Examples:
      dimmpim sweep serve --system GPU --system L3 --model Llama-3.1-70B --trace azure2023_conv.csv.gz --out runs.csv
      dimmpim sweep serve --system L3 --model QWEN-72B --lengths OpenThoughts --requests 200 --rate 0.5:8:x2 \\
        --channels 8,16 --ranks-per-channel 1:4:1 --gpu A100 --gpu H100 --jobs 8 --out grid.parquet
      dimmpim sweep serve --system L3 --system my_system.py:MySystem --model GPT-175B --lengths OpenR1 --seed 1:10:1 \\
        --ray auto --out seeds.parquet --resume
    """
    require_suffix("--out", out)
    require_companion("--format", trace_format and not given["trace"], "--trace")
    axes: dict[str, Sequence[Any]] = {
        "system": _different(_system_label(name) for name in given["system"]),
        "model": _different(_model_label(name) for name in given["model"]),
        "source": _sources(given["trace"], given["lengths"]),
        "requests_asked": numbers("--requests", given["requests"], int, least=1, most=MOST_REQUESTS) or [None],
        "rate": numbers("--rate", given["rate"], float, least=1e-9, most=MOST_RATE) or [None],
        "seed": numbers("--seed", given["seed"], int, least=0, most=MOST_SEED),
        "gpu": _different(gpu_named(name).name for name in given["gpu"]),
        "gpu_model": _different(given["gpu_model"]),
        **{
            name: numbers(f"--{name.replace('_', '-')}", given[name], int, least=1, most=most)
            for name, most in _MOST.items()
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
@many("--preset", required=True, metavar="NAME", help="Hardware preset; `dimmpim presets` lists them.")
@many("--shape", required=True, metavar="Q_HEADS,KV_HEADS,HEAD_DIM", help="Attention heads of a layer.")
@many("--tokens", required=True, metavar=_NUMBERS, help="Context lengths.")
@many(
    "--schedule",
    type=click.Choice(_SCHEDULES),
    default=[_SCHEDULES[0]],
    show_default=True,
    help="Banks and bus busy at the same time, or in turn.",
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
    """Run a decode step of attention on one rank in the timing model, which has the clock counts of the RTL.

    \b
    Examples:
      dimmpim sweep attention --preset ddr4-3200-x8-8gb --shape 8,8,128 --tokens 1024:131072:x2 --out mha.csv
      dimmpim sweep attention --preset ddr4-3200-x8-8gb --preset ddr4-3200-x8-16gb --shape 8,8,128 --shape 64,8,128 \\
        --tokens 500,1000:8000:1000 --schedule overlapped --schedule static_order --out shapes.parquet
    """
    require_suffix("--out", out)
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


def _sources(traces: Sequence[Path], lengths: Sequence[str]) -> list[tuple[str | None, str | None]]:
    if not (traces or lengths):
        raise ParameterError("give --trace or --lengths")
    known = {name.lower(): name for name in LENGTHS}
    for name in lengths:
        if name.lower() not in known:
            raise UnknownNameError("lengths", name, LENGTHS)
    named = _different(known[name.lower()] for name in lengths)
    return [*((str(trace), None) for trace in _different(traces)), *((None, name) for name in named)]


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
                progress_bar(console, *columns) as bar,
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
