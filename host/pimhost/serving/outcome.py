"""Record of a simulation: an entry for each request, and sums over the iterations."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..workloads.workload import Workload
from .batch import Load, Times
from .memory import MemoryGeometry, check

__all__ = ["Outcome", "Span", "Status"]

IntArray = NDArray[np.int64]


class Status(enum.IntEnum):
    """State of a request."""

    QUEUED = 0
    """The request has not arrived, waits, or waits again after a preemption."""
    RUNNING = 1
    FINISHED = 2
    REFUSED = 3
    """The request would not fit the memory even if it were alone."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive iterations with the same batch.

    Parameters
    ----------
    begin_ns, duration_ns, gpu_ns, pim_ns : int
    iterations, decodes, prefill_tokens, waiting, granted : int
        Decoding requests, prompt tokens, waiting requests, memory units.
    """

    begin_ns: int
    duration_ns: int
    gpu_ns: int
    pim_ns: int
    iterations: int
    decodes: int
    prefill_tokens: int
    waiting: int
    granted: int


class Outcome:
    """Record of one replica.

    Parameters
    ----------
    workload : Workload
    geometry : MemoryGeometry
    most_spans : int
        Most spans to keep; further ones are only counted.

    Attributes
    ----------
    status, first_token_ns, finish_ns, preemptions, generated : array of int64, (requests,)
        Times are -1 where there is none.
    end_ns : int
        End of the last iteration.
    iterations, most_decodes, most_granted : int
    gpu_ns, pim_ns, pim_mean_ns : int
        Busy times.
    gpu_arithmetic_nj, gpu_memory_nj, gpu_work_nj : int
        Energy of the GPUs without their static power, and the sum of both.
    kv_read_bytes : int
        K and V that decoding requests attended to.
    link_bytes : int
    decoded_tokens, completed_prompts : int
    prefill_tokens, completed_prompt_tokens, wasted_prefill_tokens : int
        Prompt tokens computed; those of completed prompts; those of prompts that were preempted before completion.
    decode_request_ns, granted_unit_ns : int
        Integrals over time.
    spans : list of Span
    spans_left_out : int
    """

    def __init__(self, workload: Workload, geometry: MemoryGeometry, *, most_spans: int) -> None:
        count = len(workload)
        self.workload, self.geometry = workload, geometry
        self.status = np.zeros(count, np.int64)
        self.first_token_ns, self.finish_ns = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
        self.preemptions, self.generated = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.end_ns = self.iterations = self.most_decodes = self.most_granted = 0
        self.gpu_ns = self.pim_ns = self.pim_mean_ns = 0
        self.gpu_arithmetic_nj = self.gpu_memory_nj = self.gpu_work_nj = 0
        self.kv_read_bytes = self.link_bytes = 0
        self.decoded_tokens = self.completed_prompts = 0
        self.prefill_tokens = self.completed_prompt_tokens = self.wasted_prefill_tokens = 0
        self.decode_request_ns = self.granted_unit_ns = 0
        self.spans: list[Span] = []
        self.spans_left_out = 0
        self._most_spans = most_spans

    def add(
        self,
        begin_ns: int,
        loads: Sequence[Load],
        times: Times,
        steps: int,
        *,
        waiting: int,
        granted: IntArray,
        gpu_nj: tuple[IntArray, IntArray],
    ) -> None:
        """Record `steps` iterations with these loads; `granted` units and `gpu_nj` are given for each iteration."""
        duration, gpu, pim, mean, link = (
            int(column[:steps].sum())
            for column in (times.duration, times.gpu, times.pim, times.pim_mean, times.link_bytes)
        )
        check(0 <= max(gpu, pim) <= duration and mean <= pim, "more work than time")
        decodes, context = sum(load.decodes for load in loads), sum(load.context_sum for load in loads)
        prompt_tokens = sum(load.prefill_tokens for load in loads)
        self.iterations += steps
        self.gpu_ns, self.pim_ns, self.pim_mean_ns = self.gpu_ns + gpu, self.pim_ns + pim, self.pim_mean_ns + mean
        arithmetic, memory = (int(column.sum()) for column in gpu_nj)
        self.gpu_arithmetic_nj, self.gpu_memory_nj = self.gpu_arithmetic_nj + arithmetic, self.gpu_memory_nj + memory
        self.gpu_work_nj += int((gpu_nj[0] + gpu_nj[1]).sum())
        self.link_bytes += link
        self.kv_read_bytes += self.geometry.token_bytes * (steps * context + decodes * (steps * (steps - 1) // 2))
        self.decoded_tokens += decodes * steps
        self.completed_prompts += sum(load.completed for load in loads)
        self.prefill_tokens += prompt_tokens
        self.decode_request_ns += decodes * duration
        self.granted_unit_ns += int((granted * times.duration[:steps]).sum())
        self.most_decodes = max(self.most_decodes, decodes)
        self.most_granted = max(self.most_granted, int(granted.max()))
        if len(self.spans) < self._most_spans:
            row = (begin_ns, duration, gpu, pim, steps, decodes, prompt_tokens, waiting, int(granted[-1]))
            self.spans.append(Span(*row))
        else:
            self.spans_left_out += 1

    def verify(self, *, begun_prompt_tokens: int) -> None:
        """Check that requests, tokens, memory and time add up.

        Raises
        ------
        InvariantError
        """
        finished = self.status == Status.FINISHED
        outputs, arrivals = self.workload.output_tokens, self.workload.arrival_ns
        check(bool((self.generated[finished] == outputs[finished]).all()), "a finished request lacks tokens")
        check(bool((self.generated[~finished] < outputs[~finished]).all()), "an ended request is not finished")
        check(bool((self.generated[self.status == Status.REFUSED] == 0).all()), "a refused request has tokens")
        check(int(self.generated.sum()) == self.decoded_tokens + self.completed_prompts, "tokens lost or found")
        computed = self.completed_prompt_tokens + self.wasted_prefill_tokens + begun_prompt_tokens
        check(self.prefill_tokens == computed, "tokens of prompts lost or found")
        begun = self.first_token_ns >= 0
        check(bool((begun == (self.generated > 0)).all()), "a token without a time")
        check(bool((self.first_token_ns[begun] > arrivals[begun]).all()), "an answer before the request")
        check(bool((self.finish_ns[finished] >= self.first_token_ns[finished]).all()), "an end before the beginning")
        most = self.geometry.num_pools * self.geometry.pool_units
        check(self.most_granted <= most, "more memory than there is")
