"""Unmodified LiteDRAM in front of a rank: data, hand-overs, attention, and the rules on the chips' side."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("litedram", reason="LiteDRAM, a development dependency, is not installed")

from litedram_core import generate, phy_settings, timing_settings
from litedram_memory import start

from pimhost.driver.decode_step import golden_step, placement_of
from pimhost.driver.kv_cache import LazyKvCache
from pimhost.driver.program_rank import ProgramRank
from pimhost.kv_file import synthetic_step
from pimhw.generate import component_verilog
from pimhw.host_side.dfi_front_end import DfiFrontEnd
from pimhw.pim_rank import rank_modules
from pimsim.rank.controlled import ControlledRank, UserOpKind
from pimsim.rule_checker import RuleChecker
from pimspec.attention.placement import KvKind
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.golden.merge import normalise
from pimspec.hostif.dfi import DfiParams
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.presets import preset_named

PARAMS = DfiParams(rank=preset_named("tiny").rank.with_dpa(num_slots=2, chunk_bytes=4096, leaf_entries=64))
RANK, WINDOW = PARAMS.rank, PARAMS.rank.window
SHAPE = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
ROUNDS, ACCESSES = 5, 2200
FIRST_ROW, ROWS = 300, 7  # of the random accesses; K and V lie below


class Lines:
    """Lines that must be in the DRAM, by address; what was never written is not known."""

    def __init__(self, host, seed):
        self.host, self.rng, self.known = host, np.random.default_rng(seed), {}

    def places(self, count):
        """Places with locality: runs of neighbours, and every bank."""
        org, rng = RANK.organization, self.rng
        most = org.column_accesses_per_row
        places = []
        while len(places) < count:
            bank, row = rng.integers(RANK.num_banks), FIRST_ROW + rng.integers(ROWS)
            first, length = rng.integers(most), rng.integers(1, 9)
            places += [(bank, row, (first + k) % most) for k in range(length)]
        return np.array(places[:count])

    def access(self, count):
        """Reads and writes at random, some masked, some after a pause; the data of each read are compared."""
        rng, memory = self.rng, self.host.memory
        ops = memory.ops(UserOpKind.READ, count)
        ops["address"] = memory.addresses(self.places(count))
        ops["data"] = rng.integers(0, 256, ops["data"].shape)
        ops["kind"] = np.where(rng.random(count) < 0.55, int(UserOpKind.WRITE), ops["kind"])
        ops["mask"] = np.where(rng.random((count, 1)) < 0.3, rng.integers(0, 256, ops["mask"].shape), 0)
        ops["kind"] = np.where(rng.random(count) < 0.02, int(UserOpKind.WAIT), ops["kind"])
        ops["value"] = rng.integers(1, 400, count)
        expected = [self.known.get(int(op["address"])) for op in self._after_each(ops) if op["kind"] == UserOpKind.READ]
        memory.settle()
        memory.port.lines_read()
        memory.port.user(ops)
        memory.settle()
        memory.port.run(2)
        got = memory.port.lines_read()
        assert len(got) == len(expected)
        for n, (line, wanted) in enumerate(zip(got, expected, strict=True)):
            if wanted is not None:
                assert same(line, wanted), f"read {n}: {line.hex()} instead of {wanted}"
        return Counter(ops["kind"].tolist())

    def _after_each(self, ops):
        for op in ops:
            yield op
            if op["kind"] == UserOpKind.WRITE:
                before = self.known.get(int(op["address"]), [None] * RANK.line_bytes)
                keep = np.unpackbits(op["mask"], bitorder="little")[: RANK.line_bytes]
                line = [b if k else int(d) for b, k, d in zip(before, keep, op["data"], strict=True)]
                self.known[int(op["address"])] = line

    def check(self):
        """Every line that is known is in the DRAM."""
        org = RANK.organization
        addresses = np.array(sorted(self.known))
        rest, column = np.divmod(addresses, org.column_accesses_per_row)
        row, bank = np.divmod(rest, RANK.num_banks)
        lines = self.host.memory.read(np.stack([bank, row, column], axis=1))
        for address, line in zip(addresses, lines, strict=True):
            assert same(line.tobytes(), self.known[int(address)]), hex(address)
        return len(addresses)


def same(line, known):
    return all(k is None or k == b for b, k in zip(line, known, strict=True))


@pytest.fixture(scope="module")
def opened():
    core = generate(PARAMS)
    front_end = component_verilog(DfiFrontEnd(params=PARAMS), "dfi_front_end")
    port = ControlledRank(PARAMS, rank_modules(RANK), core.verilog, front_end)
    with start(port, core, timing_settings(PARAMS).tREFI) as host:
        yield host


def by_descriptors(host, seed):
    """Attention of a step over descriptors; K and V are written by the host before the hand-over."""
    step = synthetic_step(SHAPE, 75 + seed, seed)
    placement = placement_of(RANK, SHAPE, step.num_tokens)
    for kind, vectors in ((KvKind.K, step.k), (KvKind.V, step.v)):
        host.write_bursts(placement.writes(0, kind, 0, vectors))
    rows = -(-step.num_tokens // (RANK.row_lines * RANK.num_chips))
    yield  # the hand-over
    group, due = SHAPE.gqa_group_size, host.num_finished + SHAPE.num_kv_heads
    for head in range(SHAPE.num_kv_heads):
        place = head * RANK.queries_at_once
        host.write_queries(place, step.q[head * group : (head + 1) * group].view(np.uint16))
        k_row, v_row = 2 * head * rows, (2 * head + 1) * rows
        host.submit(
            Descriptor(
                k_row=k_row, v_row=v_row, tokens=step.num_tokens, last_query=group - 1, query=place, output=place,
                scale=SHAPE.scale_bits,
            )
        )  # fmt: skip
    host.run(200_000, until_finished=due)
    assert host.num_finished == due
    got = [host.read_outputs(head * RANK.queries_at_once, group) for head in range(SHAPE.num_kv_heads)]
    np.testing.assert_array_equal(np.concatenate(got), normalise(golden_step(RANK, step), RANK.format))


def by_program(host, seed):
    """Attention of a step over a DPA program; K and V are posted while PIM owns the DRAM."""
    step = synthetic_step(SHAPE, 70 + seed, 100 + seed)
    rank = ProgramRank(host, SHAPE)
    cache = LazyKvCache(RANK.require_dpa(), rank.num_regions)
    rank.grant(cache.open(0, step.num_tokens))
    rank.write_kv(cache, 0, 0, 0, step.k, step.v)
    rank.send(0, {0: step.q.view(np.uint16)}, {0: step.num_tokens}, {0: 0})
    rank.wait(rank.start([0]))
    np.testing.assert_array_equal(rank.results(0, [0])[0].output, normalise(golden_step(RANK, step), RANK.format))
    rank.wait_idle()
    rank.grant([cache.release(0)])


def test_start_sequence_sets_the_mode_registers(opened):
    """CL, CWL and DM as LiteDRAM writes them, and nothing was refused on the way."""
    modes, settings = opened.codec.modes(opened.read_window(3)[0]), phy_settings(PARAMS)
    assert modes["mr2"] >> 3 & 7 == {16: 5, 20: 7}[settings.cwl]
    assert (modes["mr0"] >> 12 & 1) << 4 | modes["mr0"] >> 3 & 14 | modes["mr0"] >> 2 & 1 == {22: 10}[settings.cl]
    assert modes["mr5"] >> 10 == 1
    assert (opened.status().refused, opened.status().owner) == (0, 0)


def test_random_accesses_with_hand_overs_and_attention_between(opened):
    host = opened
    lines, kinds = Lines(host, 7), Counter()
    for turn in range(ROUNDS):
        kinds += lines.access(ACCESSES)
        steps = by_descriptors(host, turn)
        next(steps)
        host.take()
        assert host.status().owner == 1
        next(steps, None)
        places = lines.places(12)
        unknown = lines.rng.integers(0, 256, (len(places), RANK.line_bytes), np.uint8)
        host.memory.write(places, unknown)  # posted
        host.drain()
        for address, line in zip(host.memory.addresses(places), unknown, strict=True):
            lines.known[int(address)] = line.tolist()
        for place, line in zip(places, host.read_split([tuple(map(int, place)) for place in places]), strict=True):
            assert same(line, lines.known[int(host.memory.addresses([place])[0])])
        by_program(host, turn)
        host.release()
        assert lines.check() > 300
    status = host.status()
    assert (status.refused, status.chip, status.owner) == (0, 0, 0)
    assert kinds[UserOpKind.READ] + kinds[UserOpKind.WRITE] >= 10_000
    records = host.trace()
    commands = host.traced_commands(records)
    checker = RuleChecker((RANK.timing, RANK.organization), RANK.engine.constraints, max_postponed=8)
    checker.check_trace(commands)
    seen = Counter(command.command for command in commands)
    assert min(seen[c] for c in (Command.RDA, Command.WRA, Command.RD, Command.WR, Command.PREpb, Command.PREab)) > 50
    assert seen[Command.REFab] > 40
    assert seen[Command.PIM_MAC] > 100
    assert set(records["phase"][records["code"] == int(Command.ACT)].tolist()) >= {3}
