"""Synthetic lengths with the published mean and standard deviation of a data set.

The data sets themselves are not included, and their distributions are not published. A lognormal distribution is
assumed: like lengths, it is positive and skewed, and mean and deviation alone determine it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import UnknownNameError, require

from .workload import MOST_TOKENS, Workload

__all__ = ["LENGTHS", "LengthMoments", "LengthSet", "draw_lengths", "synthetic_workload"]


@dataclass(frozen=True, kw_only=True)
class LengthMoments:
    """Mean and standard deviation of a length, in tokens."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        require(1 <= self.mean < MOST_TOKENS, "mean", self.mean, f"1..{MOST_TOKENS}")
        require(0 <= self.std < MOST_TOKENS, "std", self.std, f"0..{MOST_TOKENS}")


@dataclass(frozen=True, kw_only=True)
class LengthSet:
    """Prompt and answer lengths of a data set.

    Parameters
    ----------
    prompt, output : LengthMoments
    source : str
    """

    prompt: LengthMoments
    output: LengthMoments
    source: str


_CHIME = "synthetic lognormal lengths; mean and deviation: L3/CHIME, arXiv 2504.17584v2, evaluation"

LENGTHS: Mapping[str, LengthSet] = MappingProxyType(
    {
        "OpenR1": LengthSet(
            prompt=LengthMoments(mean=96.0, std=75.1),
            output=LengthMoments(mean=12_684.1, std=8_464.6),
            source=_CHIME,
        ),
        "Dolphin-r1": LengthSet(
            prompt=LengthMoments(mean=201.9, std=563.0),
            output=LengthMoments(mean=3_926.2, std=4_216.0),
            source=_CHIME,
        ),
        "OpenThoughts": LengthSet(
            prompt=LengthMoments(mean=89.4, std=66.7),
            output=LengthMoments(mean=6_366.7, std=4_662.9),
            source=_CHIME,
        ),
    }
)


def draw_lengths(moments: LengthMoments, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` lengths from the lognormal distribution of these moments, rounded, each 1 or more."""
    variance = math.log1p((moments.std / moments.mean) ** 2)
    drawn = rng.lognormal(math.log(moments.mean) - variance / 2, math.sqrt(variance), size=count)
    return np.clip(np.rint(drawn), 1, MOST_TOKENS).astype(np.int64)


def synthetic_workload(name: str, count: int, rng: np.random.Generator) -> Workload:
    """`count` requests with the lengths of a named data set, all arriving at time 0.

    Raises
    ------
    UnknownNameError
    ParameterError
    """
    known = {key.lower(): key for key in LENGTHS}
    if name.lower() not in known:
        raise UnknownNameError("length set", name, LENGTHS)
    require(1 <= count <= 1 << 28, "count", count, f"1..{1 << 28}")
    lengths = LENGTHS[known[name.lower()]]
    return Workload.of(
        known[name.lower()],
        lengths.source,
        synthetic=True,
        arrival_ns=np.zeros(count, np.int64),
        prompt_tokens=draw_lengths(lengths.prompt, count, rng),
        output_tokens=draw_lengths(lengths.output, count, rng),
    )
