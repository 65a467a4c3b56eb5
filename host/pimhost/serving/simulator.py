"""Serving event loop: requests arrive, wait, begin, generate, are preempted, and end.

Time goes from one iteration to the next. In an iteration each decoding request generates a token. Prompts advance by
the chunks that the system's :meth:`~pimhost.systems.base.ServingSystem.plan` chose. While no prompt is computed and no
request arrives, ends or runs out of memory, many iterations are computed at once. Their times are those of one at a
time, bit for bit.

Memory: with `Admission.GROW` a request begins with units for its prompt and gets further ones as it grows. With
`Admission.RESERVE` it begins with units for all it will ever need, as the length of its answer is known. When a request
cannot grow, the one that began last in its pool is preempted: it loses its memory and goes back to the head of the
queue. Later it recomputes its prompt and its generated tokens, as in vLLM. A request that fits no empty pool is refused
on arrival.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..systems.base import ServingSystem
from ..workloads.workload import MOST_NS, Workload
from .batch import Load, Prefill, SubBatch
from .memory import KvMemory, check
from .outcome import Outcome, Status

__all__ = ["Admission", "simulate"]

IntArray = NDArray[np.int64]
MOST_STEPS = 4096
"""Iterations computed at a time."""
MOST_STEP_REQUESTS = 1 << 15
"""Iterations times decoding requests computed at a time: the entries of a table of contexts."""
MOST_SPANS = 20_000
_PROGRESS_EVERY = 256


class Admission(enum.Enum):
    """Memory that must be free before a request begins."""

    GROW = "grow"
    """Memory for the request's prompt."""
    RESERVE = "reserve"
    """Memory for the prompt and the whole answer: nothing is preempted."""


def simulate(
    system: ServingSystem,
    workload: Workload,
    *,
    admission: Admission = Admission.GROW,
    until_ns: int | None = None,
    most_steps: int = MOST_STEPS,
    most_spans: int = 0,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> Outcome:
    """Record of serving all requests of a workload on one replica.

    Parameters
    ----------
    system : ServingSystem
    workload : Workload
    admission : Admission
    until_ns : int, optional
        Time from which no iteration begins; requests that have not ended stay queued or running.
    most_steps : int
        Iterations computed at a time; the outcome does not depend on it.
    most_spans : int
        Spans to keep for a timeline.
    on_progress : callable
        Called now and then with the number of requests that have ended.

    Raises
    ------
    InvariantError
        If requests, tokens, memory or time do not add up: a fault of the simulator, or of a system.
    """
    run = _Run(system, workload, admission=admission, until_ns=until_ns, most_spans=most_spans)
    while run.prepare():
        run.iterate(most_steps)
        if run.events % _PROGRESS_EVERY == 0:
            on_progress(run.ended)
    on_progress(run.ended)
    return run.outcome()


class _Run:
    """State of a simulation, which is also the `Turn` that a system plans with."""

    def __init__(
        self, system: ServingSystem, workload: Workload, *, admission: Admission, until_ns: int | None, most_spans: int
    ) -> None:
        self.system, self.workload, self.admission, self._until_ns = system, workload, admission, until_ns
        self.memory = KvMemory(system.geometry())
        self.now_ns = 0
        self.events = self.ended = self._order = self._next_arrival = 0
        self.sub_batches = [SubBatch() for _ in range(system.num_sub_batches)]
        self.prefills: list[Prefill] = []
        self._queue: deque[int] = deque()
        self._chunks: dict[int, int] = {}
        self._arrivals, self._prompts = workload.arrival_ns.tolist(), workload.prompt_tokens.tolist()
        self._outputs = workload.output_tokens.tolist()
        self._quiet = False  # the last plan began nothing, and nothing has changed since
        self._lanes_per_pool = system.lanes_per_pool
        self._num_lanes = self.memory.geometry.num_pools * self._lanes_per_pool
        self._lane_tokens = np.zeros((system.num_sub_batches, self._num_lanes), np.int64)
        self.log = Outcome(workload, self.memory.geometry, most_spans=most_spans)
        self._generated = [0] * len(workload)
        self._last_ns = 1

    # Turn: the view of a system.

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def blocked(self) -> bool:
        return bool(self._queue) and self._first_waiting()[2] > int(self.memory.free.max())

    def _first_waiting(self) -> tuple[int, int, int]:
        """The first waiting request, the tokens of its prompt, and the memory units to begin with."""
        request = self._queue[0]
        target = self._prompts[request] + self._generated[request]
        total = self._prompts[request] + self._outputs[request] - 1
        # The last token of a prompt gives a token of the answer, which the next iteration stores.
        wanted = total if self.admission is Admission.RESERVE else min(total, target + 1)
        return request, target, self.memory.geometry.units_of(max(wanted, target))

    def admit(self, sub_batch: int) -> Prefill | None:
        if not self._queue:
            return None
        request, target, units = self._first_waiting()
        fits = np.repeat(self.memory.free >= units, self._lanes_per_pool)
        if not fits.any():
            return None
        loads = np.where(fits, self._lane_tokens[sub_batch], np.iinfo(np.int64).max)
        lane = int(loads.argmin())
        self._queue.popleft()
        self.memory.grant(lane // self._lanes_per_pool, units)
        self._lane_tokens[sub_batch, lane] += target
        self._order += 1
        prefill = Prefill(
            request=request, sub_batch=sub_batch, lane=lane, target=target, granted=units, order=self._order
        )
        self.prefills.append(prefill)
        self.log.status[request] = Status.RUNNING
        return prefill

    def chunk(self, prefill: Prefill, tokens: int) -> None:
        check(0 < tokens <= prefill.left, f"a chunk of {tokens} tokens of a prompt of which {prefill.left} are left")
        self._chunks[prefill.request] = tokens

    # Iterations.

    def prepare(self) -> bool:
        """Go on to a time at which there is work; False if no work is left."""
        end_ns = 2 * MOST_NS if self._until_ns is None else self._until_ns
        while True:
            self._arrive()
            if self._queue or self.prefills or any(map(len, self.sub_batches)):
                return self.now_ns < end_ns
            if self._next_arrival == len(self._arrivals) or self._arrivals[self._next_arrival] >= end_ns:
                return False
            self._go_to(self._arrivals[self._next_arrival])

    def iterate(self, most_steps: int) -> None:
        """Run one iteration, or several in which only the contexts change."""
        self.events += 1
        self._make_room()
        self._plan()
        loads = [self._load(number) for number in range(len(self.sub_batches))]
        check(any(load.new_tokens for load in loads), "an iteration without work: a system that never begins a prompt")
        steps = 1 if self._chunks else self._steps(most_steps)
        times = self.system.times(loads, steps)
        steps = self._until_arrival(times.duration) if steps > 1 else 1
        check(bool((times.duration[:steps] > 0).all()), "an iteration that takes no time")
        gpu_nj = self.system.gpu_work_nj(loads, times.gpu[:steps])
        granted = self._granted(steps)
        self.log.add(self.now_ns, loads, times, steps, waiting=len(self._queue), granted=granted, gpu_nj=gpu_nj)
        self._go_to(self.now_ns + int(times.duration[:steps].sum()))
        self._last_ns = int(times.duration[steps - 1])
        finished_prompts = self._advance_prompts()
        self._advance_decodes(steps)
        for prefill in finished_prompts:
            self._begin_decode(prefill)

    def outcome(self) -> Outcome:
        """The record, after a check that everything adds up."""
        log, geometry = self.log, self.memory.geometry
        log.end_ns = self.now_ns
        live = sum(prefill.granted for prefill in self.prefills)
        for batch in self.sub_batches:
            live += int(batch.granted.sum())
            check(bool((batch.granted >= geometry.units(batch.context)).all()), "tokens without memory")
            for request, left in zip(batch.requests.tolist(), batch.left.tolist(), strict=True):
                self._generated[request] = self._outputs[request] - left
        check(live == self.memory.granted, "memory granted to no request")
        log.generated[:] = self._generated
        log.verify(begun_prompt_tokens=sum(prefill.done for prefill in self.prefills))
        return log

    def _go_to(self, time_ns: int) -> None:
        check(time_ns >= self.now_ns, "time goes back")
        self.now_ns = time_ns

    def _arrive(self) -> None:
        geometry = self.memory.geometry
        while self._next_arrival < len(self._arrivals) and self._arrivals[self._next_arrival] <= self.now_ns:
            request = self._next_arrival
            self._next_arrival += 1
            tokens = self._prompts[request] + self._outputs[request] - 1
            if geometry.units_of(tokens) > geometry.pool_units:
                self.log.status[request] = Status.REFUSED
                self.ended += 1
            else:
                self._queue.append(request)
                self._quiet = False

    def _make_room(self) -> None:
        """Get memory for the next token of every decoding request; the one that began last is preempted first."""
        while True:
            growth = [self._growth(batch, 1) for batch in self.sub_batches]
            needed = sum(
                self.memory.by_pool(batch.lane // self._lanes_per_pool, units)
                for batch, units in zip(self.sub_batches, growth, strict=True)
                if len(batch)
            )
            short = np.flatnonzero(np.asarray(needed) > self.memory.free)
            if not len(short):
                break
            self._preempt(int(short[0]))
        for batch, units in zip(self.sub_batches, growth, strict=True):
            self._grant(batch, units)

    def _growth(self, batch: SubBatch, steps: int) -> IntArray:
        """Units that each request lacks for `steps` more tokens."""
        units = self.memory.geometry.units(batch.context + steps)
        return np.maximum(units - batch.granted, 0)

    def _grant(self, batch: SubBatch, units: IntArray) -> None:
        if len(batch) and units.any():
            self.memory.grant_each(batch.lane // self._lanes_per_pool, units)
            batch.granted += units

    def _preempt(self, pool: int) -> None:
        """Preempt the request of the pool that began last; an unfinished prompt starts over."""
        youngest = (batch.youngest(batch.lane // self._lanes_per_pool == pool) for batch in self.sub_batches)
        latest = max((order, number, place) for number, (order, place) in enumerate(youngest))
        prompts = [p for p in self.prefills if p.lane // self._lanes_per_pool == pool]
        if prompts and prompts[-1].order > latest[0]:
            prefill = prompts[-1]
            self.prefills.remove(prefill)
            self._release(prefill.request, prefill.sub_batch, prefill.lane, prefill.granted, prefill.target)
            self.log.wasted_prefill_tokens += prefill.done
            request = prefill.request
        else:
            check(latest[0] >= 0, "a pool without requests has no memory")
            _, number, place = latest
            batch = self.sub_batches[number]
            request, context = int(batch.requests[place]), int(batch.context[place])
            self._generated[request] = self._outputs[request] - int(batch.left[place])
            self._release(request, number, int(batch.lane[place]), int(batch.granted[place]), context)
            batch.keep(np.arange(len(batch)) != place)
        self.log.status[request] = Status.QUEUED
        self.log.preemptions[request] += 1
        self._queue.appendleft(request)
        self._quiet = False

    def _release(self, request: int, sub_batch: int, lane: int, units: int, tokens: int) -> None:
        self.memory.grant(lane // self._lanes_per_pool, -units)
        self._lane_tokens[sub_batch, lane] -= tokens
        check(self._lane_tokens[sub_batch, lane] >= 0, f"request {request} leaves a lane that it was not in")

    def _plan(self) -> None:
        self._chunks.clear()
        if self.prefills or (self._queue and not self._quiet):
            self.system.plan(self)
            self._quiet = not self._chunks

    def _load(self, number: int) -> Load:
        batch = self.sub_batches[number]
        chunks, completed = [], 0
        if self._chunks:
            for prefill in self.prefills:
                tokens = self._chunks.get(prefill.request, 0)
                if tokens and prefill.sub_batch == number:
                    chunks.append((tokens, prefill.done))
                    completed += tokens == prefill.left
        return Load(
            context=batch.context + 1,
            context_sum=batch.tokens + len(batch),
            lane=batch.lane,
            chunks=tuple(chunks),
            completed=completed,
        )

    def _steps(self, most_steps: int) -> int:
        """Iterations in which no request ends and memory suffices, at most `most_steps`."""
        decodes = sum(map(len, self.sub_batches))
        most = min(most_steps, max(1, MOST_STEP_REQUESTS // max(1, decodes)))
        steps = min([most, *(int(batch.left.min()) for batch in self.sub_batches if len(batch))])
        gap = self._undisturbed_ns()
        if gap is not None:
            steps = min(steps, 1 + gap // self._last_ns)  # durations hardly change: seldom too few, never wrong
        steps = min(steps, self._most_growth(decodes))
        while steps > 1 and not self._suffices(steps):
            steps //= 2
        return max(steps, 1)

    def _most_growth(self, decodes: int) -> int:
        """Bound on the iterations until memory is used up: each request takes a block every `block_tokens`."""
        geometry = self.memory.geometry
        units = int(self.memory.free.sum()) + 2 * decodes
        return geometry.block_tokens * (units * geometry.unit_rows // (geometry.regions * decodes) + 2)

    def _suffices(self, steps: int) -> bool:
        needed = np.zeros(self.memory.geometry.num_pools, np.int64)
        for batch in self.sub_batches:
            if len(batch):
                needed += self.memory.by_pool(batch.lane // self._lanes_per_pool, self._growth(batch, steps))
        return bool((needed <= self.memory.free).all())

    def _until_arrival(self, durations: IntArray) -> int:
        """Iterations that begin before the next request arrives or the run is cut off, at least one."""
        gap = self._undisturbed_ns()
        if gap is None:
            return len(durations)
        begins = np.cumsum(durations) - durations
        return max(1, int(np.searchsorted(begins, gap, side="left")))

    def _undisturbed_ns(self) -> int | None:
        """Time until the next arrival or the end of the run, if there is one."""
        limits = [] if self._until_ns is None else [self._until_ns]
        if self._next_arrival < len(self._arrivals):
            limits.append(self._arrivals[self._next_arrival])
        return min(limits) - self.now_ns if limits else None

    def _granted(self, steps: int) -> IntArray:
        """Granted memory units in each of the iterations."""
        granted = np.full(steps, self.memory.granted, np.int64)
        for batch in self.sub_batches if steps > 1 else ():
            contexts = batch.context[None, :] + np.arange(1, steps + 1)[:, None]
            grown = np.maximum(self.memory.geometry.units(contexts) - batch.granted[None, :], 0)
            granted += grown.sum(axis=1)
        return granted

    def _advance_prompts(self) -> list[Prefill]:
        done = []
        for prefill in self.prefills if self._chunks else ():
            prefill.done += self._chunks.get(prefill.request, 0)
            if not prefill.left:
                done.append(prefill)
                self.log.completed_prompt_tokens += prefill.target
        if done:
            self.prefills = [p for p in self.prefills if p.left]
        return done

    def _advance_decodes(self, steps: int) -> None:
        for number, batch in enumerate(self.sub_batches):
            if not len(batch):
                continue
            if steps > 1:
                self._grant(batch, self._growth(batch, steps))
            batch.advance(steps)
            self._lane_tokens[number] += steps * np.bincount(batch.lane, minlength=self._num_lanes)
            if not batch.left.min():
                ended = batch.left == 0
                columns = (batch.requests, batch.lane, batch.granted, batch.context)
                for request, lane, granted, context in np.stack([c[ended] for c in columns], axis=1).tolist():
                    self._finish(request)
                    self._release(request, number, lane, granted, context)
                batch.keep(~ended)
                self._quiet = False

    def _begin_decode(self, prefill: Prefill) -> None:
        """Move a request from prefill to decode; the prompt gives it one token, its first or the next one."""
        request = prefill.request
        if not self._generated[request]:
            self.log.first_token_ns[request] = self.now_ns
        generated = self._generated[request] + 1
        left = self._outputs[request] - generated
        self._quiet = False
        if not left:
            self._finish(request)
            self._release(request, prefill.sub_batch, prefill.lane, prefill.granted, prefill.target)
            return
        self._generated[request] = generated
        row = (request, prefill.target, left, prefill.lane, prefill.granted, prefill.order)
        self.sub_batches[prefill.sub_batch].append(row)

    def _finish(self, request: int) -> None:
        self._generated[request] = self._outputs[request]
        self.log.status[request] = Status.FINISHED
        self.log.finish_ns[request] = self.now_ns
        self.ended += 1
