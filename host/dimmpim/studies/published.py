"""Comparison with L3/CHIME's published figures: throughput ratios of all systems, and the bandwidths of Table I."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from dimmpim.studies.comparison import Job
from pimhost.serving.figures import ServeFigures
from pimhost.systems.chime import (
    COMPARED,
    FREE_CONSTANTS,
    OOM_SHARE,
    PARALLELISM,
    REFERENCE,
    SEED,
    SYSTEM_ORDER,
    THROUGHPUT,
    bandwidth_bound,
    chime_node,
    chime_workload,
    table_one,
)

__all__ = ["Cell", "bandwidth_table", "cells_of", "published_document", "published_jobs", "published_tables"]

JSON_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Comparison of one system, model and data set.

    Parameters
    ----------
    lengths, model, system : str
    paper, ours : float or None
        Throughput over that of the reference system; None if out of memory.
    ratio : float or None
        Our throughput ratio over the paper's.
    bound : float or None
        Upper bound from the published bandwidth, over our throughput of the reference system.
    figures : ServeFigures or str
        Figures of our run, or the reason why there was none.
    """

    lengths: str
    model: str
    system: str
    paper: float | None
    ours: float | None
    ratio: float | None
    bound: float | None
    figures: ServeFigures | str


def published_jobs(requests: int) -> list[Job]:
    """Jobs of all systems on all models and data sets of the figures, in that order."""
    workloads = {lengths: chime_workload(lengths, requests) for lengths in THROUGHPUT}
    return [
        Job(system=system, model=model, node=chime_node(model), workload=workloads[lengths])
        for lengths in THROUGHPUT
        for model in PARALLELISM
        for system, _ in COMPARED
    ]


def throughput(figures: ServeFigures | str) -> float | None:
    """Tokens a second; None if the weights do not fit, or most of the requests do not."""
    if isinstance(figures, str) or figures.refused > OOM_SHARE * figures.requests:
        return None
    return figures.output_tokens_per_s


def cells_of(jobs: Sequence[Job], results: Sequence[ServeFigures | str]) -> list[Cell]:
    """Ratios of the results of :func:`published_jobs`."""
    cells, left = [], list(zip(jobs, results, strict=True))
    for lengths, models in THROUGHPUT.items():
        for model in PARALLELISM:
            paper_of = dict(zip(SYSTEM_ORDER, models[model], strict=True))
            runs = {system: left.pop(0) for system, _ in COMPARED}
            base = throughput(runs[REFERENCE[model]][1])
            for system, published in COMPARED:
                job, figures = runs[system]
                paper, found = paper_of[published], throughput(figures)
                ours = found / base if found is not None and base else None
                ratio = ours / paper if ours is not None and paper is not None else None
                bound = bandwidth_bound(published, model, job.workload)
                cells.append(
                    Cell(
                        lengths=lengths,
                        model=model,
                        system=system,
                        paper=paper,
                        ours=ours,
                        ratio=ratio,
                        bound=bound / base if bound is not None and base else None,
                        figures=figures,
                    )
                )
    return cells


def _shown(value: float | None) -> str:
    return "OOM" if value is None else f"{value:.3f}"


def published_tables(cells: Sequence[Cell]) -> list[Table]:
    """Table for each data set: paper / ours / ratio."""
    tables = []
    for lengths in THROUGHPUT:
        caption = "1 is the reference; bound: K and V read at the published bandwidth all the time, over our reference"
        table = Table(title=f"throughput, {lengths}", caption=caption, box=box.SIMPLE_HEAD, padding=0)
        table.add_column("", no_wrap=True)
        for system, _ in COMPARED:
            table.add_column(system, justify="right", no_wrap=True)
        for model in PARALLELISM:
            found = [c for c in cells if (c.lengths, c.model) == (lengths, model)]
            table.add_row(f"{model}, paper", *(_shown(c.paper) for c in found))
            table.add_row("ours", *(_shown(c.ours) for c in found))
            table.add_row("ratio", *("-" if c.ratio is None else f"{c.ratio:.2f}" for c in found))
            bounds = ("-" if c.bound is None else f"{c.bound:.3f}" for c in found)
            table.add_row("bound", *bounds, end_section=True)
        tables.append(table)
    return tables


def bandwidth_table() -> Table:
    """Table I, computed from first principles."""
    table = Table(
        title="bandwidths of Table I from first principles, TB/s",
        caption="tCK 0.63 ns, as the paper has it; the last column: 0.625 ns, as JEDEC has it",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for column in ("system", "formula"):
        table.add_column(column)
    for column in ("paper", "ours", "ratio", "JEDEC tCK"):
        table.add_column(column, justify="right")
    for row, jedec in zip(table_one(), table_one(tck_ns=0.625), strict=True):
        figures = (f"{v / 1e12:,.4g}" for v in (row.published, row.ours))
        table.add_row(row.system, row.formula, *figures, f"{row.ours / row.published:.3f}", f"{jedec.ours / 1e12:,.4g}")
    return table


def published_document(cells: Sequence[Cell], requests: int) -> dict[str, Any]:
    """Document as ``docs/serve-json.md`` defines it."""

    def figures_of(cell: Cell) -> Mapping[str, Any] | str:
        return cell.figures if isinstance(cell.figures, str) else cell.figures.document()

    return {
        "version": JSON_VERSION,
        "source": "L3/CHIME, arXiv 2504.17584v2",
        "requests": requests,
        "seed": SEED,
        "free_constants": {name: asdict(constant) for name, constant in FREE_CONSTANTS.items()},
        "bandwidths": [asdict(row) for row in table_one()],
        "cells": [
            {
                "lengths": c.lengths, "model": c.model, "system": c.system, "paper": c.paper, "ours": c.ours,
                "ratio": c.ratio, "bound": c.bound, "figures": figures_of(c),
            }
            for c in cells
        ],
    }  # fmt: skip
