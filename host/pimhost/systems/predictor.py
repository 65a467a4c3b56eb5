"""Predictor of T_PIM for L3's scheduler: linear in the slowest rank's tokens and requests, decodes, and new tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .base import IntArray
from .pim_latency import AttentionLatency

__all__ = ["AttendingSystem", "PimPredictor", "fit_pim_predictor"]

POINTS = 1000
TRAINING_SHARE = 0.8
"""Number of points and share for training, as in CHIME (papers, 3.6)."""
SEED = 1
LONGEST = 32_768
MOST_REQUESTS = 64
MOST_NEW_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class PimPredictor:
    """Linear model of T_PIM, in ns for one layer and phase.

    Parameters
    ----------
    token_ns, request_ns : float
        Time for each token, and for each request, of the slowest rank.
    decode_ns : float
        Transfer time for each decoding request of the sub-batch.
    prefill_token_ns : float
        Time for each prompt token whose K and V are transferred meanwhile.
    fixed_ns : float
    median_error, p90_error : float
        Relative errors on the held-out points.
    """

    token_ns: float
    request_ns: float
    decode_ns: float
    prefill_token_ns: float
    fixed_ns: float
    median_error: float
    p90_error: float

    def attention_ns(self, slowest_tokens: float, slowest_requests: int, decodes: int) -> float:
        """T_PIM of a phase without prompts."""
        of_rank = self.token_ns * slowest_tokens + self.request_ns * slowest_requests
        return of_rank + self.decode_ns * decodes + self.fixed_ns


class AttendingSystem(Protocol):
    """A system with K and V on DIMMs, as far as the predictor asks it for times."""

    @property
    def num_lanes(self) -> int:
        """Groups of ranks that requests are dealt to."""

    @property
    def lane_kv_heads(self) -> int:
        """kv_heads of a request on each rank of a lane."""

    @property
    def latency(self) -> AttentionLatency:
        """Latency of attention on one rank."""

    def attending_ns(self, attention_ns: IntArray, decodes: int, prefill_tokens: int) -> IntArray:
        """Time of a phase with its transfers, in ns."""


def fit_pim_predictor(system: AttendingSystem) -> PimPredictor:
    """Predictor fitted by least squares of the relative error, on random batches timed by the system itself."""
    rng = np.random.default_rng(SEED)
    features, times = np.empty((POINTS, 5)), np.empty(POINTS)
    for n in range(POINTS):
        on_rank, new = int(rng.integers(1, MOST_REQUESTS)), int(rng.integers(0, MOST_NEW_TOKENS))
        tokens = rng.integers(1, LONGEST, size=on_rank)
        decodes = on_rank * int(rng.integers(1, system.num_lanes + 1))
        attention = int(system.latency.request_ps(system.lane_kv_heads, tokens).sum()) // 1000
        features[n] = tokens.sum(), on_rank, decodes, new, 1
        times[n] = system.attending_ns(np.array([attention]), decodes, new)[0]
    border = int(POINTS * TRAINING_SHARE)
    weights, *_ = np.linalg.lstsq(features[:border] / times[:border, None], np.ones(border), rcond=None)
    error = np.abs(features[border:] @ weights / times[border:] - 1)
    return PimPredictor(
        **dict(
            zip(("token_ns", "request_ns", "decode_ns", "prefill_token_ns", "fixed_ns"), weights.tolist(), strict=True)
        ),
        median_error=float(np.median(error)),
        p90_error=float(np.percentile(error, 90)),
    )
