"""Summary of a workload in a few figures, and its requests as CSV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .workload import Workload

__all__ = ["LengthSummary", "Summary", "csv_text", "summarize"]


@dataclass(frozen=True, kw_only=True)
class LengthSummary:
    """Statistics of a length, in tokens; percentiles are lengths that occur (the higher of two)."""

    mean: float
    std: float
    p50: int
    p90: int
    p99: int
    greatest: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of a workload.

    Parameters
    ----------
    requests : int
    duration_s : float
        Time from the first to the last arrival.
    requests_per_s : float or None
        Arrival rate; None if all requests arrive at once.
    prompt, output, both : LengthSummary
    """

    requests: int
    duration_s: float
    requests_per_s: float | None
    prompt: LengthSummary
    output: LengthSummary
    both: LengthSummary


def _of(values: NDArray[np.int64]) -> LengthSummary:
    p50, p90, p99 = (int(v) for v in np.percentile(values, (50, 90, 99), method="higher"))
    return LengthSummary(
        mean=float(values.mean()),
        std=float(values.std()),
        p50=p50,
        p90=p90,
        p99=p99,
        greatest=int(values.max()),
        total=int(values.sum()),
    )


def summarize(workload: Workload) -> Summary:
    """Number of requests, rate, and the lengths of prompts, answers, and both together."""
    duration_s = int(workload.arrival_ns[-1] - workload.arrival_ns[0]) / 1e9
    return Summary(
        requests=len(workload),
        duration_s=duration_s,
        requests_per_s=(len(workload) - 1) / duration_s if duration_s else None,
        prompt=_of(workload.prompt_tokens),
        output=_of(workload.output_tokens),
        both=_of(workload.prompt_tokens + workload.output_tokens),
    )


def csv_text(workload: Workload) -> str:
    """All requests as CSV, in the format ``dimmpim`` of :mod:`pimhost.workloads.readers`."""
    lines = [f"{r.arrival_ns},{r.prompt_tokens},{r.output_tokens}" for r in workload]
    origin = f"# {'synthetic' if workload.synthetic else 'recorded'}: {workload.source}"
    return "\n".join([origin, "arrival_ns,prompt_tokens,output_tokens", *lines, ""])
