"""`dimmpim generate`: a language model answers, its decode attention computed by a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dimmpim.commands.options import MOST_NEW_TOKENS, json_option, model_path_option, preset_option
from dimmpim.commands.parameters import OutputFile, Text, command
from dimmpim.outputs import STDOUT, write_json, write_output
from dimmpim.ranks import DEVICES
from dimmpim.reports.answer_display import AnswerDisplay
from dimmpim.reports.generation_timeline import timeline_json
from dimmpim.studies.generation import GenerateRun, Step, parse_layers, run_generate
from pimhost.batch.activity import MAX_SPANS
from pimhost.devices.observed import DeviceCall
from pimspec.hostif.device import DeviceCost
from pimspec.params.presets import preset_named

JSON_VERSION = 1
_ROWS = {
    "output_tokens": "tokens",
    "stop_reason": "stopped by",
    "cycles_per_token": "PIM cycles per token",
    "ns_per_token": "PIM ns per token",
    "utilization_of_peak": "share of the banks' peak, while attending",
    "bytes_streamed_per_token": "bytes streamed inside, per token",
    "host_bus_bytes_per_token": "bytes over the host bus, per token",
    "simulated_cycles_per_second": "simulated cycles per second",
    "tokens_per_second": "tokens per second, wall clock",
    "prefill_seconds": "prefill, seconds",
    "wall_seconds": "wall seconds",
}


def _document(run: GenerateRun, **settings: Any) -> dict[str, Any]:
    return {
        "version": JSON_VERSION,
        **settings,
        "layers_on_pim": list(run.layers),
        "prompt_token_ids": run.prompt_ids,
        "output_token_ids": run.output_ids,
        "output_text": run.text,
        **run.figures(),
        "layers": run.layer_errors(),
        "tokens": [
            {"token_id": s.token.token_id, "gap": s.token.gap, "cycles": s.cycles, "seconds": s.token.seconds}
            for s in run.steps
        ],
    }


def _print_tables(document: dict[str, Any], console: Console) -> None:
    table = Table("what", "value", title=f"generate, {document['backend']} on {document['preset']}")
    for key, title in _ROWS.items():
        value = document[key]
        shown = "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
        table.add_row(title, shown)
    console.print(table)
    if document["layers"]:
        errors = Table("layer", "median", "largest", title="relative L2 error of a head's output against float64")
        for row in document["layers"]:
            errors.add_row(str(row["layer"]), f"{row['median_rel_l2_error']:.2e}", f"{row['max_rel_l2_error']:.2e}")
        console.print(errors)


@command()
@click.option(
    "--prompt",
    required=True,
    type=Text(),
    metavar="TEXT",
    help="Question to answer, or with --raw the text to continue.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, MOST_NEW_TOKENS),
    default=64,
    show_default=True,
    help="Most tokens to generate.",
)
@click.option(
    "--backend",
    type=click.Choice(list(DEVICES)),
    default="golden",
    show_default=True,
    help="Device that computes attention: float64, the bit-exact golden model, or RTL simulation.",
)
@preset_option("ddr4-3200-x8-8gb")
@model_path_option
@click.option(
    "--layers-on-pim",
    default="all",
    show_default=True,
    metavar="LAYERS",
    help="Layers on the device: all, none, or a list such as 0-3,7; the host computes the others in float64.",
)
@click.option("--raw", is_flag=True, help="Prompt without the chat template.")
@click.option("--ignore-end", is_flag=True, help="Generation goes on after the end of the answer.")
@click.option("--no-check", is_flag=True, help="No attention in float64 beside the device.")
@click.option(
    "--timeline",
    "timeline_path",
    type=OutputFile(),
    metavar="FILE",
    help="Write a trace for Perfetto or chrome://tracing; "
    f"with rtl also the activity of the rank, at most {MAX_SPANS:,} spans.",
)
@click.option(
    "--report",
    "report_path",
    type=OutputFile(),
    metavar="FILE.html",
    help="Write an HTML page with figures and plots; with rtl also utilization and cycles over time.",
)
@json_option
def generate(
    prompt: str,
    tokens: int,
    backend: str,
    preset_name: str,
    model_path: Path | None,
    layers_on_pim: str,
    raw: bool,
    ignore_end: bool,
    no_check: bool,
    timeline_path: Path | None,
    report_path: Path | None,
    json_path: Path | None,
) -> None:
    """Generate text with a language model whose decode attention runs on a PIM device.

    Projections, norms, rotary positions, feed-forward and prefill run in NumPy; K and V live in the device, which
    computes decode attention. Decoding is greedy. The rank of the preset is fitted to the model. The answer goes to
    standard output, all else to standard error; docs/generate-json.md describes the JSON file.

    \b
    Examples:
      dimmpim generate --prompt "What is the capital of France?" --tokens 32
      dimmpim generate --prompt "Why is the sky blue?" --backend reference --json out.json
      dimmpim generate --prompt "What is gravity?" --backend rtl --preset tiny --tokens 16 --report report.html
      dimmpim generate --prompt "Once upon a time" --raw --tokens 20 --layers-on-pim 0-9 --timeline trace.json
    """
    preset = preset_named(preset_name)
    with AnswerDisplay(to_stderr=STDOUT in (json_path, timeline_path, report_path)) as display:
        from pimhost.llm.load import load_model  # noqa: PLC0415 - its libraries are slow to import

        loaded = load_model(model_path)
        layers = parse_layers(layers_on_pim, loaded.model.config.num_layers)
        chat = loaded.tokenizer.has_chat and not raw
        prompt_ids = loaded.tokenizer.encode_chat(prompt) if chat else loaded.tokenizer.encode(prompt)
        if backend == "rtl":
            display.phase("building the rank (minutes, once)")
        total, seconds = DeviceCost(), 0.0

        def on_call(call: DeviceCall) -> None:
            nonlocal total, seconds
            total, seconds = total + call.cost, seconds + call.seconds
            display.cycles(total.cycles, seconds)

        def on_open() -> None:
            display.phase(f"prefill, {len(prompt_ids)} tokens", tokens)

        def on_step(step: Step) -> None:
            display.phase("decode", tokens)
            display.token(step.text)

        run = run_generate(
            loaded,
            prompt_ids,
            tokens,
            backend=backend,
            preset=preset,
            layers=layers,
            stop=not ignore_end,
            check=not no_check,
            watch=timeline_path is not None or report_path is not None,
            on_open=on_open,
            on_step=on_step,
            on_call=on_call,
        )
    document = _document(run, backend=backend, preset=preset.name, model=loaded.name)
    _print_tables(document, display.console)
    if timeline_path:
        write_output(timeline_path, timeline_json(run))
    if report_path:
        from dimmpim.reports.generation import report_html  # noqa: PLC0415 - Matplotlib is slow to import

        page = report_html(run, prompt=prompt, backend=backend, preset=preset.name, model=loaded.name)
        write_output(report_path, page)
    write_json(json_path, document)
