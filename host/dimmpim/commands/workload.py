"""`dimmpim workload`: the requests of a trace, or synthetic ones, in figures and as CSV."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from pimhost.workloads.lengths import LENGTHS, synthetic_workload
from pimhost.workloads.readers import FORMATS, read_trace
from pimhost.workloads.summary import Summary, csv_text, summarize
from pimhost.workloads.workload import Workload, with_arrival_rate
from pimspec.errors import require
from pimspec.files import write_atomically


@click.command()
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A trace, plain or gzip.")
@click.option(
    "--format", "trace_format", metavar="NAME", help=f"Of the trace: {', '.join(FORMATS)} [default: recognised]."
)
@click.option("--lengths", "lengths_name", metavar="NAME", help=f"Synthetic lengths: {', '.join(LENGTHS)}.")
@click.option("--requests", type=click.IntRange(min=1), help="So many requests [default: all of a trace; 1000].")
@click.option("--rate", type=float, metavar="R", help="Arrivals: a Poisson process of R requests a second.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write arrival_ns and lengths, as CSV.")
def workload(
    trace: Path | None,
    trace_format: str | None,
    lengths_name: str | None,
    requests: int | None,
    rate: float | None,
    seed: int,
    out: Path | None,
) -> None:
    """Show what a serving workload looks like, and write it in one form.

    Traces: Azure (CSV), Mooncake (JSON lines), vidur (CSV of lengths), and what --out writes. Synthetic lengths are
    lognormal with the published mean and standard deviation. The same seed gives the same requests.

    \b
    Examples:
      dimmpim workload --trace azure2023_conv.csv.gz
      dimmpim workload --trace mooncake_conversation.jsonl --requests 1000 --out requests.csv
      dimmpim workload --lengths OpenR1 --requests 1000 --rate 2.5 --seed 7 --out openr1.csv
    """
    given = [name for name in (trace, lengths_name) if name is not None]
    require(len(given) == 1, "source", "both" if given else "none", "one of --trace and --lengths")
    console = Console()
    with console.status("reading" if trace else "drawing"):
        rng = np.random.default_rng(seed)
        if trace is not None:
            chosen = read_trace(trace, trace_format, most_requests=requests)
        else:
            require(trace_format is None, "--format", trace_format, "given with --trace only")
            chosen = synthetic_workload(str(lengths_name), requests or 1000, rng)
        if rate is not None:
            chosen = with_arrival_rate(chosen, rate, rng)
    _print(console, chosen, summarize(chosen))
    if out:
        write_atomically(out, csv_text(chosen))


def _print(console: Console, workload: Workload, summary: Summary) -> None:
    kind = "synthetic" if workload.synthetic else "recorded"
    rate = f"{summary.requests_per_s:.4g} a second" if summary.requests_per_s else "all at once"
    table = Table(
        title=f"{workload.name} ({kind}): {summary.requests:,} requests in {summary.duration_s:,.1f} s, {rate}"
    )
    table.add_column("tokens")
    for column in ("mean", "std", "p50", "p90", "p99", "most"):
        table.add_column(column, justify="right")
    for name, s in (("prompt", summary.prompt), ("output", summary.output), ("both", summary.both)):
        counts = (f"{value:,}" for value in (s.p50, s.p90, s.p99, s.greatest))
        table.add_row(name, f"{s.mean:,.1f}", f"{s.std:,.1f}", *counts)
    console.print(table)
    tokens = f"{summary.prompt.total:,} prompt tokens, {summary.output.total:,} output tokens"
    console.print(tokens, highlight=False)
    console.print(f"source: {workload.source}", highlight=False, soft_wrap=True)
