"""Memory controller with open rows: memory that reads back, posted writes, and every rule of plain DDR4."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimhost.driver.rank_host import in_turns
from pimsim.rule_checker import RuleChecker
from pimspec.attention.placement import BurstWrites
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command
from pimspec.dram.constraints import timing_constraints
from pimspec.errors import ParameterError, RankError
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
ORG, LINE = TINY.organization, TINY.line_bytes


@pytest.fixture
def host():
    """A controller; the commands of the host, and those that reach the chips, keep the rules."""
    with open_rank(TINY) as sim:
        sim.memory.record()
        yield sim
        assert (sim.status().refused, sim.status().chip) == (0, 0)
        end = sim.clock * TINY.ck_per_clock
        chips = RuleChecker((TINY.timing, ORG), TINY.engine.constraints, max_postponed=1)
        chips.check_trace(sim.traced_commands(sim.trace()), end)
        rules = timing_constraints(TINY.timing, ORG, pim=False)
        plain = RuleChecker((TINY.timing, ORG), rules, max_postponed=None)
        for clock, code, bank, row, column in sim.memory.issued:
            group, index = divmod(bank, ORG.banks_per_group)
            place = (None, None) if code in (Command.PREab, Command.REFab) else (group, index)
            at = (row if code is Command.ACT else None, column * ORG.burst_length)
            has_column = code in (Command.RD, Command.WR)
            plain.issue(TracedCommand(clock * TINY.ck_per_clock, code, 0, *place, at[0], at[1] if has_column else None))


def random_places(rng, count):
    """Different lines, in few rows, so that rows meet, and some far apart."""
    rows = [5, 6, 77, 100_000]
    places = {(int(rng.integers(TINY.num_banks)), int(rng.choice(rows)), int(rng.integers(16))) for _ in range(count)}
    return np.array(sorted(places), np.int64)[rng.permutation(len(places))]


@pytest.mark.parametrize("seed", range(3))
def test_batches_read_back(host, seed):
    rng, memory = np.random.default_rng(seed), {}
    for _ in range(60):
        places = random_places(rng, int(rng.integers(1, 40)))
        if rng.random() < 0.6:
            lines = rng.integers(0, 256, (len(places), LINE), np.uint8)
            keep = rng.integers(0, 256, (len(places), LINE // 8), np.uint8) * rng.integers(0, 2, (len(places), 1))
            host.memory.write(places, lines, keep.astype(np.uint8))
            kept = np.unpackbits(keep.astype(np.uint8), axis=1, bitorder="little").astype(bool)
            for place, line, mask in zip(map(tuple, places.tolist()), lines, kept, strict=True):
                memory[place] = np.where(mask, memory.get(place, np.full(LINE, 0xFF, np.uint8)), line)
        else:
            want = [memory.get(tuple(place), np.full(LINE, 0xFF, np.uint8)) for place in places.tolist()]
            np.testing.assert_array_equal(host.memory.read(places), want, f"seed {seed}")
        if rng.random() < 0.1:
            host.settle()
    assert any(command[1] is Command.REFab for command in host.memory.issued)


def test_posted_writes_are_paced(host):
    """Many times the depth of the queue; read back by the host after PIM has given the DRAM back."""
    rng = np.random.default_rng(7)
    for _ in range(3):
        places = random_places(rng, 120)
        bank_group, bank = np.divmod(places[:, 0], ORG.banks_per_group)
        data = rng.integers(0, 256, (len(places), TINY.num_chips, ORG.column_access_bytes), np.uint8)
        everywhere = np.full(len(places), (1 << TINY.num_chips) - 1)
        writes = BurstWrites(
            np.zeros_like(bank), bank_group, bank, places[:, 1], places[:, 2] * ORG.burst_length, everywhere, data
        )
        host.take()
        host.write_bursts(writes)
        host.drain()
        np.testing.assert_array_equal(host.port.peek(writes), data)
        with pytest.raises(ParameterError, match="owner must be the host, not 'PIM'"):
            host.take()
        host.release()
        host.memory.read(places[:1])


def test_lines_are_written_as_the_chips_store_them(host):
    rng = np.random.default_rng(8)
    data = rng.integers(0, 256, (20, TINY.num_chips, ORG.column_access_bytes), np.uint8)
    zeros, columns, mask = np.zeros(20, np.int64), np.arange(20) % 16 * 8, rng.integers(1, 4, 20)
    writes = BurstWrites(zeros, zeros, np.arange(20) % 2, zeros + 9 + np.arange(20) // 16, columns, mask, data)
    host.write_bursts(writes)
    host.finish_writes()
    chosen = (mask[:, None] >> np.arange(TINY.num_chips) & 1).astype(bool)
    np.testing.assert_array_equal(host.port.peek(writes)[chosen], data[chosen])
    assert (host.port.peek(writes)[~chosen] == 0xFF).all()


def test_a_wait_ends_at_its_limit(host):
    host.take()
    with pytest.raises(RankError, match="400 clocks have passed before never"):
        host._wait_for(lambda: False, "never", 400)


def test_in_turns():
    banks = np.array([0, 0, 0, 3, 3, 1])
    assert banks[in_turns(banks)].tolist() == [0, 1, 3, 0, 3, 0]
    assert sorted(in_turns(banks).tolist()) == list(range(6))
