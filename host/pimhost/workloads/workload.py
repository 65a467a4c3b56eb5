"""Workload: the requests of any origin in one structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.errors import require

__all__ = ["MOST_NS", "MOST_TOKENS", "Request", "Workload", "with_arrival_rate"]

MOST_TOKENS = 1 << 31
"""Most tokens of a prompt or an answer; more is a fault of the trace."""
MOST_NS = 1 << 62
"""Latest arrival, which is 146 years."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Parameters
    ----------
    arrival_ns : int
        Arrival since the first request of the trace, or since the beginning of a synthetic workload.
    prompt_tokens, output_tokens : int
        Lengths, each 1 or more.
    """

    arrival_ns: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Requests in arrival order.

    Parameters
    ----------
    name : str
    source : str
        Source to cite.
    synthetic : bool
        True if lengths or arrivals were drawn, false if they were recorded.
    arrival_ns, prompt_tokens, output_tokens : array of int64, (requests,)

    Raises
    ------
    ParameterError
        If the arrays differ in length, are empty, or hold values that a request cannot have.
    """

    name: str
    source: str
    synthetic: bool
    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.arrival_ns)
        require(count >= 1, "number of requests", count, "1 or more")
        for name, values in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            require(values.shape == (count,), f"shape of {name}", values.shape, f"({count},)")
            require(bool((values >= 1).all()), f"least of {name}", int(values.min()), "1 or more")
            require(bool((values <= MOST_TOKENS).all()), f"most of {name}", int(values.max()), f"at most {MOST_TOKENS}")
        first = int(self.arrival_ns[0])
        require(first >= 0 and bool((np.diff(self.arrival_ns) >= 0).all()), "arrival_ns", "others", "sorted, from 0")
        for values in (self.arrival_ns, self.prompt_tokens, self.output_tokens):
            values.flags.writeable = False

    @classmethod
    def of(
        cls,
        name: str,
        source: str,
        *,
        synthetic: bool,
        arrival_ns: ArrayLike,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
    ) -> Workload:
        """Workload from anything that NumPy converts to arrays."""
        return cls(
            name=name,
            source=source,
            synthetic=synthetic,
            arrival_ns=np.array(arrival_ns, np.int64),
            prompt_tokens=np.array(prompt_tokens, np.int64),
            output_tokens=np.array(output_tokens, np.int64),
        )

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def __getitem__(self, index: int) -> Request:
        return Request(int(self.arrival_ns[index]), int(self.prompt_tokens[index]), int(self.output_tokens[index]))

    def __iter__(self) -> Iterator[Request]:
        columns = (self.arrival_ns.tolist(), self.prompt_tokens.tolist(), self.output_tokens.tolist())
        return (Request(*row) for row in zip(*columns, strict=True))

    def first(self, count: int) -> Workload:
        """The first `count` requests, or all if there are fewer."""
        require(count >= 1, "count", count, "1 or more")
        return Workload.of(
            self.name,
            self.source,
            synthetic=self.synthetic,
            arrival_ns=self.arrival_ns[:count],
            prompt_tokens=self.prompt_tokens[:count],
            output_tokens=self.output_tokens[:count],
        )


def with_arrival_rate(workload: Workload, requests_per_s: float, rng: np.random.Generator) -> Workload:
    """A synthetic workload with the same lengths, arriving as a Poisson process from time 0 on."""
    require(0 < requests_per_s < float("inf"), "requests_per_s", requests_per_s, "a number above 0")
    gaps = rng.exponential(1e9 / requests_per_s, size=len(workload))
    require(float(gaps.sum()) < MOST_NS, "requests_per_s", requests_per_s, "larger: the last arrival is too late")
    return Workload.of(
        workload.name,
        f"{workload.source}; arrivals: Poisson, {requests_per_s:g} requests/s",
        synthetic=True,
        arrival_ns=np.rint(np.cumsum(gaps)).astype(np.int64),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
    )
