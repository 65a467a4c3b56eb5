"""What `serve` and `compare` print and write of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from pimhost.models import ModelShape
from pimhost.serving.figures import PERCENTILES, ServeFigures
from pimhost.systems.base import ServingSystem
from pimhost.systems.node import Node
from pimhost.workloads.workload import Workload

__all__ = ["JSON_VERSION", "figures_table", "serve_document"]

JSON_VERSION = 1


def _share(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _percentiles(name: str, unit: str, ms: float) -> tuple[tuple[str, Callable[[ServeFigures], str]], ...]:
    """A row for each."""

    def row(percentile: int) -> tuple[str, Callable[[ServeFigures], str]]:
        what = f"p{percentile}"

        def shown(figures: ServeFigures) -> str:
            value_ms = getattr(getattr(figures, name), what)
            return _number(None if value_ms is None else value_ms / ms)

        return f"{name.upper()} {what} ({unit})", shown

    return tuple(row(percentile) for percentile in PERCENTILES)


_ROWS: tuple[tuple[str, Callable[[ServeFigures], str]], ...] = (
    ("finished", lambda f: f"{f.finished:,}"),
    ("refused", lambda f: f"{f.refused:,}"),
    ("queued", lambda f: f"{f.queued:,}"),
    ("running", lambda f: f"{f.running:,}"),
    ("pre-emptions", lambda f: f"{f.preemptions:,}"),
    ("seconds", lambda f: _number(f.seconds)),
    ("output tokens/s", lambda f: _number(f.output_tokens_per_s)),
    ("requests/s", lambda f: _number(f.requests_per_s)),
    *_percentiles("ttft", "s", 1e3),
    *_percentiles("tpot", "ms", 1),
    ("mean batch", lambda f: _number(f.mean_batch)),
    ("GPU at work", lambda f: _share(f.gpu_utilization)),
    ("K, V memory (GB)", lambda f: _number(f.kv_capacity_bytes / 1e9)),
    ("of it granted", lambda f: _share(f.memory_utilization)),
    ("K, V reading (J)", lambda f: _number(f.kv_read_energy_j)),
)
_PIM_ROWS: tuple[tuple[str, Callable[[ServeFigures], str]], ...] = (
    ("slowest rank at work", lambda f: _share(f.pim_utilization)),
    ("mean rank at work", lambda f: _share(f.pim_mean_utilization)),
)


def figures_table(runs: Mapping[str, ServeFigures | str], has_pim: Mapping[str, bool]) -> Table:
    """A column for each run; a text instead of figures says why there are none."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in runs:
        table.add_column(name, justify="right", overflow="fold")
    place = next(n for n, (row, _) in enumerate(_ROWS) if row == "GPU at work") + 1
    for row, shown in (*_ROWS[:place], *_PIM_ROWS, *_ROWS[place:]):
        pim = any(shown is of_pim for _, of_pim in _PIM_ROWS)
        if pim and not any(has_pim.values()):
            continue
        cells = [
            "-" if isinstance(figures, str) or (pim and not has_pim[name]) else shown(figures)
            for name, figures in runs.items()
        ]
        table.add_row(row, *cells)
    return table


def serve_document(
    system: type[ServingSystem],
    shape: ModelShape,
    node: Node,
    workload: Workload,
    figures: ServeFigures,
    *,
    admission: str,
    until_s: float | None,
    seed: int,
) -> dict[str, Any]:
    """As ``docs/serve-json.md`` says; no wall-clock times, so that a run repeated gives the same."""
    return {
        "version": JSON_VERSION,
        "system": system.name,
        "model": shape.name,
        "node": asdict(node),
        "workload": {"name": workload.name, "source": workload.source, "synthetic": workload.synthetic, "seed": seed},
        "admission": admission,
        "until_s": until_s,
        "figures": figures.document(),
    }
