"""Event loop in simulated time for the host's processes that share a GPU, a memory channel and ranks.

Time is counted in controller clocks, and the clock of every rank is that time. A process is a generator. It yields the
event that it waits for:

* a number: the clock at which it goes on;
* a :class:`Claim` of a :class:`Resource`: it goes on once it has the resource, which it gives back with
  :meth:`Resource.release`; the waiting process with the lowest urgency number is next, the first among equals;
* another :class:`Process`: it goes on once that has ended;
* a :class:`Finish`: it goes on once a rank has finished so many items.

Ranks can be simulated one at a time without loss, because only the channel couples them. A rank acts on its own (it
computes and refreshes) unless a transfer takes place. A transfer needs the channel, which one process has at a time. So
a rank may be simulated up to the clock at which a transfer to it begins, and the transfer may be simulated at once. Its
duration is the clocks that it took: no other process can reach this rank before its end.

The remaining question is when the host learns that a rank has finished. It looks at the pins of all ranks every `LOOK`
clocks. No rank with a waiting process is simulated beyond the next look, for a process that is woken there might send
something to any rank.

Libraries for processes and resources (SimPy) do not fit: the next event is not known beforehand. Ranks must be
simulated to find it, and not too far.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["LOOK", "Claim", "Coordinator", "Finish", "Process", "Resource", "Routine", "Steppable", "covered", "union"]

LOOK = 32
"""Clocks between two looks of the host at the pins on which ranks report finished items."""


class Steppable(Protocol):
    """Time interface of a rank."""

    def run_until(self, clock: int) -> None:
        """Simulate up to this clock."""
        ...

    def finished_at(self, count: int) -> int | None:
        """Clock in which the `count`-th item was finished; None if it has not been."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Event that `rank` has finished `count` items in all, or, with `until`, that this clock has come before."""

    rank: Steppable
    count: int
    until: int | None = None


class Process:
    """A running generator; `result` is its return value."""

    def __init__(self, routine: Routine[Any]) -> None:
        self.routine, self.done = routine, False
        self.result: Any = None
        self.waiting: list[Process] = []


class Resource:
    """A resource that one process can have at a time."""

    def __init__(self, coordinator: Coordinator, name: str) -> None:
        self.name, self._coordinator = name, coordinator
        self._owner: Process | None = None
        self._waiting: list[tuple[tuple[int, ...], int, Process]] = []
        self._number = 0

    def request(self, process: Process, urgency: tuple[int, ...]) -> None:
        """Queue the process, which is woken when it has the resource."""
        heapq.heappush(self._waiting, (urgency, self._number, process))
        self._number += 1
        self._coordinator.wanted.append(self)

    def release(self) -> None:
        """Give the resource back; the next owner is chosen after all other events of this clock."""
        self._owner = None
        self._coordinator.wanted.append(self)

    def grant(self) -> None:
        """Give the resource, if it is free, to the next waiting process."""
        if self._owner is None and self._waiting:
            self._owner = heapq.heappop(self._waiting)[2]
            self._coordinator.wake(self._owner, self._coordinator.now)


@dataclass(frozen=True)
class Claim:
    """Request for a resource; lower numbers are more urgent."""

    resource: Resource
    urgency: tuple[int, ...] = ()


_T = TypeVar("_T")
Wanted: TypeAlias = int | Claim | Process | Finish
Routine: TypeAlias = Generator[Wanted, None, _T]


class Coordinator:
    """Event loop of processes.

    Parameters
    ----------
    now : int
        Clock at which the loop begins; no rank is beyond it.
    """

    def __init__(self, now: int) -> None:
        self.now = now
        self._due: list[tuple[int, int, Process]] = []
        self._number = 0  # of the event: those of one clock happen in the order in which they were made
        self._unfinished: list[tuple[Finish, Process]] = []
        self._alive: dict[Process, None] = {}
        self.wanted: list[Resource] = []  # claimed or given back in this clock

    def spawn(self, routine: Routine[Any]) -> Process:
        """Start a process now."""
        process = Process(routine)
        self._alive[process] = None
        self.wake(process, self.now)
        return process

    def wake(self, process: Process, clock: int) -> None:
        """Let a process go on at a clock."""
        heapq.heappush(self._due, (clock, self._number, process))
        self._number += 1

    def run(self) -> None:
        """Run until all processes have ended.

        Raises
        ------
        RuntimeError
            If some processes wait for one another.
        """
        try:
            self._run()
            if self._alive:
                raise RuntimeError(f"{len(self._alive)} processes wait for one another")
        finally:
            for process in self._alive:  # after an error: in order, not whenever they are forgotten
                process.routine.close()

    def _run(self) -> None:
        while self._due or self._unfinished:
            look = (self.now // LOOK + 1) * LOOK
            if self._unfinished and not (self._due and self._due[0][0] < look):
                self.now = look
                self._look()
            else:
                self.now = self._due[0][0]
            while self.wanted or (self._due and self._due[0][0] <= self.now):
                if self._due and self._due[0][0] <= self.now:
                    self._go_on(heapq.heappop(self._due)[2])
                else:
                    self.wanted.pop(0).grant()

    def _look(self) -> None:
        """Learn which items ranks have finished, and wake the processes that wait for them."""
        waiting, self._unfinished = self._unfinished, []
        for finish, process in waiting:
            finish.rank.run_until(self.now)
            clock = finish.rank.finished_at(finish.count)
            late = finish.until is not None and finish.until <= self.now
            if late or (clock is not None and clock <= self.now):
                self.wake(process, self.now)
            else:
                self._unfinished.append((finish, process))

    def _go_on(self, process: Process) -> None:
        try:
            wanted = next(process.routine)
        except StopIteration as stop:
            process.done, process.result = True, stop.value
            del self._alive[process]
            for other in process.waiting:
                self.wake(other, self.now)
            return
        match wanted:
            case int():
                if wanted < self.now:
                    raise RuntimeError(f"clock {wanted} is over, it is {self.now}")
                self.wake(process, wanted)
            case Claim():
                wanted.resource.request(process, wanted.urgency)
            case Process():
                if wanted.done:
                    self.wake(process, self.now)
                else:
                    wanted.waiting.append(process)
            case Finish():
                self._unfinished.append((wanted, process))


Intervals: TypeAlias = Sequence[tuple[int, int]]


def union(intervals: Intervals) -> list[tuple[int, int]]:
    """Union of intervals, each from its begin to before its end, as disjoint intervals in order."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(i for i in intervals if i[0] < i[1]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def covered(intervals: Intervals, by: Intervals) -> int:
    """Number of clocks of the union of some intervals that lie in the union of others."""
    total, cover, first = 0, union(by), 0
    for begin, end in union(intervals):
        while first < len(cover) and cover[first][1] <= begin:
            first += 1
        for other in cover[first:]:
            if other[0] >= end:
                break
            total += min(end, other[1]) - max(begin, other[0])
    return total
