"""`dimmpim attention`: one decode step of attention on a backend, with its error against float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn, TimeElapsedColumn
from rich.table import Table

from dimmpim.api.attention import BACKENDS, Progress, run_attention
from dimmpim.api.clocks import attention_time
from dimmpim.api.presets import Preset, preset_under
from dimmpim.commands.model_time import model_time_tables
from dimmpim.outputs import console_beside, progress_bar, write_json, write_output
from pimhost.kv_file import MAX_TOKENS, DecodeStep, load_step, parse_shape, synthetic_step
from pimspec.dram.command_trace import trace_text
from pimspec.errors import ParameterError

from .options import json_option, preset_option, rules_options, seed_option, threads_option
from .parameters import InputFile, OutputFile, OutputFolder, command, require_companion

BITS_FIELDS = ("output_fp32_bits",)
_OF_DATA = {
    "kv": "--kv", "layer": "--layer", "step": "--step", "shape": "--shape", "seed": "--seed", "backend": "--backend",
    "trace_path": "--trace-commands", "waves_path": "--waves", "threads": "--threads",
}  # fmt: skip


def _require_source(kv: Path | None, layer: int | None, step: int | None, shape: str | None) -> None:
    if (kv is None) == (shape is None):
        raise ParameterError("give one of --kv FILE.npz with --layer and --step, --shape, and --model")
    if kv is None:
        for option, given in {"--layer": layer, "--step": step}.items():
            require_companion(option, given is not None, "--kv")
    elif layer is None or step is None:
        raise ParameterError("--kv requires --layer and --step")


def _read_step(kv: Path | None, layer: int | None, step: int | None, shape: str | None, seed: int) -> DecodeStep:
    if kv is None:
        return synthetic_step(*parse_shape(shape or ""), seed)
    return load_step(kv, layer, step)  # type: ignore[arg-type]


def _require_only_model(context: click.Context) -> None:
    """That nothing is given beside --model that is about data."""
    for name, option in _OF_DATA.items():
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and name == "backend" and context.params[name] != "timing":
            raise ParameterError("--model requires --backend timing, its default")
        if given and name != "backend":
            raise ParameterError(f"--model and {option} exclude each other: give one of them")


def _of_model(
    console: Console,
    model: str,
    preset: Preset,
    static_order: bool,
    json_path: Path | None,
    numbers: dict[str, int | None],
) -> None:
    """``--model``: the time that the attention of a model takes."""
    given = {option.removeprefix("--"): number for option, number in numbers.items() if number is not None}
    time = attention_time(model, **{"tokens": 8192, **given}, preset=preset, static_order=static_order)
    write_json(json_path, time.to_dict())
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
    columns = (*Bar.get_default_columns()[:3], TextColumn("{task.fields[clocks]:,} clocks"))
    with progress_bar(console, *columns, TimeElapsedColumn()) as bar:
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
    write_json(json_path, document)


@command()
@preset_option("ddr4-3200-x8-8gb")
@click.option("--model", metavar="NAME", help="Model to time instead: a name, or the path of a config.json.")
@click.option(
    "--ranks", type=click.IntRange(1, 65536), metavar="N", help="With --model: ranks of all GPUs [default: 1]."
)
@click.option(
    "--tokens", type=click.IntRange(1, MAX_TOKENS), metavar="N", help="With --model: context length [default: 8192]."
)
@click.option(
    "--tp", type=click.IntRange(1, 1024), metavar="N", help="With --model: tensor-parallel GPUs [default: 1]."
)
@click.option("--batch", type=click.IntRange(1, 65536), metavar="N", help="With --model: requests [default: 1].")
@click.option("--kv", type=InputFile(), metavar="FILE.npz", help="Recording of Q, K and V (float16).")
@click.option("--layer", type=click.IntRange(0), metavar="N", help="Layer of the recording.")
@click.option("--step", type=click.IntRange(0), metavar="N", help="Decode step of the recording.")
@click.option("--shape", metavar="Q_HEADS,KV_HEADS,HEAD_DIM,TOKENS", help="Shape of synthetic data, instead of --kv.")
@seed_option()
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="golden",
    show_default="golden; timing with --model",
    help="Bit-exact model, RTL simulation, timing model without numbers, or float64.",
)
@click.option("--static-order", is_flag=True, help="rtl, timing: no overlap of banks and bus, for comparison.")
@rules_options
@json_option
@click.option(
    "--trace-commands",
    "trace_path",
    type=OutputFile(),
    metavar="FILE.csv",
    help="rtl, timing: write every DRAM and PIM command.",
)
@click.option(
    "--waves",
    "waves_path",
    type=OutputFolder(),
    metavar="DIR",
    help="rtl: folder for an FST waveform, from a second run under Icarus with the same clocks. "
    "For small presets: Icarus simulates some hundred clocks of `tiny` in a second.",
)
@threads_option
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
    rules: dict[str, Any],
    json_path: Path | None,
    trace_path: Path | None,
    waves_path: Path | None,
    threads: int,
) -> None:
    """Compute one decode step of attention for all heads of a layer, or the time that a model takes.

    The rank of the preset is fitted to the data: its bank PUs take the head_dim, and have a lane for each query that
    shares a kv_head. RTL results are compared bit for bit with the golden model (o_partial, m and l), and the
    normalized output with float64. The timing model gives the clocks and commands of the RTL, without numbers, about a
    thousand times faster.

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
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,8,128,8192 --backend timing --refresh 2
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 128,16,128,8192 --backend timing --bus-tccd short
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,8,128,8192 --backend timing --max-streaming-banks 9
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,8,128,8192 --backend timing --max-current-ma 540
      dimmpim attention --model Llama-3.1-8B --ranks 8 --tokens 8192
      dimmpim attention --model GPT-175B --ranks 64 --tokens 2048 --batch 16 --json out.json
    """
    console = console_beside(json_path, trace_path)
    preset = preset_under(preset_name, **rules)
    of_model = {"--ranks": ranks, "--tokens": tokens, "--tp": tp, "--batch": batch}
    if model is not None:
        _require_only_model(context)
        _of_model(console, model, preset, static_order, json_path, of_model)
        return
    for option, number in of_model.items():
        require_companion(option, number is not None, "--model")
    timed = {f"--{name.replace('_', '-')}": given is not None for name, given in rules.items()}
    for option, given in {"--trace-commands": trace_path, "--static-order": static_order, **timed}.items():
        require_companion(option, given and backend not in ("rtl", "timing"), "--backend rtl or timing")
    for option, given in {"--waves": waves_path, "--threads 2": threads > 1}.items():
        require_companion(option, given and backend != "rtl", "--backend rtl")
    _require_source(kv, layer, step, shape)
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
        write_output(trace_path, trace_text(result.commands))
    _deliver(console, result.to_dict(), json_path)
    if result.golden_mismatches:
        raise ParameterError(f"RTL and golden model differ in {result.golden_mismatches} numbers")
