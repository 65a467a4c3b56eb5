"""Tables and JSON of a run, which `serve` and `compare` print and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich import box
from rich.cells import cell_len
from rich.table import Table

from pimhost.serving.figures import PERCENTILES, ServeFigures

__all__ = ["energy_table", "figures_table", "fitting_tables"]


def _share(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" if value >= 1 else f"{value:.3g}"


def _percentiles(name: str, unit: str, ms: float) -> tuple[tuple[str, Callable[[ServeFigures], str]], ...]:
    """Rows of the percentiles of a latency."""

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
    ("requests/h", lambda f: _number(3600 * f.requests_per_s)),
    *_percentiles("ttft", "s", 1e3),
    *_percentiles("tpot", "ms", 1),
    ("mean batch", lambda f: _number(f.mean_batch)),
    ("GPU at work", lambda f: _share(f.gpu_utilization)),
    ("K, V memory (GB)", lambda f: _number(f.kv_capacity_bytes / 1e9)),
    ("of it granted", lambda f: _share(f.memory_utilization)),
    ("J/output token", lambda f: _number(f.energy.j_per_output_token)),
    ("mean power (W)", lambda f: _number(f.energy.mean_w)),
)
_PIM_ROWS: tuple[tuple[str, Callable[[ServeFigures], str]], ...] = (
    ("slowest rank at work", lambda f: _share(f.pim_utilization)),
    ("mean rank at work", lambda f: _share(f.pim_mean_utilization)),
)


def figures_table(runs: Mapping[str, ServeFigures | str], has_pim: Mapping[str, bool]) -> Table:
    """Table with a column for each run; a text instead of figures gives the reason why there are none."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in runs:
        table.add_column(name, justify="right", no_wrap=True)
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


def fitting_tables(runs: Mapping[str, ServeFigures | str], has_pim: Mapping[str, bool], width: int) -> list[Table]:
    """Tables as :func:`figures_table`, split so that each fits the width of the terminal."""
    left, *columns = figures_table(runs, has_pim).columns
    edge = 2 + max(cell_len(str(cell)) for cell in left.cells)
    parts: list[list[str]] = []
    room = 0
    for name, column in zip(runs, columns, strict=True):
        needed = 1 + max(cell_len(str(cell)) for cell in (name, *column.cells))
        if not parts or needed > room:
            parts.append([])
            room = width - edge
        parts[-1].append(name)
        room -= needed
    return [figures_table({name: runs[name] for name in part}, has_pim) for part in parts]


_PARTS: Mapping[str, str] = {
    "gpu_idle": "GPUs, waiting",
    "gpu_static": "GPUs, static at work",
    "gpu_arithmetic": "GPUs, arithmetic",
    "gpu_memory": "GPUs, memory",
    "attention": "attention outside",
    "writes": "new K and V",
    "standby": "standby of memory",
    "refresh": "refresh of memory",
    "channel": "memory channels",
    "link": "links of GPUs",
    "cpu": "CPU",
}


def energy_table(figures: ServeFigures) -> Table:
    """Table of the energy of each part; parts that the system does not have are left out."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("energy of", no_wrap=True)
    table.add_column("J", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    whole = figures.energy.total_j
    for name, joules in figures.energy.parts_j.values.items():
        if joules != 0:
            share = "-" if joules is None or not whole else _share(joules / whole)
            table.add_row(_PARTS[name], _number(joules), share)
    table.add_row("all", _number(whole), "-" if not whole else _share(1))
    return table
