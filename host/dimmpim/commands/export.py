"""`dimmpim export`: results in the forms of other simulators."""

from __future__ import annotations

import re
from pathlib import Path

import click
from rich.console import Console

from dimmpim.commands.options import preset_option, token_counts
from dimmpim.commands.parameters import InputFile, OutputFile, group, require_companion
from dimmpim.exports.llmservingsim import TOKENS, fit_latency, ini_text
from dimmpim.exports.ramulator import FORMS, command_trace, request_trace
from dimmpim.outputs import STDOUT, progress_bar, require_room, write_json, write_output
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import iter_trace
from pimspec.errors import require
from pimspec.params.presets import preset_named

MOST_RANKS = 64


@group()
def export() -> None:
    """Convert results into the formats of other simulators; docs/exports.md says what each format keeps.

    \b
    Examples:
      dimmpim export llmservingsim --preset ddr4-3200-x8-8gb --out DIMM_PIM.ini
      dimmpim export ramulator2 --preset tiny --trace commands.csv --form commands --out ramulator.csv
    """


def _heads(text: str) -> AttentionShape:
    parts = text.split(",")
    ok = len(parts) == 3 and all(re.fullmatch(r"[0-9]{1,6}", part.strip()) for part in parts)
    require(ok, "--heads", text, "three numbers: q_heads,kv_heads,head_dim")
    q_heads, kv_heads, head_dim = map(int, parts)
    return AttentionShape(num_q_heads=q_heads, num_kv_heads=kv_heads, head_dim=head_dim)


@export.command()
@preset_option()
@click.option(
    "--heads",
    default="32,8,128",
    show_default=True,
    metavar="Q_HEADS,KV_HEADS,HEAD_DIM",
    help="Attention heads of a layer.",
)
@click.option(
    "--ranks",
    type=click.IntRange(1, MOST_RANKS),
    default=1,
    show_default=True,
    help="Ranks of a channel, which share the kv_heads evenly.",
)
@click.option("--tokens", metavar="N,N,...", help="Context lengths to fit [default: 128,256,...,4096].")
@click.option(
    "--out",
    required=True,
    type=OutputFile(dash=False),
    metavar="SPEC.ini",
    help="Device file; SPEC.json beside it takes the coefficients and their error.",
)
def llmservingsim(preset_name: str, heads: str, ranks: int, tokens: str | None, out: Path) -> None:
    """Fit a line to attention latency, and write it as a PIM device of LLMServingSim.

    \b
    Examples:
      dimmpim export llmservingsim --preset ddr4-3200-x8-8gb --out DIMM_PIM.ini
      dimmpim export llmservingsim --preset ddr4-3200-x8-8gb --heads 64,8,128 --ranks 2 --tokens 1024,8192 --out A.ini
    """
    preset, shape, spec = preset_named(preset_name), _heads(heads), out.stem
    require(out.suffix == ".ini", "--out", str(out), "a file called SPEC.ini")
    require(bool(re.fullmatch(r"[A-Za-z0-9_-]+", spec)), "--out", str(out), "named with letters, digits, _ and -")
    require_room("--out", out.with_suffix(".json"))
    counts = token_counts(tokens) if tokens is not None else TOKENS
    with progress_bar(Console()) as progress:
        task = progress.add_task("timing model", total=len(set(counts)))
        fit = fit_latency(
            preset, shape, ranks=ranks, tokens=counts, on_progress=lambda count: progress.update(task, advance=1)
        )
    document = fit.document(spec)
    write_json(out.with_suffix(".json"), document)
    write_output(out, ini_text(fit, spec))
    errors = f"{document['max_relative_error']:.2%}, median {document['median_relative_error']:.2%}"
    click.echo(f"{spec}: slope {fit.slope}, intercept {fit.intercept}; error at most {errors}")


@export.command()
@preset_option()
@click.option(
    "--trace",
    required=True,
    type=InputFile(),
    metavar="FILE.csv",
    help="Command trace that `dimmpim attention --trace-commands` wrote.",
)
@click.option("--form", type=click.Choice(FORMS), default=FORMS[0], show_default=True, help="Kind of trace to write.")
@click.option("--mac-as-reads", is_flag=True, help="requests: one read for each column access of a PIM_MAC.")
@click.option("--out", required=True, type=OutputFile(), metavar="FILE", help="Trace file to write.")
def ramulator2(preset_name: str, trace: Path, form: str, mac_as_reads: bool, out: Path) -> None:
    """Convert a command trace for Ramulator 2: requests for ReadWriteTrace, or commands as CmdTraceRecorder has them.

    \b
    Examples:
      dimmpim export ramulator2 --preset tiny --trace commands.csv --form commands --out ramulator.csv
      dimmpim export ramulator2 --preset tiny --trace commands.csv --mac-as-reads --out ramulator.trace
    """
    params = preset_named(preset_name).rank
    require_companion("--mac-as-reads", mac_as_reads and form != "requests", "--form requests")
    commands = iter_trace(trace)
    if form == "requests":
        interval = params.timing.nCCD_MAC if mac_as_reads else None
        made = request_trace(commands, params.organization, mac_interval_ck=interval)
    else:
        made = command_trace(commands, params.organization)
    write_output(out, made.text)
    left = ", ".join(f"{count} {command.name}" for command, count in sorted(made.left_out.items())) or "nothing"
    click.echo(f"{out}: {len(made.lines)} lines; left out: {left}", err=out == STDOUT)
