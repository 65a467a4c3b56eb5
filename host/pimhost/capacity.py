"""KV-cache capacity of a rank: static allocation of the longest context, compared with lazy chunks.

Requests arrive with synthetic lengths until one no longer fits. The lengths follow a normal distribution with the mean
and standard deviation of a data set, cut off at its least and greatest length (PIMphony, evaluation section). At that
moment, bytes of live tokens are compared with bytes of granted chunks, and with the capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import ParameterError, require
from pimspec.params.dpa import DpaParams

from .driver.kv_cache import CacheStatistics, KvCache, LazyKvCache, OutOfMemoryError, StaticKvCache

__all__ = ["DATASETS", "CapacityPoint", "LengthStatistics", "fill", "measure_capacity", "synthetic_lengths"]


@dataclass(frozen=True, kw_only=True)
class LengthStatistics:
    """Request lengths of a data set, in tokens."""

    mean: int
    std: int
    greatest: int
    least: int


DATASETS: Mapping[str, LengthStatistics] = MappingProxyType(
    {
        "QMSum": LengthStatistics(mean=13_966, std=6_182, greatest=30_456, least=2_651),
        "Musique": LengthStatistics(mean=16_362, std=1_651, greatest=17_917, least=6_820),
        "multifieldqa": LengthStatistics(mean=60_780, std=31_025, greatest=119_480, least=20_333),
        "Loogle-SD": LengthStatistics(mean=50_693, std=26_506, greatest=109_221, least=13_347),
    }
)
"""Statistics published by PIMphony; it does not publish the lengths themselves, so those used here are synthetic."""


@dataclass(frozen=True, kw_only=True)
class CapacityPoint:
    """Means over the trials of one data set.

    Parameters
    ----------
    dataset : str
    mean_tokens : float
        Mean length of the requests that arrived.
    static, lazy : float
        Live bytes over granted bytes.
    static_of_capacity, lazy_of_capacity : float
        Live bytes over the capacity of the rank.
    static_requests, lazy_requests : float
        Requests resident at the end of a fill.
    """

    dataset: str
    mean_tokens: float
    static: float
    lazy: float
    static_of_capacity: float
    lazy_of_capacity: float
    static_requests: float
    lazy_requests: float


def synthetic_lengths(statistics: LengthStatistics, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Lengths from a truncated normal distribution; draws outside the range are repeated."""
    lengths = np.empty(0, dtype=np.int64)
    while len(lengths) < count:
        drawn = np.rint(rng.normal(statistics.mean, statistics.std, size=2 * count)).astype(np.int64)
        lengths = np.append(lengths, drawn[(drawn >= statistics.least) & (drawn <= statistics.greatest)])
    return lengths[:count]


def fill(cache: KvCache, lengths: NDArray[np.int64]) -> CacheStatistics:
    """Statistics of a cache filled with requests of these lengths, in turn, until one no longer fits.

    Raises
    ------
    ParameterError
        If all of them fit.
    """
    for slot, tokens in enumerate(lengths.tolist()):
        try:
            cache.open(slot, tokens)
        except OutOfMemoryError:
            return cache.statistics()
    raise ParameterError(f"all of {len(lengths)} requests fit: a smaller rank, or more layers or kv_heads in it")


def measure_capacity(
    params: DpaParams, regions: int, *, trials: int, seed: int, context: int | None = None
) -> list[CapacityPoint]:
    """Capacity figures of a rank that is filled with requests of each data set.

    Parameters
    ----------
    params : DpaParams
        Parameters with enough slots for all requests that fit.
    regions : int
        Regions of each request.
    trials : int
        Fills for each data set.
    seed : int
    context : int, optional
        Tokens that static allocation reserves; by default the greatest length of the data set.
    """
    require(trials >= 1, "trials", trials, "1 or more")
    require(seed >= 0, "seed", seed, "0 or more")
    points: list[CapacityPoint] = []
    for name, statistics in DATASETS.items():
        rng = np.random.default_rng([seed, len(points)])
        static, lazy, arrived = [], [], []
        for _ in range(trials):
            lengths = synthetic_lengths(statistics, params.num_slots, rng)
            most = statistics.greatest if context is None else context
            require(most >= statistics.greatest, "context", most, f"at least {statistics.greatest}, of {name}")
            static.append(fill(StaticKvCache(params, regions, max_tokens=most), lengths))
            lazy.append(fill(LazyKvCache(params, regions), lengths))
            arrived.append(float(lengths.mean()))
        points.append(
            CapacityPoint(
                dataset=name,
                mean_tokens=float(np.mean(arrived)),
                static=float(np.mean([s.utilization for s in static])),
                lazy=float(np.mean([s.utilization for s in lazy])),
                static_of_capacity=float(np.mean([s.utilization_of_capacity for s in static])),
                lazy_of_capacity=float(np.mean([s.utilization_of_capacity for s in lazy])),
                static_requests=float(np.mean([s.requests for s in static])),
                lazy_requests=float(np.mean([s.requests for s in lazy])),
            )
        )
    return points
