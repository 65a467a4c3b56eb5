"""Greedy decoding: tokens one after another, each with its logit gap and its time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pimspec.errors import OutOfMemoryError, require
from pimspec.hostif.device import Float32s

from .llama import LayerDevices, Llama

__all__ = ["GeneratedToken", "Top", "generate", "require_room", "top_two"]


class Top(NamedTuple):
    """The most likely token, and the distance of its logit to the second."""

    token_id: int
    gap: float


@dataclass(frozen=True, kw_only=True)
class GeneratedToken:
    """One token of the answer.

    Parameters
    ----------
    token_id : int
    position : int
        Position of this token, counted from the first one of the prompt.
    gap : float
        Difference of the two largest logits.
    start, seconds : float
        Wall-clock start and duration: prefill for the first token, a decode step for the others.
    """

    token_id: int
    position: int
    gap: float
    start: float
    seconds: float


def top_two(logits: Float32s) -> Top:
    """Argmax of the logits (the first among equals), and its distance to the runner-up."""
    best = int(np.argmax(logits))
    others = np.delete(logits, best)
    return Top(best, float(logits[best] - others.max(initial=-np.inf)))


def require_room(model: Llama, devices: LayerDevices, prompt_tokens: int, num_tokens: int) -> None:
    """Check that a prompt and its answer fit into the memory and into the model's context.

    K and V of the last generated token are never written.
    """
    needed = prompt_tokens + num_tokens - 1
    text = f"{prompt_tokens} tokens of prompt and {num_tokens} to generate"
    most = model.config.context_length
    require(needed <= most, "tokens in the context", f"{needed}: {text}", f"at most {most}, the model's")
    if needed > devices.max_tokens:
        raise OutOfMemoryError(f"the memory holds {devices.max_tokens} tokens, not {needed}: {text}")


def generate(
    model: Llama,
    devices: LayerDevices,
    prompt_ids: Sequence[int],
    num_tokens: int,
    *,
    stop_ids: Collection[int] = (),
    request: int = 0,
) -> Iterator[GeneratedToken]:
    """Greedy answer to a prompt: at most `num_tokens` tokens, up to and including the first of `stop_ids`.

    Raises
    ------
    ParameterError, OutOfMemoryError
        Raised before any computation if prompt and answer do not fit.
    """
    require(num_tokens >= 1, "number of tokens to generate", num_tokens, "1 or more")
    require(len(prompt_ids) >= 1, "tokens of the prompt", len(prompt_ids), "1 or more")
    require_room(model, devices, len(prompt_ids), num_tokens)
    devices.open(request)
    try:
        first, start = len(prompt_ids), time.perf_counter()
        top = top_two(model.prefill(prompt_ids, devices, request))
        for position in range(first, first + num_tokens):
            if position > first:
                start = time.perf_counter()
                top = top_two(model.decode(top.token_id, position - 1, devices, request))
            seconds = time.perf_counter() - start
            yield GeneratedToken(token_id=top.token_id, position=position, gap=top.gap, start=start, seconds=seconds)
            if top.token_id in stop_ids:
                return
    finally:
        devices.release(request)
