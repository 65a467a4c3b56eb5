"""`dimmpim workload`: the requests of a trace, or synthetic ones, in figures and as CSV."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from dimmpim.commands.options import out_option
from dimmpim.commands.parameters import command
from dimmpim.commands.serving_options import chosen_workload, workload_options
from dimmpim.outputs import console_beside, write_output
from pimhost.workloads.summary import Summary, csv_text, summarize
from pimhost.workloads.workload import Workload


@command()
@workload_options
@out_option("Write arrivals and lengths as CSV; - for standard output.", metavar="FILE.csv")
def workload(
    trace: Path | None,
    trace_format: str | None,
    lengths_name: str | None,
    requests: int | None,
    rate: float | None,
    seed: int,
    out: Path | None,
) -> None:
    """Summarize the requests of a trace, or synthetic ones, and convert them to CSV.

    Traces: Azure (CSV), Mooncake (JSON lines), vidur (CSV of lengths), and the CSV that --out writes. Synthetic lengths
    are lognormal with the published mean and standard deviation. The same seed gives the same requests.

    \b
    Examples:
      dimmpim workload --trace azure2023_conv.csv.gz
      dimmpim workload --trace mooncake_conversation.jsonl --requests 1000 --out requests.csv
      dimmpim workload --lengths OpenR1 --requests 1000 --rate 2.5 --seed 7 --out openr1.csv
    """
    console = console_beside(out)
    with console.status("reading" if trace else "drawing"):
        chosen = chosen_workload(
            trace=trace, trace_format=trace_format, lengths_name=lengths_name, requests=requests, rate=rate, seed=seed
        )
    _print(console, chosen, summarize(chosen))
    if out:
        write_output(out, csv_text(chosen))


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
