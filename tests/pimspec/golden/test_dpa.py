"""Golden DPA controller: configuration, faults and their priority, isolation, bounded time.

The file is long because all faults are told against one device with one set of programs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimcompiler.assembler import assemble
from pimspec.errors import ParameterError
from pimspec.golden.dpa import DpaDevice
from pimspec.isa import INSTRUCTIONS, Fault, Instruction, MicroKind, MicroOp, Opcode, pack_word, split_word
from pimspec.params.dpa import MAX_PENDING, ConfigOp, ConfigRefusal, SlotState
from pimspec.params.presets import PRESETS

# 2 chips, row steps of 32 tokens, segments of 128; chunks of 4 rows, leaves of 4 chunks, 64 virtual rows.
PARAMS = (
    replace(PRESETS["tiny"].rank, queries=16)
    .with_dpa(
        num_slots=3,
        program_words=64,
        chunk_bytes=4096,
        directory_entries=4,
        leaf_entries=4,
        num_leaves=8,
        watchdog=5000,
    )
    .require_dpa()
)
SCALE = 0x3F000000
SEGMENT_BODY = """
    softmax
    loop rows {
        mac tree, x1 += 2
        rd_out scores
    }
    loop rows {
        wr_inp probs
        mac lane, x2 += 2
    }
    rd_out sums
    merge x3
"""
GOOD = f"movi x2, 1\nwr_inp queries, x0 += 2\nloop segments {{ ; all\n{SEGMENT_BODY}}}\nend advance\n"


@cache
def derived(params):
    return {name: getattr(params, name) for name in ("request", "directory_entry", "leaf_entry", "owner_entry")}


def map_chunk(device, slot, number, chunk, *, owner=None, readable=1, leaf_base=0):
    """Map chunk `number` of a slot to `chunk`, by leaf ``leaf_base + entry`` of the directory."""
    p, tables = device.params, derived(device.params)
    entry, place = divmod(number, p.leaf_entries)
    leaf = leaf_base + entry
    values = (
        (ConfigOp.SET_DIRECTORY, slot, entry, tables["directory_entry"].pack_int(valid=1, leaf=leaf)),
        (ConfigOp.SET_LEAF, 0, leaf * p.leaf_entries + place, tables["leaf_entry"].pack_int(valid=1, chunk=chunk)),
    )
    for operation in values:
        assert device.configure(*operation) is ConfigRefusal.NONE
    if owner is not None:
        value = tables["owner_entry"].pack_int(valid=1, slot=owner, readable=readable)
        assert device.configure(ConfigOp.SET_OWNER, 0, chunk, value) is ConfigRefusal.NONE


def request_value(params=PARAMS, **changes):
    fields = {"program": 0, "length": 1, "tokens": 40, "first_entry": 4, "num_entries": 4, "last_query": 1} | changes
    return derived(params)["request"].pack_int(**fields)


def device_with(program, *, params=PARAMS, tokens=40, chunks=4, slot=1, **request):
    """A device whose slot has `program`, and chunks 10, 13, 16... of its own."""
    words = assemble(program) if isinstance(program, str) else program
    device = DpaDevice(params)
    for index, word in enumerate(words):
        assert device.configure(ConfigOp.WRITE_WORD, index=index, value=word) is ConfigRefusal.NONE
    value = request_value(params, **{"tokens": tokens, "length": max(1, len(words))} | request)
    assert device.configure(ConfigOp.SET_REQUEST, slot, value=value) is ConfigRefusal.NONE
    assert device.configure(ConfigOp.SET_SCALE, slot, value=SCALE) is ConfigRefusal.NONE
    for number in range(chunks):
        map_chunk(device, slot, number, 10 + 3 * number, owner=slot)
    return device


def run(program, *, slot=1, **options):
    device = device_with(program, slot=slot, **options)
    assert device.configure(ConfigOp.START, slot) is ConfigRefusal.NONE
    return device.run_next()


def word(opcode, **operands):
    return pack_word(Instruction(opcode=opcode, operands=operands))


def test_a_good_program_by_hand():
    device = device_with(GOOD, normalise=1, static_order=1)
    device.configure(ConfigOp.START, 1)
    outcome = device.run_next()
    s = {"slot": 1, "static_order": 1}
    assert (outcome.fault, outcome.instructions) == (Fault.NONE, 17)
    assert outcome.micro_ops == [
        MicroOp(kind=MicroKind.WR_QUERIES, buffer_entry=4, last_query=1, **s),
        MicroOp(kind=MicroKind.SOFTMAX, last_query=1, lines=20, last_keep=3, scale=SCALE, first=1, final=1, **s),
        MicroOp(kind=MicroKind.MAC_K, row=40, lines=16, **s),
        MicroOp(kind=MicroKind.RD_SCORES, lines=16, **s),
        MicroOp(kind=MicroKind.MAC_K, row=42, lines=4, **s),
        MicroOp(kind=MicroKind.RD_SCORES, lines=4, **s),
        MicroOp(kind=MicroKind.WR_PROBS, lines=16, **s),
        MicroOp(kind=MicroKind.MAC_V, row=41, lines=16, **s),
        MicroOp(kind=MicroKind.WR_PROBS, lines=4, **s),
        MicroOp(kind=MicroKind.MAC_V, row=43, lines=4, **s),
        MicroOp(kind=MicroKind.RD_SUMS, first=1, final=1, **s),
        MicroOp(kind=MicroKind.MERGE, buffer_entry=4, last_query=1, first=1, final=1, normalise=1, **s),
        MicroOp(kind=MicroKind.END, **s),
    ]
    assert (device.slots[1].tokens, device.slots[1].programs_done, device.slots[1].pending) == (41, 1, 0)


def test_segments_know_whether_they_are_first_and_final():
    outcome = run(GOOD, tokens=257, chunks=5)
    begun = [m for m in outcome.micro_ops if m.kind is MicroKind.SOFTMAX]
    assert [(m.first, m.final, m.lines, m.last_keep) for m in begun] == [(1, 0, 64, 3), (0, 0, 64, 3), (0, 1, 1, 1)]
    assert [m.row for m in outcome.micro_ops if m.kind is MicroKind.MAC_V][-1] == 22 * 4 + 1


def segments(body=SEGMENT_BODY, before="", kind="segments"):
    return f"movi x2, 1\n{before}wr_inp queries, x0 += 2\nloop {kind} {{\n{body}\n}}\nend\n"


FAULTS = [
    (Fault.WATCHDOG, "loop 65535 {\nnop\n}\nend", {}, 1),
    (Fault.PC, "nop\nnop", {}, 2),
    (Fault.PC, "loop 2 {\nnop\n}", {}, 2),
    (Fault.BAD_OPCODE, ".word 0\nend", {}, 0),
    (Fault.BAD_OPCODE, "nop\n.word 12\nend", {}, 1),
    (Fault.RESERVED, [2 | 1 << 6], {}, 0),
    (Fault.RESERVED, [word(Opcode.LOOP, kind=1, length=1) | 1 << 8, 2, 1], {}, 0),
    (Fault.RESERVED, [word(Opcode.WR_INP, what=1) | 1 << 20, 1], {}, 0),
    (Fault.REGISTER, "movi x4, 0\nend", {"num_registers": 4}, 0),
    (Fault.REGISTER, "addi x0, x7, 0\nend", {"num_registers": 4}, 0),
    (Fault.LOOP, "loop 1 {\n" * 5 + "nop\n" + "}\n" * 5 + "end", {}, 4),
    (Fault.LOOP, "loop 1 {\n" * 4 + "loop 0 {\nnop\n}\n" + "}\n" * 4 + "end", {}, 4),
    (Fault.LOOP, [word(Opcode.LOOP, count=1), 1], {}, 0),
    (Fault.LOOP, [word(Opcode.LOOP, count=1, length=2), 1], {}, 0),
    (Fault.LOOP, [word(Opcode.LOOP, count=1, length=2), word(Opcode.LOOP, count=1, length=2), 2, 2, 1], {}, 1),
    (Fault.LOOP, [word(Opcode.LOOP, kind=3, length=1), 2, 1], {}, 0),
    (Fault.LOOP, "loop rows {\nnop\n}\nend", {}, 0),
    (Fault.LOOP, "loop segments {\nloop segments {\nnop\n}\n}\nend", {}, 1),
    (Fault.ORDER, "softmax\nend", {}, 0),
    (Fault.ORDER, "rd_out sums\nend", {}, 0),
    (Fault.ORDER, "wr_inp queries, x0\nbarrier\nend", {}, 1),
    (Fault.ORDER, "wr_inp queries, x0\nend", {}, 1),
    (Fault.ORDER, "wr_inp queries, x0\nsoftmax\nend", {}, 1),
    (Fault.ORDER, segments(kind="1"), {}, 3),
    (Fault.ORDER, segments("softmax\nmac lane, x1"), {}, 4),
    (Fault.ORDER, segments("softmax\nmac tree, x1\nrd_out scores\nmac lane, x1"), {"tokens": 20}, 6),
    (Fault.ORDER, segments("softmax\nmac tree, x1\nrd_out scores\nmac tree, x1\nrd_out sums"), {}, 7),
    (Fault.ORDER, segments(SEGMENT_BODY + "addi x3, x3, 2\n"), {"tokens": 129}, 11),
    (Fault.ORDER, segments("loop 2 {\n" + SEGMENT_BODY + "}"), {"tokens": 129}, 4),
    (Fault.BAD_ENTRY, "movi x0, 2\nwr_inp queries, x0\nend", {"num_entries": 3}, 1),
    (Fault.BAD_ENTRY, "movi x0, 4\nwr_inp queries, x0\nend", {}, 1),
    (Fault.BAD_ENTRY, "movi x0, 1\nwr_inp queries, x0\nend", {}, 1),
    (Fault.BAD_ENTRY, "movi x0, -2\nwr_inp queries, x0\nend", {}, 1),
    (Fault.BAD_ENTRY, segments(before="movi x3, 3\n"), {}, 12),
    (Fault.UNMAPPED, segments(before="movi x1, 16\n"), {}, 6),
    (Fault.UNMAPPED, segments(before="movi x1, 63\n"), {}, 6),
    (Fault.UNMAPPED, segments(before="movi x1, 64\n"), {}, 6),
    (Fault.UNMAPPED, segments(before="movi x1, -1\n"), {}, 6),
    (Fault.UNMAPPED, segments(before="movi x2, 16\n"), {}, 10),
    (Fault.TOKENS, "end advance", {"tokens": (1 << 24) - 1}, 0),
]


@pytest.mark.parametrize(("fault", "program", "options", "pc"), FAULTS)
def test_faults(fault, program, options, pc):
    options = dict(options)
    if "num_registers" in options:
        options["params"] = replace(PARAMS, num_registers=options.pop("num_registers"))
    device = device_with(program, **options)
    before = device.slots[1].tokens
    assert [device.configure(ConfigOp.START, 1) for _ in range(2)] == [ConfigRefusal.NONE] * 2
    outcome = device.run_next()
    assert (outcome.fault, outcome.fault_pc, outcome.micro_ops) == (fault, pc, [])
    chosen = device.slots[1]
    assert (chosen.state, chosen.pending, chosen.fault_pc) == (SlotState.FAULTED, 0, pc)
    assert (chosen.tokens, chosen.programs_done) == (before, 0)
    assert device.run_next() is None
    assert device.configure(ConfigOp.START, 1) is ConfigRefusal.NOT_READY


def test_every_fault_has_a_program():
    assert {fault for fault, *_ in FAULTS} | {Fault.NONE, Fault.PERMISSION} == set(Fault)


SMALL = replace(PARAMS, num_registers=4, watchdog=2)
PRIORITIES = [
    (Fault.WATCHDOG, "nop\nnop", {"params": SMALL}),
    (Fault.WATCHDOG, "nop\nnop\n.word 0", {"params": SMALL}),
    (Fault.RESERVED, [word(Opcode.MOVI, rd=7) | 1 << 63], {"params": SMALL}),
    (Fault.RESERVED, [5 | 3 << 6 | 1 << 8], {}),
    (Fault.RESERVED, [word(Opcode.LOOP, kind=2, length=0) | 1 << 8], {}),
    (Fault.RESERVED, [word(Opcode.WR_INP, what=1) | 7 << 7], {"params": SMALL}),
    (Fault.RESERVED, [word(Opcode.MERGE) | 1 << 63], {}),
    (Fault.REGISTER, "mac tree, x7", {"params": SMALL}),
    (Fault.REGISTER, "wr_inp queries, x7", {"params": SMALL}),
    (Fault.ORDER, "movi x1, 3\nmerge x1", {}),
    (Fault.ORDER, "movi x1, 99\nmac tree, x1", {}),
    (Fault.ORDER, "wr_inp queries, x0\nmovi x0, 1\nwr_inp queries, x0", {}),
    (Fault.ORDER, segments(SEGMENT_BODY + "addi x3, x3, 1\n"), {"tokens": 129}),
    (Fault.ORDER, "wr_inp queries, x0\nend advance", {"tokens": (1 << 24) - 1}),
]


@pytest.mark.parametrize(("fault", "program", "options"), PRIORITIES)
def test_the_first_fault_wins(fault, program, options):
    assert run(program, **options).fault is fault


def test_permission():
    """The chunk has no owner, another slot's, or is unreadable; the row is reported."""
    for owner, readable in ((None, 1), (0, 1), (2, 1), (1, 0)):
        device = device_with(GOOD, chunks=0)
        map_chunk(device, 1, 0, 10, owner=owner, readable=readable)
        device.configure(ConfigOp.START, 1)
        outcome = device.run_next()
        assert (outcome.fault, outcome.fault_pc, outcome.fault_row) == (Fault.PERMISSION, 5, 0)
        assert outcome.micro_ops == []
        assert device.slots[1].fault_row == 0
    device = device_with(GOOD, chunks=1, tokens=100)
    map_chunk(device, 1, 1, 13, owner=2)
    device.configure(ConfigOp.START, 1)
    assert device.run_next().fault_row == 4


def test_a_row_beyond_what_exists_is_told_whole():
    outcome = run(segments(before="movi x1, -1\n"))
    assert (outcome.fault, outcome.fault_row) == (Fault.UNMAPPED, 0xFFFFFFFF)


def test_loops_count_zero_nest_and_wrap():
    program = "loop 0 {\nloop 3 {\n.word 0\n}\n}\nloop 2 {\nloop 3 {\naddi x1, x1, -1\n}\nloop 0 {\nnop\n}\n}\nend"
    outcome = run(program)
    assert (outcome.fault, outcome.instructions) == (Fault.NONE, 1 + 1 + 2 * (1 + 3 + 1) + 1)
    assert [m.kind for m in outcome.micro_ops] == [MicroKind.END]
    assert run("loop 9 {\nend advance\n}").instructions == 2


def test_registers_start_at_zero_each_time_and_tokens_advance():
    device = device_with(GOOD, tokens=127)
    for step in range(3):
        device.configure(ConfigOp.START, 1)
        outcome = device.run_next()
        rows = [m.row for m in outcome.micro_ops if m.kind is MicroKind.MAC_K]
        assert rows[0] == 40
        assert len(rows) == 4 + (step == 2)
        assert device.slots[1].tokens == 128 + step


def test_round_robin_and_pending_starts():
    device = device_with("end", slot=0)
    for slot in (1, 2):
        device.configure(ConfigOp.SET_REQUEST, slot, value=request_value())
        device.configure(ConfigOp.SET_SCALE, slot, value=SCALE)
    for slot in (0, 0, 2, 2, 1):
        assert device.configure(ConfigOp.START, slot) is ConfigRefusal.NONE
    assert [device.run_next().slot for _ in range(5)] == [0, 1, 2, 0, 2]
    assert device.run_next() is None
    assert [s.programs_done for s in device.slots] == [2, 1, 2]
    starts = [device.configure(ConfigOp.START, 0) for _ in range(MAX_PENDING + 1)]
    assert starts == [ConfigRefusal.NONE] * MAX_PENDING + [ConfigRefusal.FULL]


def test_a_faulted_slot_leaves_the_others_alone_and_can_be_released():
    device = device_with("end", slot=0)
    device.configure(ConfigOp.SET_REQUEST, 2, value=request_value(program=63))
    device.configure(ConfigOp.SET_SCALE, 2, value=SCALE)
    for slot in (0, 2):
        device.configure(ConfigOp.START, slot)
    assert [device.run_next().fault for _ in range(2)] == [Fault.NONE, Fault.BAD_OPCODE]
    assert device.configure(ConfigOp.SET_REQUEST, 2, value=request_value()) is ConfigRefusal.NONE
    assert device.slots[2].state is SlotState.FAULTED
    assert device.configure(ConfigOp.RELEASE, 2) is ConfigRefusal.NONE
    assert device.slots[2].state is SlotState.EMPTY
    assert device.configure(ConfigOp.SET_SCALE, 2, value=SCALE) is ConfigRefusal.NONE
    assert device.slots[2].state is SlotState.EMPTY
    assert device.configure(ConfigOp.SET_REQUEST, 2, value=request_value()) is ConfigRefusal.NONE
    assert device.slots[2].state is SlotState.READY


R = ConfigRefusal
REFUSALS = [
    (0, 0, 0, 0, R.BAD_OP),
    (9, 0, 0, 0, R.BAD_OP),
    (ConfigOp.WRITE_WORD, 0, 64, 0, R.RANGE),
    (ConfigOp.SET_REQUEST, 3, 0, request_value(), R.RANGE),
    (ConfigOp.SET_REQUEST, 1, 0, request_value(), R.BUSY),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(length=0), R.BAD_VALUE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(program=60, length=5), R.BAD_VALUE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(program=60, length=4), R.NONE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(tokens=0), R.BAD_VALUE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(num_entries=0), R.BAD_VALUE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(first_entry=3), R.BAD_VALUE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(first_entry=12, num_entries=5), R.BAD_VALUE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(first_entry=12, num_entries=4), R.NONE),
    (ConfigOp.SET_REQUEST, 0, 0, request_value(last_query=2), R.BAD_VALUE),
    (ConfigOp.SET_SCALE, 3, 0, SCALE, R.RANGE),
    (ConfigOp.SET_SCALE, 1, 0, SCALE, R.BUSY),
    *((ConfigOp.SET_SCALE, 0, 0, bits, R.BAD_VALUE) for bits in (0, 0x7FFFFF, 0x7F800000, 0x7FC00000, 0xBF000000)),
    *((ConfigOp.SET_SCALE, 0, 0, bits, R.NONE) for bits in (0x800000, 0x7F7FFFFF)),
    (ConfigOp.SET_DIRECTORY, 3, 0, 0, R.RANGE),
    (ConfigOp.SET_DIRECTORY, 0, 4, 0, R.RANGE),
    (ConfigOp.SET_DIRECTORY, 1, 0, 0, R.BUSY),
    (ConfigOp.SET_LEAF, 0, 32, 0, R.RANGE),
    (ConfigOp.SET_LEAF, 0, 31, 1 | PARAMS.num_chunks << 1, R.RANGE),
    (ConfigOp.SET_LEAF, 0, 31, 1 | (PARAMS.num_chunks - 1) << 1, R.NONE),
    (ConfigOp.SET_OWNER, 0, PARAMS.num_chunks, 0, R.RANGE),
    (ConfigOp.SET_OWNER, 0, 0, 1 | 3 << 1, R.RANGE),
    (ConfigOp.START, 3, 0, 0, R.RANGE),
    (ConfigOp.START, 0, 0, 0, R.NOT_READY),
    (ConfigOp.RELEASE, 3, 0, 0, R.RANGE),
    (ConfigOp.RELEASE, 1, 0, 0, R.BUSY),
]


@pytest.mark.parametrize(("op", "slot", "index", "value", "refusal"), REFUSALS)
def test_configuration_refusals(op, slot, index, value, refusal):
    device = device_with("end", slot=1)
    device.configure(ConfigOp.START, 1)
    before = sum(device.interventions.values())
    assert device.configure(op, slot, index, value) is refusal
    assert sum(device.interventions.values()) == before + (refusal is R.NONE)
    assert device.run_next().fault is Fault.NONE


def test_a_leaf_that_does_not_exist_is_refused():
    device = DpaDevice(replace(PARAMS, num_leaves=6))
    assert device.configure(ConfigOp.SET_DIRECTORY, 0, 0, 1 | 6 << 1) is R.RANGE
    assert device.configure(ConfigOp.SET_DIRECTORY, 0, 0, 1 | 5 << 1) is R.NONE
    with pytest.raises(ParameterError, match="value must be 64 bits wide"):
        device.configure(ConfigOp.WRITE_WORD, value=1 << 64)


# Each line brings the sequence to its next state; the first state is IDLE. 20 tokens are one row step.
STATES = (
    "wr_inp queries, x0",
    "softmax",
    "mac tree, x1",
    "rd_out scores",
    "wr_inp probs",
    "mac lane, x2",
    "rd_out sums",
)


@pytest.mark.parametrize("owner", [None, 0, 2])
@pytest.mark.parametrize("opcode", list(Opcode))
def test_no_opcode_reaches_foreign_chunks(opcode, owner):
    """Every opcode, in every state, with every register at a foreign row: no such row is issued, MAC faults."""
    foreign, refused = 8, 0
    pointing = assemble("\n".join(f"movi x{r}, {foreign}" for r in range(8)))
    for state in range(len(STATES) + 1):
        for choice in (0, 1):
            operands = {name: choice for name in INSTRUCTIONS[opcode].choices if name != "kind"}
            if opcode is Opcode.LOOP:
                operands = {"count": 2, "length": 1}
            register = {} if operands.get("what") == 1 else {f: 3 for f in ("rs",) if "rs" in _operands(opcode)}
            body = [*assemble("\n".join(STATES[:state])), *pointing, word(opcode, **operands, **register), 2]
            program = [word(Opcode.LOOP, kind=1, length=len(body)), *body, *assemble("end")]
            device = device_with(program, chunks=2, tokens=20)
            map_chunk(device, 1, 2, 20, owner=owner)
            device.configure(ConfigOp.START, 1)
            outcome = device.run_next()
            assert all(m.row // PARAMS.chunk_rows != 20 for m in outcome.micro_ops)
            assert not (outcome.fault and outcome.micro_ops)
            if outcome.fault is Fault.PERMISSION:
                assert (opcode, outcome.fault_row) == (Opcode.MAC, foreign)
                refused += 1
    assert refused == (2 if opcode is Opcode.MAC else 0)


def _operands(opcode):
    return {f.name for f in INSTRUCTIONS[opcode].operands}


def test_what_came_before_a_foreign_row_is_not_issued_either():
    own = GOOD.replace("end advance\n", "")
    program = assemble(f"nop\nbarrier\naddi x1, x1, 0\n{own}movi x1, 8\n{own}end")
    device = device_with(program, chunks=2, tokens=20)
    map_chunk(device, 1, 2, 20, owner=0)
    device.configure(ConfigOp.START, 1)
    outcome = device.run_next()
    assert (outcome.fault, outcome.fault_row, outcome.micro_ops) == (Fault.PERMISSION, 8, [])
    assert {split_word(given).opcode for given in program} == set(Opcode)
    device.configure(ConfigOp.RELEASE, 1)
    assert device.slots[1].tokens == 0


def test_both_macs_fault_at_foreign_chunks():
    for mode, foreign in (("tree", "x1"), ("lane", "x2")):
        device = device_with(
            segments(before=f"movi {foreign}, 8\n").replace("movi x2, 1\n", "", 1), chunks=2, tokens=20
        )
        map_chunk(device, 1, 2, 20, owner=0)
        device.configure(ConfigOp.START, 1)
        outcome = device.run_next()
        assert (outcome.fault, outcome.fault_row, outcome.micro_ops) == (Fault.PERMISSION, 8, []), mode


WORDS = st.one_of(
    st.sampled_from(assemble(GOOD)),
    st.integers(0, 2**64 - 1),
    st.builds(lambda code, rest: code | rest << 6, st.integers(1, 11), st.integers(0, 2**30)),
    st.builds(lambda r, n: word(Opcode.MOVI, rd=r, imm=n), st.integers(0, 4), st.integers(0, 70)),
    st.builds(lambda c, n: word(Opcode.LOOP, count=c, length=n), st.integers(0, 65535), st.integers(1, 9)),
)


@st.composite
def programs(draw):
    """The good program with words replaced and inserted, or garbage."""
    words = assemble(GOOD) if draw(st.booleans()) else []
    for at, given_word in draw(st.lists(st.tuples(st.integers(0, 20), WORDS), max_size=12)):
        words[min(at, len(words)) : min(at, len(words)) + draw(st.integers(0, 1))] = [given_word]
    return words or [0]


@settings(max_examples=300, deadline=None)
@given(programs(), st.integers(1, 300), st.lists(st.tuples(st.integers(0, 31), st.integers(0, 12)), max_size=24))
def test_random_programs_end_and_stay_with_their_own(program, tokens, table):
    device = device_with(program, tokens=tokens, chunks=3)
    for number in range(13):  # slot 0 owns all chunks but 1's, and slot 1's table may point anywhere
        if device.owners[number] is None:
            device.configure(ConfigOp.SET_OWNER, 0, number, PARAMS.owner_entry.pack_int(valid=1, slot=0, readable=1))
    for index, chunk in table:
        device.configure(ConfigOp.SET_LEAF, 0, index, PARAMS.leaf_entry.pack_int(valid=1, chunk=chunk))
    device.configure(ConfigOp.START, 1)
    outcome = device.run_next()
    assert outcome.instructions <= PARAMS.watchdog
    assert bool(outcome.fault) != bool(outcome.micro_ops)
    for m in outcome.micro_ops:
        if m.kind in (MicroKind.MAC_K, MicroKind.MAC_V):
            assert device.owners[m.row // PARAMS.chunk_rows] == (1, True)
        if m.kind in (MicroKind.WR_QUERIES, MicroKind.MERGE):
            assert m.buffer_entry in (4, 6)
        assert m.slot == 1


def test_garbage_never_runs_for_ever(count_vectors):
    rng = np.random.default_rng(4)
    seen, programs_run = set(), 2000
    for _ in range(programs_run):
        words = rng.integers(0, 2**63, 8).tolist()
        keep = rng.integers(0, 2, 8)
        # Half of the words have legal opcodes and few operand bits, so that some loops are real.
        words = [w if k else 1 + w % 11 | (w >> 8 & 0x7F0FF) << 6 for w, k in zip(words, keep, strict=True)]
        outcome = run(words, params=replace(PARAMS, watchdog=200), chunks=0)
        assert outcome.instructions <= 200
        seen.add(outcome.fault)
    assert {Fault.BAD_OPCODE, Fault.RESERVED, Fault.ORDER, Fault.LOOP} <= seen
    count_vectors("DPA programs of garbage that end", programs_run)
