"""`dimmpim export`: results in the forms of other simulators."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from dimmpim.commands.options import require_folder, token_counts
from dimmpim.exports.llmservingsim import TOKENS, fit_latency, ini_text
from dimmpim.exports.ramulator import FORMS, command_trace, request_trace
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import iter_trace
from pimspec.errors import require
from pimspec.files import write_atomically
from pimspec.params.presets import preset_named

_PRESET = click.option("--preset", "preset_name", required=True, metavar="NAME", help="See `dimmpim presets`.")


@click.group()
def export() -> None:
    """Write results in the forms of other simulators; docs/exports.md says what they keep.

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
@_PRESET
@click.option("--heads", default="32,8,128", show_default=True, metavar="Q_HEADS,KV_HEADS,HEAD_DIM", help="Of a layer.")
@click.option("--ranks", default=1, show_default=True, help="In a channel; they share the kv_heads evenly.")
@click.option("--tokens", metavar="N,N,...", help="Contexts to fit.  [default: 128,256,...,4096]")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="SPEC.ini",
    help="The device; its coefficients and their error go beside it, into SPEC.json.",
)
def llmservingsim(preset_name: str, heads: str, ranks: int, tokens: str | None, out: Path) -> None:
    """Fit attention latency with a line, as a PIM device of LLMServingSim.

    \b
    Examples:
      dimmpim export llmservingsim --preset ddr4-3200-x8-8gb --out DIMM_PIM.ini
      dimmpim export llmservingsim --preset ddr4-3200-x8-8gb --heads 64,8,128 --ranks 2 --tokens 1024,8192 --out A.ini
    """
    preset, shape, spec = preset_named(preset_name), _heads(heads), out.stem
    require(out.suffix == ".ini", "--out", str(out), "a file called SPEC.ini")
    require(bool(re.fullmatch(r"[A-Za-z0-9_-]+", spec)), "--out", str(out), "named with letters, digits, _ and -")
    require_folder("--out", out)
    counts = token_counts(tokens) if tokens is not None else TOKENS
    with Progress(console=Console(), transient=True) as progress:
        task = progress.add_task("timing model", total=len(set(counts)))
        fit = fit_latency(
            preset, shape, ranks=ranks, tokens=counts, on_progress=lambda count: progress.update(task, advance=1)
        )
    document = fit.document(spec)
    write_atomically(out.with_suffix(".json"), json.dumps(document, indent=2) + "\n")
    write_atomically(out, ini_text(fit, spec))
    errors = f"{document['max_relative_error']:.2%}, median {document['median_relative_error']:.2%}"
    click.echo(f"{spec}: slope {fit.slope}, intercept {fit.intercept}; error at most {errors}")


@export.command()
@_PRESET
@click.option(
    "--trace",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="As `dimmpim attention --trace-commands` writes it.",
)
@click.option("--form", type=click.Choice(FORMS), default=FORMS[0], show_default=True, help="What to write.")
@click.option("--mac-as-reads", is_flag=True, help="requests: a read for each column access of a PIM_MAC.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def ramulator2(preset_name: str, trace: Path, form: str, mac_as_reads: bool, out: Path) -> None:
    """Turn a command trace into one of Ramulator 2: requests for ReadWriteTrace, or commands as of CmdTraceRecorder.

    \b
    Examples:
      dimmpim export ramulator2 --preset tiny --trace commands.csv --form commands --out ramulator.csv
      dimmpim export ramulator2 --preset tiny --trace commands.csv --mac-as-reads --out ramulator.trace
    """
    params = preset_named(preset_name).rank
    require(not mac_as_reads or form == "requests", "--mac-as-reads", str(mac_as_reads), "given with --form requests")
    require_folder("--out", out)
    commands = iter_trace(trace)
    if form == "requests":
        interval = params.timing.nCCD_MAC if mac_as_reads else None
        made = request_trace(commands, params.organization, mac_interval_ck=interval)
    else:
        made = command_trace(commands, params.organization)
    write_atomically(out, made.text)
    left = ", ".join(f"{count} {command.name}" for command, count in sorted(made.left_out.items())) or "nothing"
    click.echo(f"{out}: {len(made.lines)} lines; left out: {left}")
