"""Generation report: one page of HTML that needs no network, with figures and plots of the device's activity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dimmpim.reports.generation_data import PARTS, call_windows, roofs, seen_until
from dimmpim.reports.html_page import data_table, html_page, html_text, section, text_table
from dimmpim.studies.generation import GenerateRun
from pimhost.batch.activity import MAX_SPANS

__all__ = ["report_html"]


def report_html(run: GenerateRun, *, prompt: str, backend: str, preset: str, model: str) -> str:
    """Page of a generation, which is well-formed XML too; it has no wall-clock times, so repeated runs give the same.

    Parameters
    ----------
    run : GenerateRun
        Run with :attr:`~dimmpim.studies.generation.GenerateRun.activity` for the plots over time.
    prompt, backend, preset, model : str
    """
    title = f"dimmpim generate: {model}, {backend} on {preset}"
    figures, errors = run.figures(), run.layer_errors()
    parts = [
        text_table(
            _headline(run, figures, errors, {"model": model, "backend, preset": f"{backend}, {preset}"}, prompt)
        ),
        *_time_sections(run, backend),
        *_roofline(run),
        *_errors(errors),
        *_details(run, errors),
    ]
    return html_page(title, parts)


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
    return f"{shown} {unit}".rstrip()


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g} bytes"


def _headline(
    run: GenerateRun, figures: dict[str, Any], errors: Sequence[dict[str, Any]], names: dict[str, str], prompt: str
) -> list[tuple[str, str]]:
    stop = "end of the answer" if figures["stop_reason"] == "end" else "number of tokens asked for"
    inside, bus = figures["bytes_streamed_per_token"], figures["host_bus_bytes_per_token"]
    times = f" ({inside / bus:.3g} times as many)" if inside and bus else ""
    ns, share = figures["ns_per_token"], figures["utilization_of_peak"]
    rows = [
        *names.items(),
        ("layers on the device", f"{len(run.layers)}"),
        ("prompt", prompt),
        ("answer", run.text),
        ("tokens", f"{figures['prompt_tokens']} of prompt, {figures['output_tokens']} generated; stopped by: {stop}"),
        ("PIM cycles per token", _number(figures["cycles_per_token"])),
        ("PIM time per token", "-" if ns is None else f"{_number(ns)} ns"),
        ("share of the banks' peak, while attending", "-" if share is None else f"{share:.2%}"),
        ("bytes over the host bus, per token", _bytes(bus)),
        ("bytes streamed inside, per token", _bytes(inside) + times),
        ("cycles of prefill (K and V written)", _number(figures["prefill_cycles"])),
    ]
    if errors:
        worst = max(errors, key=lambda row: row["max_rel_l2_error"])
        largest = f"{worst['max_rel_l2_error']:.2e} (layer {worst['layer']})"
        rows.append(("largest error of a head's output against float64", largest))
    return rows


def _time_sections(run: GenerateRun, backend: str) -> list[str]:
    """Utilization and breakdown, or the reason why they are missing."""
    from dimmpim.reports.generation_plots import (  # noqa: PLC0415 - Matplotlib is slow to import
        plot_breakdown,
        plot_utilization,
    )

    windows = call_windows(run)
    if not windows or not run.activity or not run.activity.spans or not run.rank or not run.clock:
        why = "no layer is on the device" if not run.layers else f"the backend {backend} has none"
        if windows:
            why = "what the rank does was not recorded"
        return ["<h2>Simulated time</h2>", f'<p class="note">No plots over simulated time: {html_text(why)}.</p>']
    until = seen_until(run, windows)
    cut = f"Only the first {MAX_SPANS:,} spans were kept: what came later is not shown." if run.activity.cut_off else ""
    parts: list[str] = []
    if until > 0:
        parts += section(
            "Utilisation over simulated time",
            plot_utilization(
                run.activity, run.rank, windows, layers=run.layers, cycle_ps=run.clock.cycle_ps, until=until
            ),
            "Left: the calls of the device one after another, as if the host took no time; dotted lines: a token "
            "starts, before the first is prefill; dashed: the physical limit. Right: the last layer; K and V of a "
            "token are written, then (dotted line) it attends.",
            "MAC units: column accesses of all banks, of one each nCCD. Host bus: lines between host and DIMM. Chip "
            "bus: queries, probabilities, scores and sums between buffer chip and DRAM chips, and posted writes; K and "
            "V that the host writes while it owns the DRAM pass through and are counted as host bus.",
            cut,
        )
    svg = plot_breakdown(run, cycle_ps=run.clock.cycle_ps)
    if svg:
        parts += section(
            "Where the cycles of a token go",
            svg,
            "A clock counts for one part. While a layer attends, the first of these that applies: banks stream; the "
            f"host writes or reads; the chip bus is busy; refresh. The rest is '{PARTS[-1]}': softmax, opening of "
            "rows, command latency. Commands of a kind that are near one another are taken to be one stretch.",
            cut,
        )
    return parts


def _roofline(run: GenerateRun) -> list[str]:
    from dimmpim.reports.generation_plots import plot_roofline  # noqa: PLC0415 - Matplotlib is slow to import

    if run.rank is None or not run.layers:
        return []
    share = roofs(run.rank).physical / roofs(run.rank).banks
    return section(
        "Roofline",
        plot_roofline(run, run.rank),
        f"The physical limit is {share:.1%} of the peak of the banks: opening and closing rows (whole rows, one bank) "
        "and refresh. The bus of the DIMM is what a device outside it could read K and V with. What lies beside the "
        "last token is read too, which lowers the intensity of short contexts.",
    )


def _errors(errors: Sequence[dict[str, Any]]) -> list[str]:
    from dimmpim.reports.generation_plots import plot_errors  # noqa: PLC0415 - Matplotlib is slow to import

    title = "Error against float64"
    if not errors:
        return [f"<h2>{title}</h2>", '<p class="note">Not computed.</p>']
    note = "Relative L2 error of a head's output, against float64 attention on the same float16 q, K and V; all tokens."
    return section(title, plot_errors(errors), note)


def _details(run: GenerateRun, errors: Sequence[dict[str, Any]]) -> list[str]:
    """Numbers of the plots, folded away."""
    cycle_ps = run.clock.cycle_ps if run.clock else 0
    tokens = [
        (
            "prefill" if number == 0 else str(number),
            repr(step.text),
            str(len(run.prompt_ids) + number),
            _number(step.cycles),
            _number(None if step.cycles is None else step.cycles * cycle_ps / 1e3),
            _bytes(step.cost().bytes_streamed),
            _bytes(step.cost().host_bus_bytes),
        )
        for number, step in enumerate(run.steps)
    ]
    head = ("token", "text", "context", "cycles", "ns", "streamed inside", "host bus")
    parts = [f"<details><summary>Tokens</summary>{data_table(head, tokens)}</details>"]
    if errors:
        rows = [
            (str(row["layer"]), f"{row['median_rel_l2_error']:.2e}", f"{row['max_rel_l2_error']:.2e}") for row in errors
        ]
        table = data_table(("layer", "median", "largest"), rows)
        parts.append(f"<details><summary>Errors of the layers</summary>{table}</details>")
    return parts
