"""Order of data writes and what is asked for after them, and turns of descriptors and programs, on RTL."""

from __future__ import annotations

import numpy as np
import pytest

from pimhost.driver.kv_cache import LazyKvCache
from pimhost.driver.program_rank import ProgramRank
from pimhost.driver.rank_host import RankHost
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.placement import KvKind, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.golden.attention import attention_partial, normalise
from pimspec.hostif.window import ControlOp
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.dpa import ConfigOp, ConfigOperation
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
WITH_DPA = TINY.with_dpa(num_slots=4, program_words=64, chunk_bytes=1 << 20, directory_entries=4, leaf_entries=4)
SHAPE = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=TINY.head_dim)
TOKENS = 16


def open_rank(params):
    from pimhw.pim_rank import rank_modules  # noqa: PLC0415

    return RankHost(RankSimulator(params, rank_modules(params)))


def placement():
    regions = [
        KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(row, row + 1))
        for row, kind in enumerate(KvKind)
    ]  # fmt: skip
    return KvPlacement(organization=TINY.organization, shape=SHAPE, mapping=TOKEN_PER_CHIP, regions=regions)


def vectors(rng, tokens=TOKENS):
    return rng.standard_normal((1, tokens, TINY.head_dim)).astype(np.float16).view(np.uint16)


def descriptor(**changes):
    given = {"k_row": 0, "v_row": 1, "tokens": TOKENS, "last_query": 1, "query": 0, "output": 0}
    return Descriptor(**(given | {"scale": SHAPE.scale_bits} | changes))


def expected(queries, k, v):
    part = attention_partial(queries[None], k, v, SHAPE.scale_bits, TINY.attention_order())
    return normalise(part, TINY.format)[0]


@pytest.mark.parametrize("kind", list(KvKind))
def test_a_descriptor_sees_the_lines_that_were_posted_just_before_it(kind):
    rng, where = np.random.default_rng(1), placement()
    data = {KvKind.K: vectors(rng), KvKind.V: vectors(rng)}
    queries = vectors(rng, 2)[0]
    with open_rank(TINY) as host:
        for each, x in data.items():
            host.port.poke(where.writes(0, each, 0, x))
        host.write_queries(0, queries)
        host.take()
        for _ in range(3):
            tokens = TINY.host_queue // (TINY.accesses_per_k // TINY.num_chips * TINY.num_chips) * TINY.num_chips
            first = TOKENS - tokens
            new = vectors(rng, tokens) ^ np.uint16(1 << 14)
            data[kind] = np.concatenate([data[kind][:, :first], new], axis=1)
            places, lines, keep = host._bus_lines(where.writes(0, kind, first, new))
            assert len(places) == TINY.host_queue
            done = host.num_finished
            host.memory.write(places, lines, keep)
            host.submit(descriptor())
            host.run(20_000, until_finished=done + 1)
            got = host.read_outputs(0, 2)
            np.testing.assert_array_equal(got, expected(queries, data[KvKind.K], data[KvKind.V]))
        assert host.status().refused == 0


def test_a_split_read_sees_the_line_that_was_posted_just_before_it():
    rng = np.random.default_rng(2)
    with open_rank(TINY) as host:
        host.take()
        lines = [rng.bytes(TINY.line_bytes) for _ in range(4)]
        for n, line in enumerate(lines):
            host.write_columns(n % TINY.num_banks, 5, [n], [line])
            host.control(ControlOp.READ, entry=n, bank=n % TINY.num_banks, row=5, column=n)
        host.drain()
        assert host.read_window(host.window.regions["reads"].base, len(lines)) == lines


def one_request(host, rng):
    """A rank with a request in slot 0, its K and V, and its queries; ready to start."""
    rank = ProgramRank(host, SHAPE)
    cache = LazyKvCache(rank.dpa, rank.num_regions)
    rank.grant(cache.open(0, TOKENS))
    k, v, q = vectors(rng), vectors(rng), vectors(rng, 2)[0]
    rank.write_kv(cache, 0, 0, 0, k.view(np.float16), v.view(np.float16))
    host.take()
    rank.send(0, {0: q}, {0: TOKENS}, {0: 0})
    return rank, cache, k, v, q


def test_a_start_sees_the_lines_that_were_posted_just_before_it():
    rng = np.random.default_rng(3)
    with open_rank(WITH_DPA) as host:
        rank, cache, k, v, q = one_request(host, rng)
        new = vectors(rng, 2) ^ np.uint16(1 << 14)
        k[:, -2:] = new
        bursts = rank._bursts(cache, 0, 0, TOKENS - 2, new.view(np.float16), v[:, -2:].view(np.float16))
        places, lines, keep = host._bus_lines(bursts)
        assert len(places) <= WITH_DPA.host_queue
        host.memory.write(places, lines, keep)
        rank.wait(rank.start([0]))
        np.testing.assert_array_equal(rank.results(0, [0])[0].output, expected(q, k, v))


def test_a_program_runs_between_descriptors():
    """All places of the descriptor queue are taken before START; the program is done before most of them."""
    rng = np.random.default_rng(4)
    with open_rank(WITH_DPA) as host:
        one_request(host, rng)
        rows = WITH_DPA.dpa.chunk_rows
        for _ in range(WITH_DPA.descriptor_queue):
            host.submit(descriptor(k_row=4 * rows, v_row=5 * rows, tokens=512, query=4, output=4))
        host.configure([ConfigOperation(op=ConfigOp.START, slot=0)])
        for _ in range(10_000):
            if host.slot_status(0)["programs_done"]:
                break
            host.run(64)
        status = host.status()
        assert status.busy > WITH_DPA.descriptor_queue // 2
        host.run(1_000_000, until_finished=WITH_DPA.descriptor_queue + 1)
        assert host.num_finished == WITH_DPA.descriptor_queue + 1
        assert host.status().refused == 0
