"""The tables of `dimmpim attention --model`: the time that a model's attention takes on ranks."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.table import Table

from dimmpim.api.clocks import BOUNDS, AttentionTime

__all__ = ["model_time_tables"]


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.4g} {unit}"


def _time(ns: float) -> str:
    for limit, scale, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if ns < limit:
            return f"{ns / scale:.4g} {unit}"
    return f"{ns / 1e9:.4g} s"


def _shares(time: AttentionTime) -> str:
    """Such as ``3 in each of 2 ranks, 2 in 1 rank``."""
    parts = []
    for heads, group in groupby(time.kv_heads_of_ranks):
        count = len(list(group))
        parts.append(f"{heads} in {'each of ' if count > 1 else ''}{count} rank{'s' if count > 1 else ''}")
    return ", ".join(parts)


def model_time_tables(time: AttentionTime) -> tuple[Table, Table]:
    """Time and bytes of a layer and of the whole model, side by side; then the work of the ranks."""
    times = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    times.add_column("", no_wrap=True)
    times.add_column("a layer", justify="right", no_wrap=True)
    times.add_column(f"a token: all {time.num_layers} layers", justify="right", no_wrap=True)
    times.add_row("controller clocks", f"{time.layer_clocks:,}", f"{time.token_clocks:,}")
    times.add_row("time", _time(time.layer_ns), _time(time.token_ns))
    times.add_row("K and V", _bytes(time.layer_kv_bytes), _bytes(time.token_kv_bytes))
    ranks = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_header=False)
    ranks.add_column(no_wrap=True)
    ranks.add_column()
    requests = f"{time.batch} requests of {time.tokens:,}" if time.batch > 1 else f"{time.tokens:,}"
    ranks.add_row("tokens", requests)
    ranks.add_row("kv_heads of a layer", _shares(time))
    if time.layer_sets > 1:
        ranks.add_row("layers", f"dealt over {time.layer_sets} such sets of ranks")
    if time.passes > 1:
        ranks.add_row("passes over K and V", f"{time.passes}, as a bank PU has lanes for 8 queries")
    ranks.add_row("of the peak of all banks", f"{time.utilization_of_peak:.1%}")
    ranks.add_row("of what DRAM timing allows", f"{time.utilization_of_legal_limit:.1%}")
    ranks.add_row("data bus in use", f"{time.bus_utilization:.1%}")
    ranks.add_row("balance of the ranks", f"{time.rank_balance:.1%}")
    memory = f"{_bytes(time.kv_bytes_of_rank)} of {_bytes(time.capacity_bytes_of_rank)}"
    ranks.add_row("memory of the fullest rank", memory)
    ranks.add_row("bound by", BOUNDS[time.bound])
    return times, ranks
