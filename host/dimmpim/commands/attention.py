"""`dimmpim attention`: one decode step of attention on a backend, with its error against float64."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dimmpim.output_files import require_distinct
from dimmpim.ranks import open_rank, open_timing
from dimmpim.studies.rank_energy import energy_figures
from pimhost.driver.decode_step import RankTime, golden_step, legal_limit, run_step, time_step
from pimhost.driver.rank_host import RankHost
from pimhost.kv_file import DecodeStep, load_step, parse_shape, synthetic_step
from pimhost.reference import reference_attention, relative_l2_error
from pimsim.rank.recording import RankRecording
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram.command_trace import write_trace
from pimspec.errors import ParameterError, RankError, require
from pimspec.files import write_atomically
from pimspec.golden.merge import Partial, normalise
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset, preset_named

from .options import require_folder

JSON_VERSION = 2
BACKENDS = ("golden", "rtl", "timing")
BITS_FIELDS = ("output_fp32_bits",)


def _require_source(kv: Path | None, layer: int | None, step: int | None, shape: str | None, seed: int) -> None:
    if (kv is None) == (shape is None):
        raise ParameterError("give either --kv FILE.npz with --layer and --step, or --shape")
    require(kv is not None or (layer is None and step is None), "--layer and --step", (layer, step), "given with --kv")
    require(seed >= 0, "--seed", seed, "0 or more")
    given = layer is not None and step is not None
    require(kv is None or given, "--layer and --step", (layer, step), "given with --kv")


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
    with Progress(*columns, console=console, transient=True) as bar, open_timing(params) as sim:
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
        write_trace(trace, run.commands)
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
    with Progress(*columns, console=console, transient=True) as bar:
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
        write_trace(trace, run.commands)
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
    if json_path:
        write_atomically(json_path, json.dumps(document, indent=2) + "\n")


@click.command()
@click.option("--preset", "preset_name", required=True, metavar="NAME", help="See `dimmpim presets`.")
@click.option("--kv", type=click.Path(path_type=Path), metavar="FILE.npz", help="Recorded Q, K and V.")
@click.option("--layer", type=int, help="Layer of the recording.")
@click.option("--step", type=int, help="Decode step of the recording.")
@click.option("--shape", metavar="Q_HEADS,KV_HEADS,HEAD_DIM,TOKENS", help="Synthetic data of this shape instead.")
@click.option("--seed", default=1, show_default=True, help="Of synthetic data.")
@click.option("--backend", type=click.Choice(BACKENDS), default="golden", show_default=True)
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

    The rank of the preset is fitted to the data: its bank PUs have the head_dim, and lanes for as many queries as share
    a kv_head. Results are compared with the golden model bit for bit (o_partial, m and l), and, normalised, with
    float64. The timing model gives the clocks and commands of the RTL, without numbers, in thousandths of its time.

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
        require(not given or backend != "golden", option, str(given), "given with --backend rtl or timing only")
    for option, given in {"--waves": waves_path, "--threads": threads > 1}.items():
        require(not given or backend == "rtl", option, str(given), "given with --backend rtl only")
    require_folder("--json", json_path)
    require_folder("--trace-commands", trace_path)
    require_distinct(json=json_path, trace_commands=trace_path)
    _require_source(kv, layer, step, shape, seed)
    console = Console()
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
