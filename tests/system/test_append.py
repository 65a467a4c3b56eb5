"""APPEND: vectors as they come, spread over chips and banks by the buffer chip; RTL beside the timing model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dimmpim.ranks import open_rank, open_timing
from pimhost.kv_file import synthetic_step
from pimsim.rule_checker import RuleChecker
from pimspec.attention.placement import BurstWrites, KvKind, KvPlacement, KvRegion, line_of_chips
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram.commands import Command
from pimspec.golden.attention import attention_partial
from pimspec.golden.merge import normalise
from pimspec.hostif.window import ControlOp, Refusal
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.presets import preset_named

TINY = replace(preset_named("tiny").rank, append_groups=4)
NO_MASK = replace(TINY, data_mask=False)
BOTH = pytest.mark.parametrize("params", [TINY, NO_MASK], ids=["DM", "no DM"])
STEP = TINY.row_lines * TINY.num_chips
"""Tokens of a row step."""
ROWS = 4
SHAPE = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=TINY.head_dim)


def whole_rows(rows):
    """All lines of rows, for peek."""
    org, chips = TINY.organization, TINY.num_chips
    grid = np.meshgrid(np.arange(TINY.num_banks), rows, np.arange(org.column_accesses_per_row), indexing="ij")
    bank, row, column = (axis.ravel() for axis in grid)
    group, index = np.divmod(bank, org.banks_per_group)
    data = np.zeros((len(bank), chips, org.column_access_bytes), np.uint8)
    mask = np.full(len(bank), (1 << chips) - 1)
    return BurstWrites(np.zeros_like(bank), group, index, row, column * org.burst_length, mask, data)


EVERY = whole_rows(range(ROWS))


def writes_of(row, token, v, vector):
    """Bursts of one vector, by the placement that DM-masked writes use."""
    kind = KvKind.V if v else KvKind.K
    region = KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(row, row + 1))
    other = KvRegion(request=0, kind=KvKind.K if v else KvKind.V, head_set=0, rank=0, rows=range(ROWS, ROWS + 1))
    where = KvPlacement(organization=TINY.organization, shape=SHAPE, mapping=TOKEN_PER_CHIP, regions=[region, other])
    return where.writes(0, kind, token, np.asarray(vector, np.uint16)[None, None])


class Cells:
    """Expected cells: every append changes its own bytes, and no other."""

    def __init__(self, host, rng):
        self.host = host
        noise = EVERY._replace(data=rng.integers(0, 256, EVERY.data.shape, dtype=np.uint8))
        host.port.poke(noise)
        self.data = noise.data.copy()

    def put(self, writes):
        """Bursts with their chip mask."""
        per_row, org = TINY.organization.column_accesses_per_row, TINY.organization
        bank = writes.bank_group * org.banks_per_group + writes.bank
        at = (bank * ROWS + writes.row) * per_row + writes.column // org.burst_length
        for n, mask, data in zip(at, writes.chip_mask, writes.data, strict=True):
            chips = mask >> np.arange(TINY.num_chips) & 1 == 1
            self.data[n, chips] = data[chips]

    def check(self):
        np.testing.assert_array_equal(self.host.port.peek(EVERY), self.data)


def append(host, cells, requests, rng):
    """Append random vectors at (row, token, v)."""
    vectors = rng.integers(0, 1 << 16, (len(requests), TINY.head_dim))
    rows, tokens, v = zip(*requests, strict=True)
    host.append(rows, tokens, v, vectors)
    for request, vector in zip(requests, vectors, strict=True):
        cells.put(writes_of(*request, vector))


def check_rules(host):
    commands = host.traced_commands(host.trace())
    checker = RuleChecker((TINY.timing, TINY.organization), TINY.engine.constraints, max_postponed=8)
    checker.check_trace(commands, host.clock * TINY.ck_per_clock)
    return commands


def tidy(host):
    status = host.status()
    assert (status.refused, status.chip, status.queued) == (0, 0, 0), status


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_random_appends_change_their_own_bytes_alone(seed, params):
    """In any order, with groups that come and go; between them posted writes elsewhere, READs and hand-overs."""
    rng = np.random.default_rng(seed)
    with open_rank(params) as host:
        cells = Cells(host, rng)
        host.take()
        for _ in range(60):
            kind = rng.integers(8)
            if kind < 5:  # neighbours, or anywhere
                row, v, first = int(rng.integers(ROWS)), bool(rng.integers(2)), int(rng.integers(STEP))
                count = int(rng.integers(1, 7))
                tokens = (first + np.arange(count)) % STEP if kind < 3 else rng.integers(0, STEP, count)
                append(host, cells, [(row, int(token), v) for token in tokens], rng)
            elif kind == 5:
                n = int(rng.integers(len(cells.data)))
                per_row = TINY.organization.column_accesses_per_row
                place = (n // per_row // ROWS, n // per_row % ROWS, n % per_row)
                assert host.read_split([place]) == [line_of_chips(cells.data[n])]
            elif kind == 6:
                host.wait_until_clean()
                request = (int(rng.integers(ROWS)), int(rng.integers(STEP)), bool(rng.integers(2)))
                posted = writes_of(*request, rng.integers(0, 1 << 16, TINY.head_dim))
                host.write_bursts(posted)
                cells.put(posted)
            else:
                host.release()
                cells.check()
                host.take()
            host.run(int(rng.choice([0, 3, 40, 400])))
        host.release()
        cells.check()
        tidy(host)
        check_rules(host)


@BOTH
def test_neighbouring_tokens_are_merged_before_they_are_written(params):
    """A whole group of tokens costs its lines once: bytes written are the payload."""
    rng = np.random.default_rng(1)
    chips, lines = TINY.num_chips, TINY.accesses_per_k
    with open_rank(params) as host:
        cells = Cells(host, rng)
        host.take()
        host.run(2 * TINY.quiet_clocks)
        host.trace()
        tokens = 4 * chips
        append(host, cells, [(row, token, bool(row)) for token in range(tokens) for row in range(2)], rng)
        host.release()
        codes = host.trace()["code"]
        written = int((codes == Command.WR).sum())
        assert written == 2 * lines * tokens // chips
        assert written * TINY.line_bytes == 2 * tokens * TINY.head_dim * 2
        assert int((codes == Command.RD).sum()) == (0 if params.data_mask else written)
        cells.check()
        tidy(host)


def test_a_token_of_eight_kv_heads_of_128_crosses_the_bus_in_80_bursts():
    """On the timing model of a real preset, token after token; as masked bursts it is 512."""
    params = preset_named("ddr4-3200-x8-8gb").rank
    rows, v = [2 * head + kind for head in range(8) for kind in (0, 1)], [0, 1] * 8
    with open_timing(params) as host:
        host.take()
        for token in range(2 * params.num_chips):
            lines = host.memory.lines
            host.append(rows, [token] * 16, v, np.zeros((16, 128), np.uint16))
            assert host.memory.lines - lines == 80
            host.run(5000)
            tidy(host)


@BOTH
@pytest.mark.parametrize("tokens", [1, 2, 3, STEP - 1, STEP, STEP + 1, 2 * STEP + 5])
def test_attention_sees_what_was_appended_just_before(tokens, params):
    """Token after token, with a descriptor each time and no wait between."""
    first = 1000
    step = synthetic_step(SHAPE, tokens + 3, tokens)
    rows = -(-(tokens + 3) // STEP)
    regions = [
        KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(first + n * rows, first + (n + 1) * rows))
        for n, kind in enumerate(KvKind)
    ]
    where = KvPlacement(organization=TINY.organization, shape=SHAPE, mapping=TOKEN_PER_CHIP, regions=regions)
    with open_rank(params) as host:
        for kind, vectors in ((KvKind.K, step.k), (KvKind.V, step.v)):
            host.port.poke(where.writes(0, kind, 0, vectors[:, :tokens]))
        host.take()
        host.write_queries(0, step.q.view(np.uint16))
        for now in range(tokens, tokens + 3):
            row, token = divmod(now, STEP)
            before = host.memory.lines
            both = np.stack([step.k[0, now], step.v[0, now]]).view(np.uint16)
            host.append([first + row, first + rows + row], [token, token], [0, 1], both)
            assert host.memory.lines - before == 2 * (TINY.window.query_lines + 1)
            host.submit(
                Descriptor(
                    k_row=first, v_row=first + rows, tokens=now + 1, last_query=1, query=0, output=0,
                    scale=SHAPE.scale_bits,
                )
            )  # fmt: skip
            host.finish_writes()
            host.run(100_000, until_finished=now + 1 - tokens)
            part = attention_partial(
                step.q.reshape(1, 2, -1), step.k[:, : now + 1], step.v[:, : now + 1], SHAPE.scale_bits,
                TINY.attention_order(),
            )  # fmt: skip
            np.testing.assert_array_equal(host.read_outputs(0, 2), normalise(part, TINY.format)[0])
        tidy(host)
        check_rules(host)


def test_refusals():
    """No room, a row of the window, a rank of the host, a posted write over tokens that are not written."""
    rng = np.random.default_rng(3)
    with open_rank(TINY) as host:
        cells = Cells(host, rng)

        def refused(op, **fields):
            before = host.status().refused
            host.control(op, **fields)
            after = host.status()
            return after.refusal if after.refused == before + 1 else None

        assert refused(ControlOp.APPEND, row=1) == Refusal.BAD_OP
        host.take()
        assert refused(ControlOp.APPEND, row=TINY.window.first_row) == Refusal.BAD_APPEND
        posted = writes_of(1, 0, True, rng.integers(0, 1 << 16, TINY.head_dim))
        host.run(400)
        before = host.status()
        append(host, cells, [(1, 2, False)], rng)
        host.memory.write(*host._bus_lines(posted))
        host.finish_writes()
        after = host.status()
        assert after.refused - before.refused == len(posted.row)
        assert after.refusal == Refusal.BAD_APPEND
        assert host.read_split([(0, 1, 0)])  # now the tokens are in the cells
        host.write_bursts(posted)
        cells.put(posted)
        # more requests at once than the buffer has entries
        words = [host.codec.control(ControlOp.APPEND, row=2, token=0)] * (3 * TINY.host_queue)
        host.control(ControlOp.CLEAR)
        host.memory.write(np.repeat(host.window_places(0), len(words), axis=0), host._lines(words))
        host.finish_writes()
        status = host.status()
        assert status.refusal == Refusal.QUEUE_FULL
        assert 0 < status.refused <= 2 * TINY.host_queue
        host.drain()
        entry = host.port.peek(whole_rows([2]))
        assert entry is not None
        host.control(ControlOp.CLEAR)
        host.release()
        tidy(host)
