"""Batch state: decoding requests as columns, and prompts in prefill."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Load", "Prefill", "SubBatch", "Times"]

IntArray = NDArray[np.int64]
_COLUMNS = ("requests", "context", "left", "lane", "granted", "order")


def _nothing() -> IntArray:
    return np.empty(0, np.int64)


@dataclass(kw_only=True)
class Prefill:
    """A prompt in prefill, with memory granted for all of it.

    Parameters
    ----------
    request : int
    sub_batch, lane : int
    target : int
        Tokens to compute: the prompt, and after a preemption also the tokens generated before.
    done : int
        Tokens computed.
    granted : int
        Memory units.
    order : int
        Admission number.
    """

    request: int
    sub_batch: int
    lane: int
    target: int
    granted: int
    order: int
    done: int = 0

    @property
    def left(self) -> int:
        return self.target - self.done


@dataclass(kw_only=True)
class SubBatch:
    """Decoding requests, which generate a token in each iteration; each column has one entry for each request.

    Parameters
    ----------
    requests : array
        Indices of the requests in the workload.
    context : array
        Tokens whose K and V are in memory.
    left : array
        Tokens still to be generated.
    lane : array
        Location of K and V: a lane is one rank, or a set of ranks in step, for each layer.
    granted : array
        Memory units.
    order : array
        Admission numbers.
    """

    requests: IntArray = field(default_factory=_nothing)
    context: IntArray = field(default_factory=_nothing)
    left: IntArray = field(default_factory=_nothing)
    lane: IntArray = field(default_factory=_nothing)
    granted: IntArray = field(default_factory=_nothing)
    order: IntArray = field(default_factory=_nothing)
    tokens: int = 0

    def __len__(self) -> int:
        return len(self.requests)

    def append(self, row: tuple[int, int, int, int, int, int]) -> None:
        """Add a request, given its columns in order."""
        for name, value in zip(_COLUMNS, row, strict=True):
            setattr(self, name, np.append(getattr(self, name), value))
        self.tokens += row[1]

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop all requests outside the mask."""
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[mask])
        self.tokens = int(self.context.sum())

    def youngest(self, mask: NDArray[np.bool_]) -> tuple[int, int]:
        """Order and index of the most recently admitted request in the mask; (-1, -1) if there is none."""
        places = np.flatnonzero(mask)
        if not len(places):
            return -1, -1
        place = int(places[self.order[places].argmax()])
        return int(self.order[place]), place

    def advance(self, steps: int) -> None:
        """Add `steps` generated tokens to every request."""
        self.context += steps
        self.left -= steps
        self.tokens += steps * len(self)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Work of one sub-batch in an iteration.

    Parameters
    ----------
    context : array
        Tokens that each decoding request attends to, its newest included.
    context_sum : int
    lane : array
    chunks : tuple of (tokens, prefix)
        Prefill chunks: new tokens, and tokens computed before.
    completed : int
        Prompts whose prefill ends in this iteration, and which so give a first token.
    """

    context: IntArray
    context_sum: int
    lane: IntArray
    chunks: tuple[tuple[int, int], ...] = ()
    completed: int = 0

    @property
    def decodes(self) -> int:
        return len(self.context)

    @property
    def prefill_tokens(self) -> int:
        return sum(tokens for tokens, _ in self.chunks)

    @property
    def new_tokens(self) -> int:
        return self.decodes + self.prefill_tokens


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times of consecutive iterations, in ns; each an array of shape (iterations,).

    Parameters
    ----------
    duration : array
    gpu : array
        GPU busy time.
    pim : array
        Busy time of the attention device: at least one rank works.
    pim_mean : array
        Busy time of the attention device, as a mean over its ranks.
    link_bytes : array
        Bytes between GPU and attention device.
    """

    duration: IntArray
    gpu: IntArray
    pim: IntArray
    pim_mean: IntArray
    link_bytes: IntArray
