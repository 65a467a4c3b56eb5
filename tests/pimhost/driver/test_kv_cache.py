"""KV cache: chunks of requests, the operations sent to the device, and the share of the memory in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimhost.capacity import DATASETS, fill, measure_capacity, synthetic_lengths
from pimhost.driver.kv_cache import LazyKvCache, OutOfMemoryError, StaticKvCache
from pimspec.errors import ParameterError
from pimspec.golden.dpa import DpaDevice
from pimspec.isa import Fault
from pimspec.params.dpa import ConfigOp, ConfigRefusal
from pimspec.params.presets import PRESETS

# 63 chunks of 4,096 rows of 32 tokens, so that memory can run out; leaves of 4 chunks.
PARAMS = (
    PRESETS["tiny"].rank.with_dpa(num_slots=4, chunk_bytes=4 << 20, directory_entries=16, leaf_entries=4).require_dpa()
)
REGIONS = 2048
CHUNK_TOKENS = 64  # two blocks of as many regions


def apply(device, interventions):
    operations = [operation for i in interventions for operation in i.operations]
    assert set(device.apply(operations)) <= {ConfigRefusal.NONE}


def check_table(device, cache, lengths):
    """Every row of each request is where the cache says, and no slot reaches any other row."""
    granted = set()
    for slot in range(PARAMS.num_slots):
        chunks = cache.chunks_of(slot) if slot in lengths else ()
        assert granted.isdisjoint(chunks)
        granted.update(chunks)
        for number in range(PARAMS.directory_entries * PARAMS.leaf_entries):
            fault, row = device.translate(slot, number * PARAMS.chunk_rows + 3)
            if number < len(chunks):
                assert (fault, row) == (Fault.NONE, chunks[number] * PARAMS.chunk_rows + 3)
            else:
                assert fault is Fault.UNMAPPED
    assert {c for c, owner in enumerate(device.owners) if owner} == granted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1500), st.booleans()), max_size=30))
def test_tables_follow_the_cache(actions):
    cache, device, lengths = LazyKvCache(PARAMS, REGIONS), DpaDevice(PARAMS), {}
    for slot, tokens, go in actions:
        if slot in lengths and go:
            apply(device, [cache.release(slot)])
            del lengths[slot]
            continue
        wanted = min(lengths.get(slot, 0) + tokens, 64 * CHUNK_TOKENS)
        before = cache.statistics()
        try:
            granted = cache.grow(slot, wanted) if slot in lengths else cache.open(slot, wanted)
        except OutOfMemoryError:
            assert cache.statistics() == before
            assert sum(-(-n // CHUNK_TOKENS) for n in (lengths | {slot: wanted}).values()) > PARAMS.num_chunks
            continue
        lengths[slot] = wanted
        apply(device, granted)
    check_table(device, cache, lengths)
    statistics = cache.statistics()
    assert statistics.live_bytes == sum(lengths.values()) * cache.token_bytes
    assert statistics.allocated_bytes == sum(-(-n // CHUNK_TOKENS) for n in lengths.values()) << 22
    assert statistics.requests == len(lengths)


def test_a_chunk_takes_one_intervention_and_leaves_are_reused():
    cache = LazyKvCache(PARAMS, REGIONS)
    assert cache.token_bytes == 2048 * 16 * 2
    first = cache.open(0, 1)
    assert [o.op for o in first[0].operations] == [ConfigOp.SET_DIRECTORY, ConfigOp.SET_LEAF, ConfigOp.SET_OWNER]
    assert all(cache.grow(0, tokens) == [] for tokens in range(2, 65))
    (second,) = cache.grow(0, 65)
    assert [o.op for o in second.operations] == [ConfigOp.SET_LEAF, ConfigOp.SET_OWNER]
    assert (first[0].chunk, second.chunk) == (0, 1)
    gone = cache.release(0)
    assert gone.chunk is None
    assert [o.op for o in gone.operations] == [ConfigOp.RELEASE] + 2 * [ConfigOp.SET_OWNER, ConfigOp.SET_LEAF]
    again = cache.open(3, 1)[0]
    assert again.chunk == 0
    assert again.operations[0].value == first[0].operations[0].value


def test_leaves_run_out_too():
    cache = LazyKvCache(replace(PARAMS, num_leaves=1), REGIONS)
    cache.open(0, 4 * CHUNK_TOKENS)
    with pytest.raises(OutOfMemoryError, match="needs 1 chunks and 1 leaves more, 59 and 0 are free"):
        cache.grow(0, 4 * CHUNK_TOKENS + 1)
    with pytest.raises(OutOfMemoryError):
        cache.open(1, 1)
    assert cache.statistics().requests == 1


def test_static_reserves_the_longest_context():
    cache = StaticKvCache(PARAMS, REGIONS, max_tokens=1024)
    assert len(cache.open(0, 10)) == 16
    assert cache.grow(0, 1024) == []
    with pytest.raises(ParameterError, match="tokens must be at most 1024, not 1025"):
        cache.grow(0, 1025)
    assert cache.statistics().utilization == 1.0
    stats = fill(StaticKvCache(PARAMS, REGIONS, max_tokens=1024), np.array([512] * 4))
    assert (stats.requests, stats.utilization) == (3, 0.5)
    assert stats.utilization_of_capacity == pytest.approx(3 * 8 / 63)


def test_bad_calls_are_refused():
    cache = LazyKvCache(PARAMS, REGIONS)
    cache.open(0, 100)
    for call, text in (
        (lambda: LazyKvCache(PARAMS, 3), "regions must be an even number"),
        (lambda: cache.open(0, 1), "slot must be one without a request"),
        (lambda: cache.open(4, 1), r"slot must be 0\.\.3"),
        (lambda: cache.open(1, 0), "tokens must be 1 or more"),
        (lambda: cache.grow(0, 99), "tokens must be 100 or more"),
        (lambda: cache.grow(1, 1), "slot must be one with a request"),
        (lambda: cache.release(1), "slot must be one with a request"),
        (lambda: cache.open(1, 64 * CHUNK_TOKENS + 1), "chunks of a request must be at most 64, not 65"),
        (lambda: cache.physical_row(0, 100, 0), r"token must be 0\.\.99"),
        (lambda: cache.physical_row(0, 0, REGIONS), "region must be"),
    ):
        with pytest.raises(ParameterError, match=text):
            call()
    assert cache.statistics().requests == 1


def test_synthetic_lengths_are_seeded_and_in_range():
    for statistics in DATASETS.values():
        lengths = synthetic_lengths(statistics, 4000, np.random.default_rng(1))
        assert lengths.min() >= statistics.least
        assert lengths.max() <= statistics.greatest
        # Cutting off moves the mean: most where one tail goes, by less than a third of the standard deviation.
        assert abs(lengths.mean() - statistics.mean) < statistics.std / 3
        np.testing.assert_array_equal(lengths, synthetic_lengths(statistics, 4000, np.random.default_rng(1)))


def test_lazy_allocation_uses_three_quarters_of_the_memory_or_more():
    params = PRESETS["ddr4-3200-x8-8gb"].rank.with_dpa(num_slots=256).require_dpa()
    points = measure_capacity(params, 32, trials=1, seed=1)
    assert [point.dataset for point in points] == list(DATASETS)
    assert np.mean([point.lazy for point in points]) >= 0.75
    assert np.mean([point.lazy_of_capacity for point in points]) >= 0.75
    for point in points:
        assert point.static < point.lazy <= 1
        assert point.static_requests < point.lazy_requests
    assert points == measure_capacity(params, 32, trials=1, seed=1)


def test_bad_capacity_experiments_are_refused():
    params = PRESETS["ddr4-3200-x8-8gb"].rank.with_dpa(num_slots=2).require_dpa()
    with pytest.raises(ParameterError, match="all of 2 requests fit"):
        measure_capacity(params, 2, trials=1, seed=1)
    with pytest.raises(ParameterError, match="context must be at least 30456, of QMSum, not 1000"):
        measure_capacity(params, 2, trials=1, seed=1, context=1000)
    with pytest.raises(ParameterError, match="trials must be"):
        measure_capacity(params, 2, trials=0, seed=1)
