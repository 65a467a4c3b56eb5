"""Serving simulator: schedules worked out on paper, and invariants under random requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimhost.models import shape_named
from pimhost.serving.batch import Times
from pimhost.serving.figures import measure
from pimhost.serving.memory import InvariantError, KvMemory, MemoryGeometry
from pimhost.serving.outcome import Status
from pimhost.serving.simulator import Admission, simulate
from pimhost.systems.base import ServingSystem, spread_chunks
from pimhost.systems.node import Node
from pimhost.workloads.workload import Workload

SUMS = (
    "end_ns", "iterations", "gpu_ns", "gpu_arithmetic_nj", "gpu_memory_nj", "kv_read_bytes", "decoded_tokens",
    "completed_prompts", "prefill_tokens", "wasted_prefill_tokens", "decode_request_ns", "granted_unit_ns",
    "most_decodes", "most_granted",
)  # fmt: skip
COLUMNS = ("status", "first_token_ns", "finish_ns", "preemptions", "generated")


class Clockwork(ServingSystem):
    """A system whose iterations take 100 ns, and 10 ns for each prompt token; blocks have 4 tokens, a token 1 byte."""

    name = "clockwork"

    def __init__(self, *, units=4, budget=1000, sub_batches=1, pools=1, lanes_per_pool=1):
        super().__init__(shape_named("Llama-2-7B"), Node(tp_size=1))
        self.units, self.budget, self.pools, self._lanes = units, budget, pools, lanes_per_pool
        self.num_sub_batches = sub_batches

    @property
    def lanes_per_pool(self):
        return self._lanes

    def geometry(self):
        return MemoryGeometry(num_pools=self.pools, pool_units=self.units, block_tokens=4, unit_bytes=4, token_bytes=1)

    def plan(self, turn):
        spread_chunks(turn, self.budget, self.num_sub_batches)

    def times(self, loads, steps):
        duration = np.full(steps, 100 + 10 * sum(load.prefill_tokens for load in loads), np.int64)
        nothing = np.zeros_like(duration)
        return Times(duration=duration, gpu=duration, pim=nothing, pim_mean=nothing, link_bytes=nothing)


def requests(*rows):
    """A workload of (arrival_ns, prompt_tokens, output_tokens)."""
    arrival, prompt, output = zip(*rows, strict=True)
    return Workload.of("rows", "", synthetic=True, arrival_ns=arrival, prompt_tokens=prompt, output_tokens=output)


def test_two_requests_follow_the_schedule_on_paper():
    """0: prompt of A. 140: A has a token; B comes at 150. 140-240: A's second; 240-360: A's third, and B's prompt."""
    outcome = simulate(Clockwork(), requests((0, 4, 3), (150, 2, 2)))
    assert outcome.first_token_ns.tolist() == [140, 360]
    assert outcome.finish_ns.tolist() == [360, 460]
    assert (outcome.end_ns, outcome.iterations) == (460, 4)
    assert outcome.decode_request_ns == 100 + 120 + 100
    assert outcome.kv_read_bytes == 5 + 6 + 3  # A attends to 5 and 6 tokens, B to 3
    figures = measure([outcome], Clockwork().energy_model())
    assert (figures.ttft.mean, figures.ttft.p50, figures.ttft.p99) == (175 / 1e6, 210 / 1e6, 210 / 1e6)
    assert (figures.tpot.mean, figures.tpot.p90) == (105 / 1e6, 110 / 1e6)
    assert figures.output_tokens_per_s == 5 / 460e-9
    assert figures.mean_batch == 320 / 460


def test_nothing_happens_between_requests():
    outcome = simulate(Clockwork(), requests((0, 1, 1), (5000, 1, 2)))
    assert outcome.finish_ns.tolist() == [110, 5210]
    assert (outcome.iterations, outcome.gpu_ns) == (3, 110 + 110 + 100)


def test_a_long_prompt_is_computed_in_chunks():
    """20 new tokens an iteration: 30 prompt tokens take two, and the second one leaves 10 to the next request."""
    outcome = simulate(Clockwork(units=100, budget=20), requests((0, 30, 1), (0, 10, 2)))
    assert outcome.first_token_ns.tolist() == [300 + 300, 600]
    assert outcome.finish_ns.tolist() == [600, 700]


def test_the_youngest_request_is_preempted_when_memory_runs_out():
    """Both have 2 of 4 units until each has 8 tokens, at 180 + 4 * 100; then A takes B's, and ends.

    B, which had 5 of 6 tokens, computes 4 + 5 tokens again, and that gives its sixth token.
    """
    outcome = simulate(Clockwork(units=4), requests((0, 4, 6), (0, 4, 6)))
    assert outcome.preemptions.tolist() == [0, 1]
    assert outcome.finish_ns.tolist() == [680, 680 + 190]
    assert outcome.first_token_ns.tolist() == [180, 180]
    assert outcome.prefill_tokens == 4 + 4 + 9
    reserved = simulate(Clockwork(units=4), requests((0, 4, 6), (0, 4, 6)), admission=Admission.RESERVE)
    assert reserved.preemptions.tolist() == [0, 0]
    assert reserved.first_token_ns.tolist() == [140, 640 + 140]  # B waits for three units


def test_a_request_that_never_fits_is_refused():
    outcome = simulate(Clockwork(units=4), requests((0, 16, 2), (0, 16, 1), (0, 5, 1)))
    assert outcome.status.tolist() == [Status.REFUSED, Status.FINISHED, Status.FINISHED]
    assert outcome.first_token_ns[0] == outcome.finish_ns[0] == -1
    nothing = simulate(Clockwork(units=0), requests((0, 1, 1)))
    assert (nothing.status.tolist(), nothing.end_ns) == ([Status.REFUSED], 0)


def test_a_run_can_be_cut_off():
    work = requests((0, 4, 3), (0, 16, 1), (900, 1, 1))
    outcome = simulate(Clockwork(units=4), work, until_ns=200)
    assert outcome.status.tolist() == [Status.RUNNING, Status.QUEUED, Status.QUEUED]
    assert (outcome.end_ns, outcome.generated.tolist()) == (240, [2, 0, 0])


def test_requests_go_to_the_emptiest_lane():
    """Two pools of two lanes: 8, 6, 4 and 2 tokens lie alone, and the fifth request goes to the 2."""
    seen = []

    class Watched(Clockwork):
        def times(self, loads, steps):
            seen.append(loads[0].lane.tolist())
            return super().times(loads, steps)

    simulate(Watched(units=8, pools=2, lanes_per_pool=2), requests(*((0, n, 3) for n in (8, 6, 4, 2, 1))))
    assert seen[1] == [0, 1, 2, 3, 3]


@st.composite
def worlds(draw):
    gaps = st.integers(0, 400)
    rows, arrival = [], 0
    for _ in range(draw(st.integers(1, 12))):
        arrival += draw(gaps)
        rows.append((arrival, draw(st.integers(1, 30)), draw(st.integers(1, 30))))
    sub_batches = draw(st.integers(1, 2))
    system = {
        "units": draw(st.integers(1, 20)), "budget": draw(st.integers(1, 40)), "sub_batches": sub_batches,
        "pools": draw(st.integers(1, 3)), "lanes_per_pool": draw(st.integers(1, 3)),
    }  # fmt: skip
    return rows, system, draw(st.sampled_from(Admission))


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_random_requests_keep_the_invariants(world):
    rows, arguments, admission = world
    system, work = Clockwork(**arguments), requests(*rows)
    outcome = simulate(system, work, admission=admission)
    fits = [system.geometry().units_of(prompt + output - 1) <= arguments["units"] for _, prompt, output in rows]
    assert outcome.status.tolist() == [Status.FINISHED if fit else Status.REFUSED for fit in fits]
    assert outcome.generated.tolist() == [row[2] if fit else 0 for row, fit in zip(rows, fits, strict=True)]
    assert outcome.most_granted <= arguments["pools"] * arguments["units"]
    assert outcome.prefill_tokens >= sum(row[1] for row, fit in zip(rows, fits, strict=True) if fit)
    if admission is Admission.RESERVE:
        assert not outcome.preemptions.any()
    # One iteration at a time gives the same, bit for bit.
    single = simulate(system, work, admission=admission, most_steps=1)
    for name in COLUMNS:
        assert getattr(outcome, name).tolist() == getattr(single, name).tolist(), name
    for name in SUMS:
        assert getattr(outcome, name) == getattr(single, name), name


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(1, 4000))
def test_random_requests_cut_off_keep_the_invariants(world, until):
    rows, arguments, admission = world
    outcome = simulate(Clockwork(**arguments), requests(*rows), admission=admission, until_ns=until)
    finished = outcome.status == Status.FINISHED
    assert (outcome.finish_ns[~finished] == -1).all()
    assert (outcome.generated[finished] == np.array([row[2] for row in rows])[finished]).all()
    assert outcome.decoded_tokens + outcome.completed_prompts == outcome.generated.sum()


class _Broken(Clockwork):
    def __init__(self, fault):
        super().__init__(units=100)
        self.fault = fault

    def plan(self, turn):
        if self.fault == "never begins":
            return
        prefill = turn.admit(0)
        if prefill is not None:
            turn.chunk(prefill, prefill.left + (self.fault == "too long a chunk"))

    def times(self, loads, steps):
        times = super().times(loads, steps)
        if self.fault == "time goes back":
            times.duration[:] = -1
        if self.fault == "busier than possible":
            return Times(**{**vars(times), "gpu": times.duration + 1})
        return times


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("never begins", "without work"),
        ("too long a chunk", "a chunk of 5 tokens of a prompt of which 4 are left"),
        ("time goes back", "takes no time"),
        ("busier than possible", "more work than time"),
    ],
)
def test_faults_of_a_system_are_found(fault, reason):
    with pytest.raises(InvariantError, match=reason):
        simulate(_Broken(fault), requests((0, 4, 2)))


def test_memory_is_never_granted_twice():
    memory = KvMemory(Clockwork(units=3, pools=2).geometry())
    memory.grant(0, 3)
    memory.grant_each(np.array([1, 1]), np.array([1, 2]))
    assert (memory.granted, memory.free.tolist()) == (6, [0, 0])
    with pytest.raises(InvariantError, match="beyond"):
        memory.grant(1, 1)
    memory = KvMemory(Clockwork(units=3).geometry())
    with pytest.raises(InvariantError, match="given back"):
        memory.grant(0, -1)
