"""Configuration operations beside a program: each is done at once or waits, and the golden model says which."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from amaranth.hdl import Value
from amaranth.sim import Simulator

from pimhw.dpa.dispatcher import Dispatcher
from pimsim.dpa_stimulus import attention_words, random_session
from pimspec.golden.dpa import DpaDevice
from pimspec.params.dpa import ConfigOp, ConfigRefusal
from pimspec.params.presets import preset_named

PARAMS = (
    replace(preset_named("tiny").rank, segment_tokens=128, queries=16)
    .with_dpa(
        num_slots=5, num_registers=6, program_words=128, chunk_bytes=1 << 22, directory_entries=4, leaf_entries=4,
        num_leaves=8, watchdog=700, max_tokens_bits=12,
    )
    .require_dpa()
)  # fmt: skip


@dataclass
class Watched:
    """What a run of the dispatcher showed, compared clock by clock with the golden device."""

    beside: Counter = field(default_factory=Counter)
    """Operations that were done while a program was in service."""
    waited: Counter = field(default_factory=Counter)
    """Operations that waited for the end of a program."""
    outcomes: Counter = field(default_factory=Counter)
    refusals: list = field(default_factory=list)
    micro_ops: int = 0


def watch(operations, *, ready=1.0, gap=0.0, limit=400_000, seed=0):  # noqa: PLR0915
    """Offer operations with programs enabled all the time, until all is done; compare everything with the golden."""
    dut, golden, seen, rng = Dispatcher(params=PARAMS), DpaDevice(PARAMS), Watched(), np.random.default_rng(seed)
    core, names = dut._interpreter, [f.name for f in PARAMS.micro_op.fields]
    left, given, micro_ops, in_service, waits = list(operations), [], [], False, False

    def settle(answered, refusal, over, fault, begins):
        nonlocal in_service
        if answered:
            op, slot, index, value = given.pop(0)
            if in_service:
                assert not golden.touches(op, index, value), (op, slot, index, value)
                seen.beside[op] += 1
            assert golden.configure(op, slot, index, value) == refusal
            seen.refusals.append(refusal)
        if over:
            outcome, in_service = golden.finish(), False
            assert (outcome.fault, [[int(getattr(o, n)) for n in names] for o in outcome.micro_ops]) == (
                fault,
                micro_ops,
            )
            seen.outcomes[outcome.fault] += 1
            seen.micro_ops += len(micro_ops)
            micro_ops.clear()
        if begins:
            assert golden.begin() == begins[0]
            in_service = True

    async def bench(ctx):
        nonlocal waits
        ctx.set(dut.enable, 1)
        at_rest = 0
        for _ in range(limit):
            if left and not ctx.get(dut.config.valid) and rng.random() >= gap:
                op, slot, index, value = left[0]
                for name, number in zip(("op", "slot", "index"), (op, slot, index), strict=True):
                    ctx.set(dut.config.payload[name], number)
                for half in range(2):
                    ctx.set(dut.config.payload.value[half], value >> 32 * half & 0xFFFFFFFF)
                ctx.set(dut.config.valid, 1)
                waits = False
            ctx.set(dut.o.ready, int(rng.random() < ready))
            await ctx.delay(1e-9)
            begins = (ctx.get(dut._slot),) if ctx.get(core.start) and not ctx.get(core.issue) else ()
            settle(
                ctx.get(dut.answered), ctx.get(dut.refusal), ctx.get(dut.outcome_valid),
                ctx.get(dut.outcome.fault), begins,
            )  # fmt: skip
            if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
                micro_ops.append([ctx.get(Value.cast(dut.o.payload[n])) for n in names])
            taken = ctx.get(dut.config.valid) and ctx.get(dut.config.ready)
            if ctx.get(dut.config.valid) and not waits and in_service and golden.touches(left[0][0], *left[0][2:]):
                waits = True
                seen.waited[left[0][0]] += 1
            at_rest = at_rest + 1 if ctx.get(dut.idle) and not left else 0
            await ctx.tick()
            if taken:
                given.append(left.pop(0))
                ctx.set(dut.config.valid, 0)
            if at_rest > 4:
                return
        raise AssertionError(f"not at rest after {limit} clocks, {len(left)} operations left")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def test_random_operations_beside_random_programs(count_vectors):
    commands = random_session(PARAMS, np.random.default_rng(7), num_programs=60)
    operations = [(c.op, c.slot, c.index, c.value) for c in commands if c.kind == "config"]
    seen = watch(operations, ready=0.6, gap=0.2)
    count_vectors("configuration operations beside programs", sum(seen.beside.values()))
    assert set(ConfigOp) <= set(seen.beside), seen.beside
    assert seen.waited[ConfigOp.WRITE_WORD] > 0
    assert seen.outcomes[0] > 5
    assert seen.micro_ops > 50


def mapped(slot, program, words, tokens):
    """Operations that make a slot ready, with its first chunk mapped."""
    p = PARAMS
    request = {"program": program, "length": len(words), "tokens": tokens, "num_entries": p.queries}
    return [
        *((ConfigOp.WRITE_WORD, 0, program + n, word) for n, word in enumerate(words)),
        (ConfigOp.SET_REQUEST, slot, 0, p.request.pack_int(**request)),
        (ConfigOp.SET_SCALE, slot, 0, 0x3F800000),
        (ConfigOp.SET_DIRECTORY, slot, 0, p.directory_entry.pack_int(valid=1, leaf=slot)),
        (ConfigOp.SET_LEAF, 0, slot * p.leaf_entries, p.leaf_entry.pack_int(valid=1, chunk=slot)),
        (ConfigOp.SET_OWNER, 0, slot, p.owner_entry.pack_int(valid=1, slot=slot, readable=1)),
    ]


WORDS = attention_words(rows=2, heads=3, k_row=0, v_row=1, stride=0, advance=True)


def test_another_slot_is_set_up_while_one_runs():
    """But for those that go first, all operations are done beside the program; none waits, and both programs run."""
    operations = [*mapped(0, 0, WORDS, 200), (ConfigOp.START, 0, 0, 0), *mapped(1, 64, WORDS, 100)]
    seen = watch([*operations, (ConfigOp.START, 1, 0, 0)], ready=0.2)
    assert not any(seen.refusals)
    assert not seen.waited
    assert seen.beside.total() == len(mapped(1, 64, WORDS, 100)) + 1 - PARAMS.host_queue
    assert seen.outcomes == {0: 2}


def test_what_a_program_reads_waits_for_its_end():
    """Its words, its leaf, its chunk; its slot is busy."""
    p = PARAMS
    own = [
        (ConfigOp.WRITE_WORD, 0, 3, 0),
        (ConfigOp.SET_LEAF, 0, 0, 0),
        (ConfigOp.SET_OWNER, 0, 0, 0),
        (ConfigOp.SET_OWNER, 0, 1, p.owner_entry.pack_int(valid=1, slot=0, readable=1)),
    ]
    for op in own:
        filler = [(ConfigOp.WRITE_WORD, 0, 127, 0)] * (PARAMS.host_queue + 8)
        seen = watch([*mapped(0, 0, WORDS, 200), (ConfigOp.START, 0, 0, 0), *filler, op], ready=0.2)
        assert seen.waited == {op[0]: 1}, op
        assert seen.outcomes == {0: 1}
    busy = (ConfigOp.SET_DIRECTORY, 0, 0, 0)
    seen = watch([*mapped(0, 0, WORDS, 200), (ConfigOp.START, 0, 0, 0), *filler, busy], ready=0.2)
    assert seen.refusals[-1] == ConfigRefusal.BUSY
    assert seen.outcomes == {0: 1}


def test_a_program_starts_however_many_operations_come():
    """With an operation at hand in every clock, at most `host_queue` go before it."""
    filler = [(ConfigOp.WRITE_WORD, 0, 127, 0)] * 2000
    begun = []

    class Patient(DpaDevice):
        def begin(self):
            begun.append(sum(self.interventions.values()))
            return super().begin()

    globals_ = watch.__globals__
    before, globals_["DpaDevice"] = globals_["DpaDevice"], Patient
    try:
        seen = watch([*mapped(0, 0, WORDS, 200), (ConfigOp.START, 0, 0, 0), *filler])
    finally:
        globals_["DpaDevice"] = before
    ready = len(mapped(0, 0, WORDS, 200)) + 1
    assert seen.outcomes == {0: 1}
    assert begun == [ready + PARAMS.host_queue]
