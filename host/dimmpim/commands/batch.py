"""`dimmpim batch`: a batch of prompts on a GPU model and ranks in RTL that share a channel, coordinated as L3 does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from dimmpim.commands.options import MOST_NEW_TOKENS, json_option, model_path_option, preset_option
from dimmpim.commands.parameters import FiniteRange, InputFile, OutputFile, Text, command, require_alone
from dimmpim.commands.serving_options import gpu_model_option, gpu_option
from dimmpim.outputs import STDOUT, write_json, write_output
from dimmpim.ranks import open_rank
from dimmpim.reports.answer_display import AnswerDisplay
from dimmpim.reports.batch_timeline import batch_timeline_json
from pimhost.batch.activity import MAX_SPANS
from pimhost.batch.gpu_phases import FixedPhases, GpuPhases, ModelledPhases, model_shape
from pimhost.batch.plan import BatchRun, Mode, all_modes, fitted
from pimhost.batch.run import golden_tokens, run_batch
from pimhost.gpu.base import GpuTimes
from pimhost.gpu.registry import gpu_times
from pimspec.errors import ParameterError, RankError, require
from pimspec.files import read_text
from pimspec.params.presets import preset_named

if TYPE_CHECKING:  # its libraries are slow to import
    from pimhost.llm.load import LoadedModel

JSON_VERSION = 1
MOST_PROMPT_BYTES = 1 << 24
MOST_PROMPTS = 1024
_COLUMNS = {
    "clocks_per_token": "clocks a\ntoken",
    "us_per_token": "us a\ntoken",
    "gpu_busy": "GPU\nbusy",
    "pim_busy": "PIM\nbusy",
    "channel_busy": "bus\nbusy",
    "transfers_hidden": "bus\nhidden",
    "transfers_hidden_by_pim": "by\nPIM",
    "speedup": "speed-up",
}


def _texts(prompts: Sequence[str], path: Path | None) -> list[str]:
    """Prompts of the options, then those of the file."""
    texts = list(prompts)
    if path is not None:
        lines = [line for line in read_text(path, most=MOST_PROMPT_BYTES).splitlines() if line.strip()]
        if not lines:
            raise ParameterError(f"{path} has no prompt: every line is empty")
        texts += lines
    if not texts:
        raise ParameterError("give --prompt or --prompts")
    require(len(texts) <= MOST_PROMPTS, "number of prompts", len(texts), f"at most {MOST_PROMPTS}")
    return texts


def _modes(compare: bool, ranks: int, sub_batches: int, early: bool | None, overlap: bool) -> list[Mode]:
    if compare:
        require_alone(compare=True, early_transfers=early is True, no_early_transfers=early is False)
        return all_modes(ranks)
    chosen = sub_batches == 2 and overlap if early is None else early
    return [Mode(ranks=ranks, sub_batches=sub_batches, overlap_ranks=overlap, early_transfers=chosen)]


def _mode_document(run: BatchRun, runs: Sequence[BatchRun]) -> dict[str, Any]:
    serial = next((r for r in runs if r.mode.name == "serial" and r.mode.ranks == run.mode.ranks), None)
    speedup = serial.clocks / run.clocks if serial and run.clocks else None
    return {
        "name": run.mode.name,
        "ranks": run.mode.ranks,
        "sub_batches": run.mode.sub_batches,
        "overlap_ranks": run.mode.overlap_ranks,
        "early_transfers": run.mode.early_transfers,
        **run.figures(),
        "speedup": speedup,
        "requests": [
            {"sub_batch": a.sub_batch, "rank": a.rank, "slot": a.slot, "token_clocks": a.ended_at} for a in run.answers
        ],
        "simulated_clocks": run.simulated_clocks,
        "wall_seconds": run.wall_seconds,
    }


def _print_table(modes: Sequence[dict[str, Any]], title: str, console: Console) -> None:
    table = Table("ranks", "mode", title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for header in _COLUMNS.values():
        table.add_column(header, justify="right")
    for mode in modes:
        cells = []
        for key in _COLUMNS:
            value = mode[key]
            large = key in ("clocks_per_token", "us_per_token")
            cells.append("-" if value is None else f"{value:,.0f}" if large else f"{value:.2f}")
        table.add_row(str(mode["ranks"]), mode["name"], *cells)
    console.print(table)


def _text(loaded: LoadedModel, token_ids: Sequence[int]) -> str:
    stream = loaded.tokenizer.stream()
    return "".join(map(stream.add, token_ids))


def _gpu_phases(loaded: LoadedModel, gpu: GpuTimes, gpu_us: float | None) -> GpuPhases:
    if gpu_us is not None:
        return FixedPhases(ns=round(gpu_us * 1000))
    return ModelledPhases(gpu=gpu, shape=model_shape(loaded.name, loaded.model.config))


@command()
@click.option("--prompt", "prompts", type=Text(), multiple=True, metavar="TEXT", help="Prompt; repeatable.")
@click.option(
    "--prompts",
    "prompts_path",
    type=InputFile(),
    metavar="FILE",
    help="UTF-8 text file with a prompt in each line; empty lines are skipped.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, MOST_NEW_TOKENS),
    default=4,
    show_default=True,
    help="Most tokens to generate for each prompt.",
)
@preset_option("tiny")
@model_path_option
@click.option("--ranks", type=click.IntRange(1, 8), default=2, show_default=True, help="Ranks that share the channel.")
@click.option(
    "--sub-batches",
    type=click.IntRange(1, 2),
    default=2,
    show_default=True,
    help="Parts of the batch that GPU and ranks work on in turn.",
)
@click.option(
    "--early-transfers/--no-early-transfers",
    "early",
    default=None,
    help="Transfers of a sub-batch to a rank that still computes the other one [default: with two sub-batches].",
)
@click.option(
    "--overlap-ranks/--no-overlap-ranks",
    "overlap",
    default=True,
    show_default=True,
    help="Transfers to one rank while others compute.",
)
@click.option(
    "--compare", is_flag=True, help="Run all modes, with one rank and with --ranks, and check them against golden."
)
@gpu_option("H100")
@gpu_model_option()
@click.option(
    "--gpu-us",
    type=FiniteRange(min=0, max=1e6),
    metavar="US",
    help="Fixed duration of each GPU phase in microseconds, instead of --gpu.",
)
@click.option("--raw", is_flag=True, help="Prompts without the chat template.")
@click.option("--ignore-end", is_flag=True, help="Generation goes on after the end of an answer.")
@click.option(
    "--timeline",
    "timeline_path",
    type=OutputFile(),
    metavar="FILE",
    help=f"Write a trace for Perfetto or chrome://tracing, with at most {MAX_SPANS:,} spans of each rank.",
)
@json_option
def batch(
    prompts: tuple[str, ...],
    prompts_path: Path | None,
    tokens: int,
    preset_name: str,
    model_path: Path | None,
    ranks: int,
    sub_batches: int,
    early: bool | None,
    overlap: bool,
    compare: bool,
    gpu: str,
    gpu_model: str,
    gpu_us: float | None,
    raw: bool,
    ignore_end: bool,
    timeline_path: Path | None,
    json_path: Path | None,
) -> None:
    """Decode a batch of prompts on RTL ranks that share a memory channel, while a modeled GPU works beside them.

    Requests are spread over the ranks and over two sub-batches: while the GPU works on one, the ranks compute attention
    of the other. K, V and q reach a rank while it still computes. The RTL of every rank is simulated; GPU times come
    from a model. Measurements begin after prefill. Answers go to standard output, all else to standard error;
    docs/batch-json.md describes the JSON file.

    \b
    Examples:
      dimmpim batch --prompt "What is gravity?" --prompt "Why is the sky blue?" --ranks 1 --tokens 3
      dimmpim batch --prompts prompts.txt --tokens 4 --ranks 2 --compare --json out.json
      dimmpim batch --prompts prompts.txt --gpu-us 10 --ranks 2 --timeline trace.json
      dimmpim batch --prompts prompts.txt --sub-batches 1 --no-overlap-ranks
    """
    preset = preset_named(preset_name)
    texts = _texts(prompts, prompts_path)
    times = gpu_times(gpu_model, gpu)
    modes = _modes(compare, ranks, sub_batches, early, overlap)
    for mode in modes:
        mode.require_prompts(len(texts))
    with AnswerDisplay() as display:
        from pimhost.llm.load import load_model  # noqa: PLC0415 - its libraries are slow to import

        loaded = load_model(model_path)
        phases = _gpu_phases(loaded, times, gpu_us)
        chat = loaded.tokenizer.has_chat and not raw
        ids = [loaded.tokenizer.encode_chat(t) if chat else loaded.tokenizer.encode(t) for t in texts]
        requests = max(mode.requests_of_rank(len(texts)) for mode in modes)
        rank = fitted(preset, loaded.model.config.shape, requests, loaded.model.config.context_length)
        expected = golden_tokens(loaded, ids, tokens, rank, stop=not ignore_end) if compare else None
        display.phase("building the rank (minutes, once)")
        runs = []
        for number, mode in enumerate(modes, 1):
            display.phase(f"{number} of {len(modes)}: {mode.name}, ranks: {mode.ranks}", len(modes) * len(ids) * tokens)
            run = run_batch(
                loaded,
                ids,
                tokens,
                mode=mode,
                rank=rank,
                open_rank=open_rank,
                gpu=phases,
                stop=not ignore_end,
                watch=timeline_path is not None,
                on_token=lambda clocks: display.token(""),
            )
            runs.append(run)
            if expected is not None and [a.token_ids for a in run.answers] != expected:
                raise RankError(f"{mode.name} with {mode.ranks} ranks has other tokens than golden")
    answers = [_text(loaded, answer.token_ids) for answer in runs[0].answers]
    for number, answer in enumerate(answers, 1):
        click.echo(f"{number}: {answer}", err=STDOUT in (json_path, timeline_path))
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "preset": preset.name,
        "model": loaded.name,
        "gpu": gpu if gpu_us is None else None,
        "gpu_times": times.source if gpu_us is None else None,
        "gpu_us": gpu_us,
        "cycle_ps": runs[0].cycle_ps,
        "places": rank.queries,
        "prompts": [
            {"prompt_token_ids": a.prompt_ids, "output_token_ids": a.token_ids, "output_text": text}
            for a, text in zip(runs[0].answers, answers, strict=True)
        ],
        "modes": [_mode_document(run, runs) for run in runs],
    }
    _print_table(document["modes"], f"batch of {len(ids)} on {preset.name}", display.console)
    if timeline_path:
        write_output(timeline_path, batch_timeline_json(runs))
    write_json(json_path, document)
