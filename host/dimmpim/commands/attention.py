"""`dimmpim attention`: one decode step of attention on a backend, with its error against float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import rich.progress as bars
from rich.console import Console
from rich.progress import TextColumn, TimeElapsedColumn
from rich.table import Table

from dimmpim.api.attention import BACKENDS, Progress, run_attention
from dimmpim.api.clocks import attention_time
from dimmpim.api.presets import preset_of
from dimmpim.commands.model_time import model_time_tables
from dimmpim.output_files import require_distinct
from pimhost.kv_file import DecodeStep, load_step, parse_shape, synthetic_step
from pimspec.dram.command_trace import write_trace
from pimspec.errors import ParameterError, require
from pimspec.files import write_atomically

from .options import require_folder

BITS_FIELDS = ("output_fp32_bits",)
_OF_DATA = {
    "kv": "--kv", "layer": "--layer", "step": "--step", "shape": "--shape", "seed": "--seed", "backend": "--backend",
    "trace_path": "--trace-commands", "waves_path": "--waves", "threads": "--threads",
}  # fmt: skip


def _require_source(kv: Path | None, layer: int | None, step: int | None, shape: str | None, seed: int) -> None:
    if (kv is None) == (shape is None):
        raise ParameterError("give one of --kv FILE.npz with --layer and --step, --shape, and --model")
    require(kv is not None or (layer is None and step is None), "--layer and --step", (layer, step), "given with --kv")
    require(seed >= 0, "--seed", seed, "0 or more")
    given = layer is not None and step is not None
    require(kv is None or given, "--layer and --step", (layer, step), "given with --kv")


def _read_step(kv: Path | None, layer: int | None, step: int | None, shape: str | None, seed: int) -> DecodeStep:
    if kv is None:
        return synthetic_step(*parse_shape(shape or ""), seed)
    return load_step(kv, layer, step)  # type: ignore[arg-type]


def _require_only_model(context: click.Context) -> None:
    """That nothing is given beside --model that is about data."""
    for name, option in _OF_DATA.items():
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        value = context.params[name]
        ok = not given or (name == "backend" and value == "timing")
        require(ok, option, str(value), "timing with --model" if name == "backend" else "left out with --model")


def _of_model(
    console: Console,
    model: str,
    preset_name: str,
    static_order: bool,
    json_path: Path | None,
    numbers: dict[str, int | None],
) -> None:
    """``--model``: the time that the attention of a model takes."""
    require_folder("--json", json_path)
    given = {option.removeprefix("--"): number for option, number in numbers.items() if number is not None}
    time = attention_time(model, **{"tokens": 8192, **given}, preset=preset_name, static_order=static_order)
    if json_path:
        write_atomically(json_path, json.dumps(time.to_dict(), indent=2) + "\n")
    gpus = f", {time.tp} GPUs" if time.tp > 1 else ""
    title = f"{time.model} on {time.ranks} rank{'s' if time.ranks > 1 else ''} of {time.preset}{gpus}"
    console.print(title, highlight=False, soft_wrap=True)
    for table in model_time_tables(time):
        console.print(table)
    if not time.fits_in_memory:
        console.print("K and V do not fit into the ranks: more ranks, or fewer tokens", highlight=False)


@contextmanager
def _progress(console: Console, kv_heads: int) -> Iterator[Progress]:
    """A bar of the kv_heads that are done."""
    columns = (*bars.Progress.get_default_columns()[:3], TextColumn("{task.fields[clocks]:,} clocks"))
    with bars.Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=kv_heads, clocks=0)

        def show(stage: str, done: int, clocks: int) -> None:
            bar.update(task, description=stage, completed=done, clocks=clocks)

        yield show


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of the table: parts of a figure one by one."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from ((f"{key}: {part}", figure) for part, figure in value.items())
        else:
            yield key, value


def _deliver(console: Console, document: dict[str, Any], json_path: Path | None) -> None:
    table = Table("what", "value", title=f"attention, {document['backend']}")
    for key, value in _rows(document):
        if key not in BITS_FIELDS:
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else f"{value}")
    console.print(table)
    if json_path:
        write_atomically(json_path, json.dumps(document, indent=2) + "\n")


@click.command()
@click.option(
    "--preset",
    "preset_name",
    default="ddr4-3200-x8-8gb",
    show_default=True,
    metavar="NAME",
    help="Preset of the rank; see `dimmpim presets`.",
)
@click.option("--model", metavar="NAME", help="Time of this model instead: a name, or the path of a config.json.")
@click.option("--ranks", type=click.IntRange(min=1), help="With --model: ranks of all GPUs together [default: 1].")
@click.option("--tokens", type=click.IntRange(min=1), help="With --model: tokens of the context [default: 8192].")
@click.option("--tp", type=click.IntRange(min=1), help="With --model: tensor-parallel GPUs [default: 1].")
@click.option("--batch", type=click.IntRange(min=1), help="With --model: requests [default: 1].")
@click.option("--kv", type=click.Path(path_type=Path), metavar="FILE.npz", help="Recorded Q, K and V.")
@click.option("--layer", type=int, help="Layer of the recording.")
@click.option("--step", type=int, help="Decode step of the recording.")
@click.option("--shape", metavar="Q_HEADS,KV_HEADS,HEAD_DIM,TOKENS", help="Synthetic data of this shape instead.")
@click.option("--seed", default=1, show_default=True, help="Of synthetic data.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="golden",
    show_default="golden; timing with --model",
    help="Bit-exact model, RTL, timing model, or float64.",
)
@click.option("--static-order", is_flag=True, help="RTL, timing: no overlap of banks and bus, for comparison.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
@click.option(
    "--trace-commands",
    "trace_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="RTL, timing: write every DRAM and PIM command here.",
)
@click.option(
    "--waves",
    "waves_path",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="RTL: run it again under Icarus, clock for clock the same, and write an FST waveform into this folder. "
    "For small presets: Icarus passes some hundred clocks of `tiny` in a second.",
)
@click.option("--threads", type=click.IntRange(1, 2), default=1, show_default=True, help="RTL: CPU cores to use.")
@click.pass_context
def attention(
    context: click.Context,
    preset_name: str,
    model: str | None,
    ranks: int | None,
    tokens: int | None,
    tp: int | None,
    batch: int | None,
    kv: Path | None,
    layer: int | None,
    step: int | None,
    shape: str | None,
    seed: int,
    backend: str,
    static_order: bool,
    json_path: Path | None,
    trace_path: Path | None,
    waves_path: Path | None,
    threads: int,
) -> None:
    """Compute one decode step of attention for all heads of a layer, or the time that a model takes.

    The rank of the preset is fitted to the data: its bank PUs have the head_dim, and lanes for as many queries as share
    a kv_head. Results are compared with the golden model bit for bit (o_partial, m and l), and, normalised, with
    float64. The timing model gives the clocks and commands of the RTL, without numbers, in thousandths of its time.

    With --model, the timing model gives the time of a layer and of a token. The kv_heads of a layer are dealt over the
    ranks; with more ranks than kv_heads, layers are dealt over sets of ranks.

    \b
    Examples:
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,1,128,8192
      dimmpim attention --preset ddr4-3200-x8-8gb --kv recording.npz --layer 10 --step 0 --json out.json
      dimmpim attention --preset tiny --shape 4,2,16,300 --backend rtl --trace-commands commands.csv
      dimmpim attention --preset tiny --shape 2,1,16,40 --backend rtl --waves build/waves
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 4,4,128,8192 --backend rtl --threads 2
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,8,128,131072 --backend timing
      dimmpim attention --model Llama-3.1-8B --ranks 8 --tokens 8192
      dimmpim attention --model GPT-175B --ranks 64 --tokens 2048 --batch 16 --json out.json
    """
    console = Console()
    of_model = {"--ranks": ranks, "--tokens": tokens, "--tp": tp, "--batch": batch}
    if model is not None:
        _require_only_model(context)
        _of_model(console, model, preset_name, static_order, json_path, of_model)
        return
    for option, number in of_model.items():
        require(number is None, option, number, "given with --model only")
    preset = preset_of(preset_name)
    for option, given in {"--trace-commands": trace_path, "--static-order": static_order}.items():
        require(
            not given or backend in ("rtl", "timing"), option, str(given), "given with --backend rtl or timing only"
        )
    for option, given in {"--waves": waves_path, "--threads": threads > 1}.items():
        require(not given or backend == "rtl", option, str(given), "given with --backend rtl only")
    require_folder("--json", json_path)
    require_folder("--trace-commands", trace_path)
    require_distinct(json=json_path, trace_commands=trace_path)
    _require_source(kv, layer, step, shape, seed)
    if backend == "timing" and shape is not None:  # needs no data, which would take memory
        (fitted, tokens), decode, source = parse_shape(shape), None, "synthetic"
    else:
        decode = _read_step(kv, layer, step, shape, seed)
        fitted, tokens, source = decode.shape, decode.num_tokens, decode.source
    with _progress(console, fitted.num_kv_heads) as progress:
        result = run_attention(
            fitted,
            tokens,
            step=decode,
            source=source,
            backend=backend,
            preset=preset,
            static_order=static_order,
            threads=threads,
            trace=trace_path is not None,
            waves=waves_path,
            progress=progress,
        )
    if result.waveform:
        console.print(f"waveform: {result.waveform}")
    if trace_path and result.commands is not None:
        write_trace(trace_path, result.commands)
    _deliver(console, result.to_dict(), json_path)
    if result.golden_mismatches:
        raise ParameterError(f"RTL and golden model differ in {result.golden_mismatches} numbers")
