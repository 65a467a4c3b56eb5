"""DRAM timers against their definition, event by event."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from pimhw.dram.timers import IntervalTimer, WindowTimer
from pimhw.generate import component_verilog
from pimsim.lint import lint_warnings
from pimspec.errors import ParameterError

DENSITIES = (0.05, 0.3, 0.9)
INTERVALS = [(2,), (3,), (2, 3), (6, 13, 19), (2, 17, 140)]
WINDOWS = [(2, 1), (9, 4), (9, 1), (12, 4), (5, 8)]


def ready_of(timer, events: np.ndarray) -> list[int]:
    """`ready` bits in each clock."""
    seen: list[int] = []

    async def bench(ctx):
        for event in events:
            ctx.set(timer.event, int(event))
            ready = timer.ready.as_value() if isinstance(timer, IntervalTimer) else timer.ready
            seen.append(ctx.get(ready))
            await ctx.tick()

    simulator = Simulator(timer)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def random_events(density: float, count: int = 1500) -> np.ndarray:
    return np.random.default_rng(round(density * 100)).random(count) < density


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("latencies", INTERVALS, ids=str)
def test_interval(latencies, density, count_vectors):
    events, last, expected = random_events(density), -(10**6), []
    for clock, event in enumerate(events):
        expected.append(sum((clock - last >= latency) << k for k, latency in enumerate(latencies)))
        last = clock if event else last
    assert ready_of(IntervalTimer(latencies=latencies), events) == expected
    count_vectors("interval timer, clocks", len(events))


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("clocks", "num_events"), WINDOWS)
def test_window(clocks, num_events, density, count_vectors):
    events, past, expected = random_events(density), [-(10**6)] * num_events, []
    for clock, event in enumerate(events):
        expected.append(int(clock - past[-num_events] >= clocks))
        past += [clock] if event else []
    assert ready_of(WindowTimer(clocks=clocks, num_events=num_events), events) == expected
    count_vectors("window timer, clocks", len(events))


def test_window_of_one_is_an_interval():
    events = random_events(0.2)
    assert ready_of(WindowTimer(clocks=7, num_events=1), events) == ready_of(IntervalTimer(latencies=[7]), events)


@pytest.mark.parametrize("latencies", [(), (1,), (3, 3)])
def test_latencies_are_checked(latencies):
    with pytest.raises(ParameterError, match="latencies must be"):
        IntervalTimer(latencies=latencies)


@pytest.mark.parametrize(("clocks", "num_events", "what"), [(1, 4, "clocks"), (9, 0, "num_events")])
def test_windows_are_checked(clocks, num_events, what):
    with pytest.raises(ParameterError, match=f"{what} must be"):
        WindowTimer(clocks=clocks, num_events=num_events)


TIMERS = [IntervalTimer(latencies=x) for x in INTERVALS] + [WindowTimer(clocks=c, num_events=n) for c, n in WINDOWS]


@pytest.mark.parametrize("timer", TIMERS, ids=lambda timer: type(timer).__name__)
def test_lint(timer, tmp_path):
    source = tmp_path / "timer.v"
    source.write_text(component_verilog(timer, "timer"))
    assert lint_warnings(source, "timer") == []
