"""`dimmpim attention`: one decode step of attention on a backend, with its error against float64."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dimmpim.outputs import console_beside, progress_bar, write_json, write_output
from dimmpim.ranks import open_rank, open_timing
from dimmpim.studies.rank_energy import energy_figures
from pimhost.driver.decode_step import RankTime, golden_step, legal_limit, run_step, time_step
from pimhost.driver.rank_host import RankHost
from pimhost.kv_file import DecodeStep, load_step, parse_shape, synthetic_step
from pimhost.reference import reference_attention, relative_l2_error
from pimsim.rank.recording import RankRecording
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram.command_trace import trace_text
from pimspec.errors import ParameterError, RankError, require
from pimspec.golden.merge import Partial, normalise
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset, preset_named

from .options import json_option, preset_option, seed_option, threads_option
from .parameters import InputFile, OutputFile, OutputFolder, command, require_companion

JSON_VERSION = 2
BACKENDS = ("golden", "rtl", "timing")
BITS_FIELDS = ("output_fp32_bits",)


def _require_source(kv: Path | None, layer: int | None, step: int | None, shape: str | None) -> None:
    if (kv is None) == (shape is None):
        raise ParameterError("give either --kv FILE.npz with --layer and --step, or --shape")
    if kv is None:
        for option, given in {"--layer": layer, "--step": step}.items():
            require_companion(option, given is not None, "--kv")
    elif layer is None or step is None:
        raise ParameterError("--kv requires --layer and --step")


def _read_step(kv: Path | None, layer: int | None, step: int | None, shape: str | None, seed: int) -> DecodeStep:
    if kv is None:
        return synthetic_step(*parse_shape(shape or ""), seed)
    return load_step(kv, layer, step)  # type: ignore[arg-type]


def _shape_and_tokens(
    kv: Path | None, layer: int | None, step: int | None, shape: str | None
) -> tuple[AttentionShape, int, str]:
    """Without making data up, where there are none."""
    if kv is None:
        return *parse_shape(shape or ""), "synthetic"
    decode = load_step(kv, layer, step)  # type: ignore[arg-type]
    return decode.shape, decode.num_tokens, decode.source


def _rank_figures(run: RankTime, end: int, shape: AttentionShape, tokens: int) -> dict[str, Any]:
    """What is measured of a run, on RTL or in the timing model, that was done in clock `end`."""
    return {
        "cycles": run.clocks,
        "ns": run.ns,
        "bytes_streamed": run.streamed_bytes,
        "utilization_of_peak": run.utilization_of_peak,
        "utilization_of_legal_limit": run.utilization_of_peak / legal_limit(run.params, shape),
        **energy_figures(run, end, shape, tokens),
    }


def _on_timing(
    shape: AttentionShape,
    tokens: int,
    params: PimRankParams,
    console: Console,
    *,
    static_order: bool,
    trace: Path | None,
) -> dict[str, Any]:
    """Clocks and commands of the RTL, from the timing model; there are no numbers to compare."""
    columns = (*Progress.get_default_columns()[:3], TextColumn("{task.fields[clocks]:,} clocks"), TimeElapsedColumn())
    with progress_bar(console, *columns) as bar, open_timing(params) as sim:
        running = bar.add_task(f"timing model, {tokens} tokens", total=shape.num_kv_heads, clocks=0)
        start = time.perf_counter()
        run = time_step(
            sim,
            shape,
            tokens,
            normalise=False,
            static_order=static_order,
            trace=trace is not None,
            progress=lambda done, clocks: bar.update(running, completed=done, clocks=clocks),
        )
        seconds = time.perf_counter() - start
        figures = {
            **_rank_figures(run, sim.finished[-1], shape, tokens),
            "simulated_cycles_per_second": sim.clock / sim.port.wall_seconds,
            "wall_seconds": seconds,
        }
    if trace:
        write_output(trace, trace_text(run.commands))
    return figures


def _on_rtl(
    step: DecodeStep,
    params: PimRankParams,
    golden: Partial,
    console: Console,
    *,
    static_order: bool,
    threads: int,
    trace: Path | None,
    waves: Path | None,
) -> tuple[Partial, dict[str, Any]]:
    heads = step.shape.num_kv_heads
    columns = (*Progress.get_default_columns()[:3], TextColumn("{task.fields[clocks]:,} clocks"), TimeElapsedColumn())
    with progress_bar(console, *columns) as bar:
        building = bar.add_task("Verilog and Verilator build", total=None, clocks=0)
        with open_rank(params, threads=threads) as sim:
            bar.remove_task(building)
            sim.port.recording = RankRecording() if waves else None
            running = bar.add_task(f"RTL, {step.num_tokens} tokens", total=heads, clocks=0)
            start = time.perf_counter()
            run = run_step(
                sim,
                step,
                normalise=False,
                static_order=static_order,
                progress=lambda done, clocks: bar.update(running, completed=done, clocks=clocks),
            )
            seconds, clocks_per_second = time.perf_counter() - start, sim.clock / sim.port.wall_seconds
            figures = _rank_figures(run, sim.finished[-1], step.shape, step.num_tokens)
            if sim.port.recording and waves:
                bar.add_task("again under Icarus, for the waveform", total=None, clocks=0)
                console.print(f"waveform: {_waveform(sim, sim.port.recording, waves)}")
    if trace:
        write_output(trace, trace_text(run.commands))
    result = Partial(run.output, run.statistics[:, 0], run.statistics[:, 1])
    return result, {
        **figures,
        "golden_mismatches": sum(int(np.count_nonzero(a != b)) for a, b in zip(result, golden, strict=True)),
        "simulated_cycles_per_second": clocks_per_second,
        "wall_seconds": seconds,
    }


def _waveform(sim: RankHost[RankSimulator], recording: RankRecording, folder: Path) -> Path:
    """Do the run again with the rank as one Verilog top, and write down every signal."""
    from pimhw.pim_rank import rank_verilog  # noqa: PLC0415 - Amaranth is slow to import
    from pimsim.rank.replay import replay  # noqa: PLC0415

    document = recording.document(sim.port.issued, sim.clock, sim.params.access_bytes)
    outcome = replay(sim.params, rank_verilog(sim.params), document, simulator="icarus", folder=folder, waves=True)
    if outcome.num_failures or outcome.waveform is None:
        raise RankError(f"Icarus and Verilator differ; see {outcome.log}")
    return outcome.waveform


def _rank_of(preset: Preset, shape: AttentionShape) -> PimRankParams:
    require(preset.format == shape.format, "format of the preset", preset.format.name, "fp16, that of the data")
    return preset.rank.for_shape(shape)


def _document(
    backend: str, preset: Preset, source: str, shape: AttentionShape, tokens: int, figures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "version": JSON_VERSION,
        "backend": backend,
        "preset": preset.name,
        "source": source,
        "num_q_heads": shape.num_q_heads,
        "num_kv_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "num_tokens": tokens,
        "mapping": TOKEN_PER_CHIP.name,
        **figures,
    }


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
@preset_option()
@click.option("--kv", type=InputFile(), metavar="FILE.npz", help="Recording of Q, K and V (float16).")
@click.option("--layer", type=click.IntRange(0), metavar="N", help="Layer of the recording.")
@click.option("--step", type=click.IntRange(0), metavar="N", help="Decode step of the recording.")
@click.option("--shape", metavar="Q_HEADS,KV_HEADS,HEAD_DIM,TOKENS", help="Shape of synthetic data, instead of --kv.")
@seed_option()
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="golden",
    show_default=True,
    help="Bit-exact model of the arithmetic, RTL simulation, or clocks without numbers.",
)
@click.option("--static-order", is_flag=True, help="rtl, timing: no overlap of banks and bus, for comparison.")
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
def attention(
    preset_name: str,
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
    """Compute one decode step of attention for all heads of a layer.

    The rank of the preset is fitted to the data: its bank PUs take the head_dim, and have a lane for each query that
    shares a kv_head. RTL results are compared bit for bit with the golden model (o_partial, m and l), and the
    normalized output with float64. The timing model gives the clocks and commands of the RTL, without numbers, about a
    thousand times faster.

    \b
    Examples:
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,1,128,8192
      dimmpim attention --preset ddr4-3200-x8-8gb --kv recording.npz --layer 10 --step 0 --json out.json
      dimmpim attention --preset tiny --shape 4,2,16,300 --backend rtl --trace-commands commands.csv
      dimmpim attention --preset tiny --shape 2,1,16,40 --backend rtl --waves build/waves
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 4,4,128,8192 --backend rtl --threads 2
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,8,128,131072 --backend timing
    """
    preset = preset_named(preset_name)
    for option, given in {"--trace-commands": trace_path, "--static-order": static_order}.items():
        require_companion(option, given and backend == "golden", "--backend rtl or timing")
    for option, given in {"--waves": waves_path, "--threads 2": threads > 1}.items():
        require_companion(option, given and backend != "rtl", "--backend rtl")
    _require_source(kv, layer, step, shape)
    console = console_beside(json_path, trace_path)
    if backend == "timing":
        attention_shape, tokens, source = _shape_and_tokens(kv, layer, step, shape)
        params = _rank_of(preset, attention_shape)
        figures = _on_timing(attention_shape, tokens, params, console, static_order=static_order, trace=trace_path)
        _deliver(console, _document(backend, preset, source, attention_shape, tokens, figures), json_path)
        return
    decode = _read_step(kv, layer, step, shape, seed)
    params = _rank_of(preset, decode.shape)
    start = time.perf_counter()
    with console.status(f"golden model, {decode.num_tokens} tokens"):
        golden = result = golden_step(params, decode)
        figures = {
            "bytes_streamed": decode.shape.kv_bytes(decode.num_tokens),
            "wall_seconds": time.perf_counter() - start,
        }
        expected = reference_attention(decode.q, decode.k, decode.v).output
    if backend == "rtl":
        result, figures = _on_rtl(
            decode,
            params,
            golden,
            console,
            static_order=static_order,
            threads=threads,
            trace=trace_path,
            waves=waves_path,
        )
    bits = normalise(result)
    errors = relative_l2_error(bits.astype(np.uint32).view(np.float32), expected)
    compared = {
        "max_rel_l2_error": float(errors.max()),
        "median_rel_l2_error": float(np.median(errors)),
        "output_fp32_bits": [[f"{word:08x}" for word in head] for head in bits.tolist()],
    }
    document = _document(backend, preset, decode.source, decode.shape, decode.num_tokens, figures | compared)
    _deliver(console, document, json_path)
    if figures.get("golden_mismatches"):
        raise ParameterError(f"RTL and golden model differ in {figures['golden_mismatches']} numbers")
