"""Comparison report: one page of HTML that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from dimmpim.reports.html_page import data_table, html_page, html_text, section
from dimmpim.reports.serving import figures_table
from dimmpim.studies.published import Cell, bandwidth_table, published_tables
from pimhost.serving.figures import ServeFigures
from pimhost.systems.chime import FREE_CONSTANTS, THROUGHPUT

__all__ = ["compare_html", "published_html"]


def compare_html(
    title: str, runs: Mapping[str, ServeFigures | str], has_pim: Mapping[str, bool], *, source: str
) -> str:
    """Page of a comparison, which is well-formed XML too; the same runs give the same page."""
    from dimmpim.reports.comparison_plots import (  # noqa: PLC0415 - Matplotlib is slow to import
        plot_energy,
        plot_latencies,
        plot_throughput,
        plot_utilizations,
    )

    done = {name: figures for name, figures in runs.items() if not isinstance(figures, str)}
    parts = [f'<p class="note">{html_text(source)}</p>', _rich(figures_table(runs, has_pim))]
    parts += [f"<p>{html_text(f'{name}: {why}')}</p>" for name, why in runs.items() if isinstance(why, str)]
    if done:
        parts += section("Throughput", plot_throughput(done))
        parts += section(
            "Latency",
            plot_latencies(done),
            "Of the requests that began (TTFT) and that finished (TPOT): refused ones are not in it.",
        )
        parts += section("Utilisation", plot_utilizations(done, has_pim))
        parts += _energy_section(done, plot_energy)
    return html_page(f"dimmpim compare: {title}", parts)


def _energy_section(done: Mapping[str, ServeFigures], plot: Callable[[Mapping[str, ServeFigures]], str]) -> list[str]:
    """Energy of the systems for which all of it is known, and the reasons for the others."""
    known = {name: figures for name, figures in done.items() if figures.energy.j_per_output_token is not None}
    reasons = [f"{name}: {why}." for name, figures in done.items() for why in figures.energy.missing]
    left_out = next(iter(done.values())).energy.not_counted
    note = " ".join((*reasons, f"Not counted: {'; '.join(left_out)}."))
    return section("Energy", plot(known), note) if known else ["<h2>Energy</h2>", f"<p>{html_text(note)}</p>"]


def published_html(cells: Sequence[Cell], requests: int) -> str:
    """Table and plot of simulated figures beside those of L3/CHIME."""
    from dimmpim.reports.comparison_plots import plot_published  # noqa: PLC0415 - Matplotlib is slow to import

    parts: list[str] = [
        f'<p class="note">{requests:,} requests each, synthetic lengths with the published moments.</p>'
    ]
    for lengths, table in zip(THROUGHPUT, published_tables(cells), strict=True):
        parts += section(str(table.title), plot_published(cells, lengths))
        parts.append(_rich(table))
    parts += ["<h2>Bandwidths from first principles</h2>", _rich(bandwidth_table())]
    constants = ((name, str(c.value), c.why) for name, c in FREE_CONSTANTS.items())
    parts += ["<h2>Constants that were chosen</h2>", data_table(("constant", "value", "why"), constants)]
    return html_page("dimmpim compare: L3/CHIME's published throughput", parts)


def _rich(table: Table) -> str:
    """HTML form of a terminal table."""
    columns = [list(column.cells) for column in table.columns]
    head = [str(column.header) for column in table.columns]
    return data_table(head, ([str(cell) for cell in row] for row in zip(*columns, strict=True)))
