"""DPA programs on a whole rank: equal to descriptors, bit for bit, with K and V in chunks that lie anywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from dimmpim.studies.scheduling import measure
from pimcompiler.assembler import assemble
from pimhost.driver.decode_step import golden_step, run_step
from pimhost.driver.kv_cache import LazyKvCache
from pimhost.driver.program_rank import ProgramRank
from pimhost.kv_file import DecodeStep, synthetic_step
from pimsim.rule_checker import RuleChecker
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.isa import Fault, unpack_word
from pimspec.params.dpa import ConfigOp, ConfigOperation, ConfigRefusal, SlotState
from pimspec.params.presets import preset_named

RANK = preset_named("tiny").rank.for_shape(AttentionShape(num_q_heads=4, num_kv_heads=1, head_dim=16))
"""A rank with two lines of results for the four queries of a kv_head."""

RANK = RANK.with_dpa(
    num_slots=4, program_words=64, chunk_bytes=4 * 1024, directory_entries=4, leaf_entries=64, watchdog=4095
)
DPA = RANK.require_dpa()


class Requests:
    """Requests of one shape, one slot each: their chunks, K and V past the bus, and decode steps."""

    def __init__(self, host, shape, *, static_order=False, cache=None):
        self.rank = ProgramRank(host, shape, normalise=False, static_order=static_order, kv="cells")
        self.cache = cache or LazyKvCache(DPA, self.rank.num_regions)
        self.granted, self.entry = 0, {}

    def open(self, slot, step, first_entry=0):
        """Grant chunks, and write K and V of `step`."""
        self._grant(self.cache.open(slot, step.num_tokens))
        self.entry[slot] = first_entry
        self.write(slot, step, 0)

    def append(self, slot, step):
        """Append the last token of `step`."""
        self._grant(self.cache.grow(slot, step.num_tokens))
        self.write(slot, step, step.num_tokens - 1)

    def write(self, slot, step, first):
        self.rank.write_kv(self.cache, slot, 0, first, step.k[:, first:], step.v[:, first:])

    def close(self, slot):
        self._grant([self.cache.release(slot)])
        self.rank.forget(slot)

    def _grant(self, interventions):
        self.rank.grant(interventions)
        self.granted += sum(len(intervention.operations) for intervention in interventions)

    def send(self, slot, step):
        self.rank.send(0, {slot: step.q.view(np.uint16)}, {slot: step.num_tokens}, {slot: self.entry[slot]})

    def start(self, slot, step):
        self.send(slot, step)
        self.rank.start([slot])

    def wait(self, limit=2_000_000):
        self.rank.wait_idle(limit=limit)

    def result(self, slot):
        return self.rank.results(0, [slot], statistics=True)[slot]

    def step(self, slot, step):
        self.start(slot, step)
        self.wait()
        return self.result(slot)


@pytest.fixture(scope="module")
def checker():
    return RuleChecker((RANK.timing, RANK.organization), RANK.engine.constraints)


@pytest.fixture(scope="module")
def owned():
    with open_rank(RANK) as simulator:
        simulator.take()
        yield simulator


@pytest.fixture
def sim(owned, checker):
    """The rank; every command that it issues obeys the rules, and it refuses nothing unless a test expects it."""
    yield owned
    for command in owned.traced_commands(owned.trace()):
        checker.issue(command)
    assert owned.status().refused == owned.status().chip == 0


def shape_of(group, heads):
    return AttentionShape(num_q_heads=group * heads, num_kv_heads=heads, head_dim=16)


def cut(step, tokens):
    """The first tokens of a context."""
    return DecodeStep(shape=step.shape, q=step.q, k=step.k[:, :tokens], v=step.v[:, :tokens], source=step.source)


def check(result, step):
    golden = golden_step(RANK, step)
    np.testing.assert_array_equal(result.output, golden.o)
    np.testing.assert_array_equal(result.statistics, np.stack([golden.m, golden.l], axis=1))


@pytest.mark.parametrize("static_order", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize(("group", "heads"), [(1, 2), (2, 3), (4, 2)])
def test_programs_and_descriptors_give_the_same(sim, group, heads, static_order):
    shape = shape_of(group, heads)
    rank = Requests(sim, shape, static_order=static_order)
    for tokens in (1, 2, 15, 16, 17, 33, 300, 1000):
        step = synthetic_step(shape, tokens, tokens)
        rank.open(0, step)
        check(rank.step(0, step), step)
        rank.close(0)


def test_a_batch_runs_back_to_back(sim):
    """Four requests of different lengths, started together; chunks of each lie between those of the others."""
    shape = shape_of(2, 1)
    rank = Requests(sim, shape)
    steps = [synthetic_step(shape, 40 + 70 * slot, 9 + slot) for slot in range(4)]
    for slot, step in enumerate(steps):
        rank.open(slot, cut(step, 20), first_entry=RANK.queries_at_once * slot)
    for slot, step in enumerate(steps):
        for tokens in range(21, step.num_tokens + 1):
            rank.append(slot, cut(step, tokens))
    assert all(np.diff(rank.cache.chunks_of(slot)).max() > 1 for slot in (1, 2, 3)), "chunks of a request are apart"
    for slot, step in enumerate(steps):
        rank.start(slot, step)
    rank.wait()
    for slot, step in enumerate(steps):
        check(rank.result(slot), step)
        rank.close(slot)


def test_different_requests_start_together(sim):
    """Requests with different numbers of queries, in either order, started together, again and again."""
    rng = np.random.default_rng(5)
    for _ in range(6):
        ranks, steps = [], []
        for _ in range(4):
            shape = shape_of(int(rng.integers(1, 5)), 1)
            ranks.append(Requests(sim, shape, static_order=bool(rng.random() < 0.3)))
            steps.append(synthetic_step(shape, int(rng.choice([5, 40, 300])), int(rng.integers(99))))
        # A slot's chunks are its own; all programs for one kv_head are the same words.
        cache = ranks[0].cache
        for slot, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
            rank.cache = cache
            rank.open(slot, step, first_entry=RANK.queries_at_once * slot)
        for slot, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
            rank.start(slot, step)
        rank.wait()
        for slot, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
            check(rank.result(slot), step)
            rank.close(slot)


def test_sums_wait_for_their_merge(sim):
    """A program that is slow to MERGE: the sums wait until it gives the number of their lines."""
    ranks, steps = [], []
    for slot, group in enumerate((1, 4, 2, 3)):
        ranks.append(Requests(sim, shape_of(group, 1)))
        steps.append(synthetic_step(shape_of(group, 1), 40, slot))
        (program,) = ranks[-1].rank.programs
        words = assemble(program.text.replace("merge", "loop 600 {\nnop\n}\nmerge"))
        ranks[-1].rank.programs[:] = [replace(program, instructions=tuple(map(unpack_word, words)))]
        ranks[-1].cache = ranks[0].cache
    sim.configure(ranks[0].rank.programs[0].load())
    for slot, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
        rank.open(slot, step, first_entry=RANK.queries_at_once * slot)
    for slot, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
        rank.start(slot, step)
    ranks[0].wait()
    for slot, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
        check(rank.result(slot), step)
        rank.close(slot)


@pytest.mark.parametrize("steps", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_the_device_counts_tokens_by_itself(sim, steps):
    """Decode steps of two requests: the host delivers data, and acts only for new requests and new chunks."""
    shape = shape_of(1, 2)
    rank = Requests(sim, shape)
    whole = [synthetic_step(shape, 65 + steps, seed) for seed in (1, 2)]
    first = [30, 61]
    for slot in range(2):
        rank.open(slot, cut(whole[slot], first[slot]), first_entry=2 * RANK.queries_at_once * slot)
    for count in range(steps):
        for slot in range(2):
            step = cut(whole[slot], first[slot] + count)
            if count:
                rank.append(slot, step)
            rank.start(slot, step)
        rank.wait()
        for slot in range(2):
            check(rank.result(slot), cut(whole[slot], first[slot] + count))
            assert sim.slot_status(slot)["tokens"] == first[slot] + count + 1
    chunks = sum(len(rank.cache.chunks_of(slot)) for slot in range(2))
    (program,) = rank.rank.programs
    assert chunks > 2
    assert rank.rank.interventions == len(program.words) + 2 * 2 + rank.granted
    for slot in range(2):
        rank.close(slot)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault.UNMAPPED, "wr_inp queries, x0\nloop segments {\nsoftmax\nmovi x3, 99999\nmac tree, x3\n}\nend"),
        (Fault.ORDER, "mac tree, x0\nend"),
        (Fault.BAD_OPCODE, ".word 0x3f\nend"),
        (Fault.BAD_ENTRY, "movi x0, 62\nwr_inp queries, x0\nend"),
        (Fault.WATCHDOG, "loop 65535 {\nloop 65535 {\nnop\n}\n}\nend"),
        (Fault.PC, "nop"),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_a_bad_program_stops_alone(sim, fault, text):
    """Slot 1 stops and reports why, issues nothing and writes nothing; slots 0 and 2, around it, run."""
    shape = shape_of(2, 1)
    rank = Requests(sim, shape)
    steps = {slot: synthetic_step(shape, 50 + slot, slot) for slot in (0, 1, 2)}
    for slot, step in steps.items():
        rank.open(slot, step, first_entry=RANK.queries_at_once * slot)
    before = sim.read_outputs(RANK.queries_at_once, 2)
    words = assemble(text)
    address = len(rank.rank.programs[0].words)
    operations = [
        ConfigOperation(op=ConfigOp.WRITE_WORD, index=address + n, value=word) for n, word in enumerate(words)
    ]
    value = DPA.request.pack_int(program=address, length=len(words), tokens=51, first_entry=4, num_entries=4)
    faults = sim.dpa_state()["faults"]
    for slot, step in steps.items():
        rank.send(slot, step)
    sim.configure([*operations, ConfigOperation(op=ConfigOp.SET_REQUEST, slot=1, value=value)])
    rank.rank.start(list(steps))
    rank.wait(limit=100_000_000)
    status = sim.slot_status(1)
    assert (status["state"], status["fault"], status["pending"]) == (SlotState.FAULTED, fault, 0)
    assert sim.dpa_state()["faults"] == faults + 1
    for slot in (0, 2):
        check(rank.result(slot), steps[slot])
    np.testing.assert_array_equal(sim.read_outputs(RANK.queries_at_once, 2), before)
    for slot in steps:
        rank.close(slot)


def test_a_foreign_chunk_is_not_read(sim, checker):
    """Slot 0's leaf names a chunk of slot 1: PERMISSION, and no bank opens a row of it."""
    shape = shape_of(2, 1)
    rank = Requests(sim, shape)
    steps = [synthetic_step(shape, 40, seed) for seed in (3, 4)]
    for slot, step in enumerate(steps):
        rank.open(slot, step, first_entry=RANK.queries_at_once * slot)
    (theirs,) = rank.cache.chunks_of(1)
    leaf = DPA.leaf_entry.pack_int(valid=1, chunk=theirs)
    sim.configure([ConfigOperation(op=ConfigOp.SET_LEAF, index=0, value=leaf)])
    rank.wait()
    skipped = sim.traced_commands(sim.trace())
    rank.start(0, steps[0])
    rank.wait()
    assert sim.slot_status(0)["fault"] == Fault.PERMISSION
    during = sim.traced_commands(sim.trace())
    for command in skipped + during:
        checker.issue(command)
    assert not [c for c in during if c.command in (Command.ACT, Command.PIM_MAC)]
    check(rank.step(1, steps[1]), steps[1])
    for slot in range(2):
        rank.close(slot)


def test_descriptors_and_programs_take_turns(sim, checker):
    """A host may use both; here a descriptor's rows are not those of any chunk."""
    shape = shape_of(2, 2)
    rank = Requests(sim, shape)
    step = synthetic_step(shape, 200, 6)
    rank.open(0, step, first_entry=8)
    for command in sim.traced_commands(sim.trace()):
        checker.issue(command)
    before = run_step(sim, synthetic_step(shape, 100, 7), normalise=False)
    for command in before.commands:
        checker.issue(command)
    rank.write(0, step, 0)  # the descriptor's rows lie where the chunks are
    check(rank.step(0, step), step)
    check(before, synthetic_step(shape, 100, 7))
    rank.close(0)


def test_refused_operations_are_counted(sim):
    state = sim.dpa_state()
    sim.configure([ConfigOperation(op=ConfigOp.START, slot=3)])
    sim.run(8)
    after = sim.dpa_state()
    assert after["refused"] == state["refused"] + 1
    assert after["refusal"] == ConfigRefusal.NOT_READY


def test_scheduling():
    """`dimmpim scheduling`: its timing model has the clocks of RTL."""
    shape = shape_of(2, 2)
    points = list(measure(RANK, shape, [40, 300], requests=2))
    assert points == list(measure(RANK, shape, [40, 300], requests=2, backend="timing"))
    for point in points:
        assert point.peak_clocks / point.ideal_share < point.dynamic_clocks < point.static_clocks
        assert abs(point.overhead) < 0.3
