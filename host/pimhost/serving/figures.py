"""Figures of a run over all replicas: throughput, latencies, batch size, utilization, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .energy import EnergyFigures, EnergyModel, measure_energy
from .outcome import Outcome, Status

__all__ = ["PERCENTILES", "Percentiles", "ServeFigures", "measure"]

PERCENTILES = (50, 90, 99)
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Mean and percentiles in ms, None without measurements; percentiles are times that occur (the higher of two)."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, values_ms: Array) -> Percentiles:
        if not len(values_ms):
            return cls(mean=None, p50=None, p90=None, p99=None)
        p50, p90, p99 = (float(v) for v in np.percentile(values_ms, PERCENTILES, method="higher"))
        return cls(mean=float(values_ms.mean()), p50=p50, p90=p90, p99=p99)


@dataclass(frozen=True, kw_only=True)
class ServeFigures:
    """Figures of one run.

    Parameters
    ----------
    requests, finished, running, queued, refused : int
        All requests, and their states at the end.
    preemptions : int
    seconds : float
        Time until the last replica was done.
    output_tokens, prefill_tokens, wasted_prefill_tokens : int
        Tokens generated; prompt tokens computed; prompt tokens lost to preemption before the prompt was done.
    output_tokens_per_s, requests_per_s : float
        Generated tokens and finished requests over `seconds`.
    ttft, tpot, latency : Percentiles
        Arrival to first token; time of each further token of a finished request; arrival to last token.
    mean_batch : float
        Decoding requests at a time, of all replicas together, over `seconds`.
    largest_batch : int
        Largest batch of one replica.
    iterations : int
    gpu_utilization, pim_utilization, pim_mean_utilization : float
        Busy shares of `seconds`: of the GPU, of the slowest PIM rank, and of a PIM rank on average.
    memory_utilization : float
        Granted share of the memory for K and V, over `seconds`.
    kv_capacity_bytes, kv_read_bytes, link_bytes : int
    energy : EnergyFigures
    """

    requests: int
    finished: int
    running: int
    queued: int
    refused: int
    preemptions: int
    seconds: float
    output_tokens: int
    prefill_tokens: int
    wasted_prefill_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    ttft: Percentiles
    tpot: Percentiles
    latency: Percentiles
    mean_batch: float
    largest_batch: int
    iterations: int
    gpu_utilization: float
    pim_utilization: float
    pim_mean_utilization: float
    memory_utilization: float
    kv_capacity_bytes: int
    kv_read_bytes: int
    link_bytes: int
    energy: EnergyFigures

    def document(self) -> dict[str, Any]:
        """Dictionary for JSON."""
        return {**asdict(self), "energy": self.energy.document()}


def measure(outcomes: Sequence[Outcome], model: EnergyModel) -> ServeFigures:
    """Figures of replicas that ran side by side from time 0; `model` gives the energy of each."""
    end_ns = max(o.end_ns for o in outcomes)
    whole_ns = max(1, end_ns * len(outcomes))

    def total(name: str) -> int:
        return sum(getattr(o, name) for o in outcomes)

    def count(status: Status) -> int:
        return sum(int((o.status == status).sum()) for o in outcomes)

    def ratio(part: int, whole: float) -> float:
        return part / whole if whole else 0.0

    ttft, tpot, latency = (np.concatenate(parts) for parts in zip(*map(_latencies, outcomes), strict=True))
    capacity = [o.geometry.num_pools * o.geometry.pool_units for o in outcomes]
    generated = sum(int(o.generated.sum()) for o in outcomes)
    return ServeFigures(
        requests=sum(len(o.workload) for o in outcomes),
        finished=count(Status.FINISHED),
        running=count(Status.RUNNING),
        queued=count(Status.QUEUED),
        refused=count(Status.REFUSED),
        preemptions=sum(int(o.preemptions.sum()) for o in outcomes),
        seconds=end_ns / 1e9,
        output_tokens=generated,
        prefill_tokens=total("prefill_tokens"),
        wasted_prefill_tokens=total("wasted_prefill_tokens"),
        output_tokens_per_s=ratio(generated, end_ns / 1e9),
        requests_per_s=ratio(count(Status.FINISHED), end_ns / 1e9),
        ttft=Percentiles.of(ttft),
        tpot=Percentiles.of(tpot),
        latency=Percentiles.of(latency),
        mean_batch=ratio(total("decode_request_ns"), end_ns),
        largest_batch=max(o.most_decodes for o in outcomes),
        iterations=total("iterations"),
        gpu_utilization=total("gpu_ns") / whole_ns,
        pim_utilization=total("pim_ns") / whole_ns,
        pim_mean_utilization=total("pim_mean_ns") / whole_ns,
        memory_utilization=ratio(total("granted_unit_ns"), float(sum(capacity)) * end_ns),
        kv_capacity_bytes=sum(o.geometry.capacity_bytes for o in outcomes),
        kv_read_bytes=total("kv_read_bytes"),
        link_bytes=total("link_bytes"),
        energy=measure_energy(outcomes, model),
    )


def _latencies(outcome: Outcome) -> tuple[Array, Array, Array]:
    """Latencies in ms: TTFT of all requests that began, TPOT and whole latency of all that finished."""
    w, begun, finished = outcome.workload, outcome.first_token_ns >= 0, outcome.status == Status.FINISHED
    several = finished & (w.output_tokens > 1)
    spent = (outcome.finish_ns - outcome.first_token_ns)[several] / (w.output_tokens[several] - 1)
    ttft = (outcome.first_token_ns - w.arrival_ns)[begun]
    return ttft / 1e6, spent / 1e6, (outcome.finish_ns - w.arrival_ns)[finished] / 1e6
