"""The timing model equals the RTL, clock for clock and command for command, on random work (see also conftest)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from dimmpim.ranks import open_rank, open_timing
from dimmpim.studies.rank_energy import counts_of, open_clocks, step_energy
from pimhost.driver.decode_step import time_step
from pimsim.rank.bus_commands import BusCommands
from pimsim.timing import config as timing_config
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.errors import RankError
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank

MOST_TOKENS = 2000
MOST_CLOCKS = 4_000_000
"""Clocks after which a batch should have ended long before."""
"""Seeds of a batch: the RTL takes a second or so for them."""


class Work:
    """Batches of descriptors at random moments, of random lengths, some in static order, some without end values."""

    def __init__(self, params, seed):
        rng = np.random.default_rng(seed)
        self.wait = int(rng.integers(0, params.engine.refresh_clocks))  # the refresh phase at the first descriptor
        longest = int(rng.choice([8, 60, 400, 1500], p=[0.4, 0.4, 0.15, 0.05]))  # RTL takes its time
        self.batches = [self._batch(params, rng, longest) for _ in range(rng.integers(1, 4))]

    @staticmethod
    def _batch(params, rng, longest):
        step = params.row_lines * params.num_chips
        places, row, left, batch = params.queries // params.queries_at_once, 0, MOST_TOKENS, []
        for n in range(rng.integers(1, min(places, params.descriptor_queue) + 1)):
            tokens = int(rng.integers(1, longest + 1))
            left -= tokens
            if left < 0:
                break
            rows = -(-tokens // step)
            place = n * params.queries_at_once
            batch.append(
                Descriptor(
                    k_row=row,
                    v_row=row + rows,
                    tokens=tokens,
                    last_query=int(rng.integers(0, params.queries_at_once)),
                    query=place,
                    output=place,
                    scale=0x3F800000,
                    normalise=int(rng.integers(0, 2)),
                    static_order=int(rng.random() < 0.2),
                )
            )
            row += 2 * rows
        return int(rng.integers(0, 3000)), batch

    def do(self, sim, limit=None):
        """Give the work to a rank; returns the end of each descriptor, or None if one takes longer than `limit`.

        Without a limit, a batch that has not ended after very many clocks fails the test.
        """
        sim.take()
        sim.run(self.wait)
        given = 0
        for pause, batch in self.batches:
            for descriptor in batch:
                sim.submit(descriptor)
            given += len(batch)
            begin = sim.clock
            while len(sim.finished) < given:
                sim.run(5000, until_finished=given)
                if limit is not None and sim.clock - begin > limit:
                    return None
                late = sim.clock - begin
                assert late < MOST_CLOCKS, f"{len(sim.finished)} of {given} descriptors done after {late} clocks"
            sim.run(pause)
        return sim.finished


def params_of(seed):
    """Ranks of `tiny` with one, two or four queries of a kv_head, larger ones, and one with many short segments."""
    group, head_dim, more = [(1, 16, {}), (2, 16, {}), (4, 16, {}), (2, 32, {}), (1, 64, {"segment_tokens": 128})][
        seed % 5
    ]
    return replace(TINY.for_shape(AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=head_dim)), **more)


def any_params(rng):
    """Ranks of two chips with four banks, with random depths of their queues."""
    group, head_dim = int(rng.choice([1, 2, 4, 8])), int(rng.choice([16, 32, 64]))
    depths = {
        "line_queue": [8, 16, 32, 64],
        "segment_tokens": [64, 128, 256, 512],
        "host_queue": [2, 4, 16],
        "descriptor_queue": [2, 4, 16],
        "queries": [16, 32, 64],
        "relaxed_faw": [False, True],
        "bus_tccd": ["long", "short"],
        "max_streaming_banks": [0, 0, 1, 3],
        "refresh_rate": [1, 2],
    }
    chosen = {name: rng.choice(values).item() for name, values in depths.items()}
    return replace(TINY.for_shape(AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=head_dim)), **chosen)


def check(seeds, count_vectors, params_of):
    for seed in seeds:
        params = params_of(seed)
        work = Work(params, seed)
        with open_rank(params) as rtl:
            finished = work.do(rtl)  # the trace is compared when it is closed
        with open_timing(params) as model:
            assert work.do(model) == finished
    count_vectors("timing model against RTL: batches of descriptors", len(seeds))


def test_random_work(count_vectors):
    check(range(40), count_vectors, lambda seed: TINY)


@pytest.mark.slow
def test_much_random_work(count_vectors):
    check(range(40, 640), count_vectors, params_of)


RULES = {
    "bus_tccd": ("long", "short"),
    "max_streaming_banks": (0, 1, 3),
    "refresh_rate": (1, 2),
    "relaxed_faw": (False, True),
    "ck_per_clock": (4, 2, 8, 3),
}
EVERYDAY = (
    ("short", 0, 1, False, 4), ("long", 3, 2, False, 4), ("short", 1, 2, True, 4), ("long", 3, 1, True, 8),
    ("short", 3, 2, False, 2),
)  # fmt: skip


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(rules, marks=[] if rules in EVERYDAY else pytest.mark.slow, id="-".join(map(str, rules)))
        for rules in itertools.product(*RULES.values())
    ],
)
def test_every_combination_of_the_rules(rules, count_vectors):
    """Distance of bus commands, banks that stream, refresh rate, tFAW, CK of a clock: the model equals the RTL."""
    change = dict(zip(RULES, rules, strict=True))
    check(range(3, 9), count_vectors, lambda seed: replace(params_of(seed % 2), **change))


def refreshes(sim, *, every, number):
    """Clocks of the REFabs of a rank that PIM owns, with work, while the host sends `number` of its own."""
    sim.take()
    sim.run(sim.params.quiet_clocks + 200)
    for _, batch in Work(sim.params, 3).batches:
        for descriptor in batch:
            sim.submit(descriptor)
    sim.run(200)
    sim.trace()
    bus, begin = BusCommands(sim.port), sim.clock
    bus.give(Command.PREab)  # the rows of the window, which the host must close before it refreshes
    for _ in range(number):
        bus.give(Command.REFab, every)
        sim.run(every)
    sim.run(4 * sim.params.engine.refresh_clocks)
    records = sim.trace()
    found = records["clock"][records["code"] == Command.REFab]
    return found[found >= begin]


@pytest.mark.parametrize(("rate", "every", "least"), [(1, 1000, 24), (2, 700, 24), (1, 100_000, 0)])
def test_refreshes_of_the_host_reach_the_engine(rate, every, least):
    """A host that refreshes faster than the register says is followed, on the RTL as on the model (see conftest)."""
    params, number = replace(TINY, refresh_rate=rate), 2 if every > 10_000 else 30
    with open_rank(params) as rtl:
        at = refreshes(rtl, every=every, number=number)
    period = params.engine.refresh_interval(rate)
    assert np.diff(at).max() <= period
    if least:
        by_itself, after = number * every // period, 4 * params.engine.refresh_clocks // period
        assert least <= len(at) - after <= number + 1
        assert len(at) - after > by_itself
    else:
        assert set(np.diff(at)) == {period}


@pytest.mark.parametrize("seeds", [range(400), pytest.param(range(400, 10_000), marks=pytest.mark.slow)])
def test_nothing_stops_the_rank(seeds):
    """For any mixture of descriptors and any depth of a queue, each descriptor ends in bounded time."""
    for seed in seeds:
        params = any_params(np.random.default_rng(seed))
        with open_timing(params) as model:
            model.port.tracing = False
            assert Work(params, seed).do(model, limit=2_000_000), f"seed {seed}"


def test_static_order_works_over_many_segments():
    """A pending score was once missed: the next row's MAC began, a refresh split it, and all units waited."""
    for group, segment_tokens, tokens in ((1, 128, 701), (1, 512, 925), (8, 128, 848)):
        shape = AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=64)
        params = replace(TINY.for_shape(shape), segment_tokens=segment_tokens)
        with open_timing(params) as model:
            time_step(model, shape, tokens, static_order=True, limit=1_000_000)


def test_different_descriptors_follow_one_another():
    """The ends of rows were once read after a later item had overwritten them: the rank stopped for ever."""
    params = TINY.for_shape(AttentionShape(num_q_heads=4, num_kv_heads=1, head_dim=16))
    given = [(28, 0, 1, 1), (36, 2, 4, 2), (15, 6, 7, 1), (28, 8, 9, 0)]
    with open_timing(params) as model:
        model.take()
        for n, (tokens, k_row, v_row, last_query) in enumerate(given):
            place = n * params.queries_at_once
            model.submit(
                Descriptor(
                    k_row=k_row,
                    v_row=v_row,
                    tokens=tokens,
                    last_query=last_query,
                    query=place,
                    output=place,
                    scale=0x3F800000,
                )
            )
        model.run(100_000)
        assert model.num_finished == len(given)


@pytest.mark.parametrize("seed", range(6))
def test_skipped_clocks_do_not_change_the_result(seed):
    """Nothing is lost where the model skips clocks: one clock at a time gives the same."""
    params = params_of(seed)
    work = Work(params, seed)
    with open_timing(params) as whole, open_timing(params) as clockwise:
        finished = work.do(whole)
        jump = clockwise.run

        def step(clocks, *, until_finished=-1):
            for passed in range(clocks):
                if 0 <= until_finished <= clockwise.num_finished:
                    return passed
                assert jump(1) == 1
            return clocks

        clockwise.run = step
        assert work.do(clockwise) == finished
        assert np.array_equal(whole.trace(), clockwise.trace())


@pytest.mark.parametrize("preset", ["tiny", "ddr4-3200-x8-8gb", "ddr4-3200-x8-8gb-gqa8", "ddr4-3200-x8-16gb"])
def test_skipped_units_do_not_change_the_result(preset):
    """The model skips idle units: evaluating all of them in every clock changes nothing."""
    for seed in range(30):
        group = 1 << seed % 4
        rank = preset_named(preset).rank
        params = rank.for_shape(AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=rank.head_dim))
        work = Work(params, 1000 + seed)
        with open_timing(params) as model, open_timing(params) as watchful:
            watchful.port.watch_everything()
            assert work.do(model) == work.do(watchful)
            assert np.array_equal(model.trace(), watchful.trace())


def test_time_of_a_step_grows_by_whole_segments():
    """A long context costs what its segments cost: 8 times as many tokens, 8 times the clocks, within 2 %."""
    rank = preset_named("ddr4-3200-x8-8gb").rank
    shape = AttentionShape(num_q_heads=1, num_kv_heads=1, head_dim=128)
    clocks = []
    for tokens in (32_768, 262_144):
        with open_timing(rank.for_shape(shape)) as sim:
            clocks.append(time_step(sim, shape, tokens).clocks)
    assert clocks[1] / clocks[0] == pytest.approx(8, rel=0.02)


def counts_at_random_clocks(sim, seed):
    """Counts of the rank so far, at random clocks of its runs, in a list that grows."""
    rng, jump, seen = np.random.default_rng(seed), sim.run, []

    def run(clocks, *, until_finished=-1):
        passed = 0
        while passed < clocks and not 0 <= until_finished <= sim.num_finished:
            some = jump(min(clocks - passed, int(rng.integers(1, 400))), until_finished=until_finished)
            assert some > 0, f"no clock has passed after clock {sim.clock}"
            passed += some
            seen.append((sim.clock, sim.port.counts()))
        return passed

    sim.run = run
    return seen


def compare_counts(seeds):
    """Without its trace the model gives the same clocks, and the counts of the trace."""
    for seed in seeds:
        params = params_of(seed)
        work = Work(params, seed)
        with open_timing(params) as traced, open_timing(params) as model:
            model.port.tracing = False
            seen = counts_at_random_clocks(model, seed)
            assert work.do(traced) == work.do(model)
            assert traced.clock == model.clock
            assert traced.port.lines_read() == model.port.lines_read()
            assert traced.port.counts() == model.port.counts()
            assert not len(model.trace())
            records = traced.trace()
            for clock, counts in seen[:: len(seen) // 20 + 1]:
                assert counts == replace(counts_of(records, 0, clock - 1), open_clocks=open_clocks(records, 0, clock))
            for number, clock in enumerate(model.finished):
                assert model.port.counts(number) == traced.port.counts(number) == counts_of(records, 0, clock)


def test_counts():
    compare_counts(range(60))


@pytest.mark.slow
def test_many_counts():
    compare_counts(range(60, 660))


def test_unfinished_descriptors_have_no_counts():
    with open_timing(TINY) as model, pytest.raises(RankError, match="descriptor 0 has not finished"):
        model.port.counts(0)


@pytest.mark.parametrize("group", [1, 4, 8])
def test_a_step_without_records(group):
    """Clocks, bytes and energy are those of a step with records."""
    shape = AttentionShape(num_q_heads=2 * group, num_kv_heads=2, head_dim=128)
    params = preset_named("ddr4-3200-x8-8gb" + "-gqa8" * (group == 8)).rank.for_shape(shape)
    with open_timing(params) as traced, open_timing(params) as model:
        for tokens in (700, 3000):
            full, lean = time_step(traced, shape, tokens, trace=True), time_step(model, shape, tokens)
            end = model.finished[-1]
            assert end == traced.finished[-1]
            assert lean.records is None
            assert (lean.clocks, lean.streamed_bytes, lean.refused) == (full.clocks, full.streamed_bytes, 0)
            assert lean.counts == full.counts == counts_of(full.records, end - full.clocks, end)
            assert step_energy(lean, end) == step_energy(full, end)
        assert model.clock == traced.clock
        assert model.port.tracing, "as it was before the steps"


NOTICED = (
    "scores_per_sum", "query_pause", "segments_ahead", "score_wait", "row_wait", "operand_ready", "score_cycles",
    "prob_cycles", "reduce_cycles", "weigh_cycles", "merge_depth", "normal_depth", "reciprocal_cycles", "interval",
    "margin_PREab", "margin_MAC", "margin_ACT", "margin_PREpb", "prob_slots", "write_clocks", "read_clocks",
    "refresh_clocks",
)  # fmt: skip
"""Delays that these cases do not reach: they matter only if a descriptor queue is full, a bank starves, or `stats` is
refused."""


def runs():
    """Results of random work: ends of descriptors, and all commands."""
    for seed in range(40):
        params = params_of(seed)
        with open_timing(params) as model:
            yield Work(params, seed).do(model), model.trace().tobytes()


@pytest.fixture(scope="module")
def right():
    return list(runs())


@pytest.mark.parametrize("name", NOTICED)
def test_a_wrong_delay_is_noticed(name, right, monkeypatch):
    numbers = timing_config.rank_numbers
    monkeypatch.setattr(timing_config, "rank_numbers", lambda *given: off_by_one(numbers(*given), name))
    assert any(got != expected for got, expected in zip(runs(), right, strict=True))


def off_by_one(values, name):
    return values | {name: values[name] + 1}
