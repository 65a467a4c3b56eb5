"""Event loop of a batch: ownership of resources by clock, and how far ranks are simulated ahead."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pimhost.batch.coordination import LOOK, Claim, Coordinator, Finish, Resource, covered, union


class Rank:
    """A rank that finishes its n-th item at clock `finishes[n - 1]` and records how far it was simulated."""

    def __init__(self, *finishes):
        self.finishes, self.clock = finishes, 0

    def run_until(self, clock):
        self.clock = max(self.clock, clock)

    def finished_at(self, count):
        clock = self.finishes[count - 1]
        return clock if clock <= self.clock else None


def user(loop, resource, log, name, arrives, holds, urgency=()):
    yield arrives
    yield Claim(resource, urgency)
    log.append((name, loop.now))
    yield loop.now + holds
    resource.release()


def test_a_resource_is_granted_in_the_order_of_arrival():
    loop, log = Coordinator(0), []
    channel = Resource(loop, "channel")
    for name, arrives, holds in (("late", 7, 1), ("first", 1, 10), ("second", 2, 10)):
        loop.spawn(user(loop, channel, log, name, arrives, holds))
    loop.run()
    assert log == [("first", 1), ("second", 11), ("late", 21)]


def test_the_most_urgent_is_next_also_if_it_asks_in_the_clock_of_the_release():
    loop, log = Coordinator(0), []
    channel = Resource(loop, "channel")
    loop.spawn(user(loop, channel, log, "first", 0, 10, (5,)))
    loop.spawn(user(loop, channel, log, "send", 1, 1, (2, 9)))
    loop.spawn(user(loop, channel, log, "older send", 2, 1, (2, 3)))
    loop.spawn(user(loop, channel, log, "collect", 10, 1, (0, 9)))
    loop.run()
    assert log == [("first", 0), ("collect", 10), ("older send", 11), ("send", 12)]


def test_processes_are_joined_and_return():
    loop, seen = Coordinator(100), []

    def child(until):
        yield until
        return until

    def parent():
        children = [loop.spawn(child(clock)) for clock in (130, 110)]
        yield from children
        seen.append((loop.now, [c.result for c in children]))
        yield children[0]  # a process that has ended takes no time
        seen.append(loop.now)

    loop.spawn(parent())
    loop.run()
    assert seen == [(130, [130, 110]), 130]


@pytest.mark.parametrize("finish", [1, LOOK - 1, LOOK, LOOK + 1, 5 * LOOK + 3])
def test_the_host_learns_of_a_finish_at_the_next_look(finish):
    loop, seen = Coordinator(0), []
    ranks = [Rank(finish), Rank(10 * LOOK)]

    def wait(rank):
        yield Finish(rank=rank, count=1)
        seen.append((loop.now, [r.clock for r in ranks]))

    for rank in ranks:
        loop.spawn(wait(rank))
    loop.run()
    look = -(-finish // LOOK) * LOOK
    assert seen[0] == (look, [look, look])  # no rank has been simulated beyond it
    assert seen[1][0] == 10 * LOOK


def test_a_finish_that_was_simulated_ahead_is_not_seen_before_its_clock():
    """A transfer to a rank is simulated at once; finishes in the meantime are seen in their turn."""
    loop, seen = Coordinator(0), []
    rank = Rank(70, 150)

    def transfer():
        rank.run_until(200)
        yield 200

    def wait(count):
        yield Finish(rank=rank, count=count)
        seen.append((count, loop.now))

    loop.spawn(transfer())
    loop.spawn(wait(1))
    loop.spawn(wait(2))
    loop.run()
    assert seen == [(1, 96), (2, 160)]


def test_a_wait_ends_at_its_limit():
    loop, rank, seen = Coordinator(0), Rank(1000), []

    def wait():
        yield Finish(rank=rank, count=1, until=100)
        seen.append((loop.now, rank.finished_at(1)))

    loop.spawn(wait())
    loop.run()
    assert seen == [(128, None)]


def test_a_deadlock_and_the_past_are_errors():
    loop = Coordinator(0)
    resource = Resource(loop, "x")

    def greedy():
        yield Claim(resource)
        yield Claim(resource)

    loop.spawn(greedy())
    with pytest.raises(RuntimeError, match="1 processes wait for one another"):
        loop.run()

    def late():
        try:
            yield 9
        finally:
            closed.append("late")

    loop, closed = Coordinator(10), []
    loop.spawn(late())
    with pytest.raises(RuntimeError, match="clock 9 is over"):
        loop.run()
    assert closed == ["late"]


def test_union_and_cover_equal_those_of_sets():
    rng = np.random.default_rng(3)
    for _ in range(300):
        a, b = (
            [(int(x), int(x + rng.integers(0, 9))) for x in rng.integers(0, 60, int(rng.integers(0, 8)))]
            for _ in range(2)
        )
        clocks = [{c for begin, end in intervals for c in range(begin, end)} for intervals in (a, b)]
        merged = union(a)
        assert {c for begin, end in merged for c in range(begin, end)} == clocks[0]
        assert all(x[1] < y[0] for x, y in pairwise(merged))
        assert covered(a, b) == len(clocks[0] & clocks[1])
