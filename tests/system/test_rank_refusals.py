"""Refusals of a rank: each kind of request is counted, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimsim.rank.bus_commands import BusCommands
from pimspec.attention.placement import BurstWrites, KvKind, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram.commands import Command
from pimspec.golden.attention import attention_partial
from pimspec.golden.merge import normalise
from pimspec.hostif.window import ControlOp, Refusal
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
WINDOW = TINY.window
LINE, ORG = TINY.line_bytes, TINY.organization
STEP_TOKENS = TINY.row_lines * TINY.num_chips
GOOD = {"k_row": 0, "v_row": 4, "tokens": 100, "last_query": 1, "query": 2, "output": 6, "scale": 0x3EB8AA3B}
FUZZ_ROWS = 12


def all_cells(rows):
    """Addresses of every column access of these rows."""
    bank, row, column = (x.ravel() for x in np.meshgrid(range(4), rows, range(16), indexing="ij"))
    data = np.zeros((len(bank), TINY.num_chips, ORG.column_access_bytes), np.uint8)
    group, index = np.divmod(bank, ORG.banks_per_group)
    return BurstWrites(np.zeros_like(bank), group, index, row, column * ORG.burst_length, np.full_like(bank, 3), data)


def vectors_in_cells(sim, row, tokens, kind):
    """K or V as the chips hold it, shape (1, tokens, head_dim)."""
    shape = AttentionShape(num_q_heads=1, num_kv_heads=1, head_dim=TINY.head_dim)
    region = KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(row, row + -(-tokens // STEP_TOKENS)))
    where = KvPlacement(organization=ORG, shape=shape, mapping=TOKEN_PER_CHIP, regions=[region])
    numbers = np.arange(tokens * TINY.head_dim, dtype=np.uint16).reshape(1, tokens, -1)
    writes = where.writes(0, kind, 0, numbers)
    index, cells = (np.ascontiguousarray(x).view("<u2") for x in (writes.data, sim.port.peek(writes)))
    there = (writes.chip_mask[:, None] >> np.arange(TINY.num_chips) & 1).astype(bool)
    words = np.zeros(numbers.size, np.uint16)
    words[index[there].ravel()] = cells[there].ravel()
    return words.reshape(numbers.shape)


def golden(sim, given, queries):
    """Outputs and statistics of a descriptor on the present contents of the cells."""
    tokens, first = given["tokens"], given["query"]
    k = vectors_in_cells(sim, given["k_row"], tokens, KvKind.K)
    v = vectors_in_cells(sim, given["v_row"], tokens, KvKind.V)
    q = queries[None, first : first + given["last_query"] + 1]
    part = attention_partial(q, k, v, given["scale"], TINY.attention_order())
    out = normalise(part, TINY.format) if given.get("normalise", 1) else part.o
    return out[0], np.stack([part.m[0], part.l[0]], axis=1)


def expected_refusal(given, extra=0):
    """Expected refusal, according to the register map."""
    rows = -(-given["tokens"] // STEP_TOKENS)
    k, v = (range(given[row], given[row] + rows) for row in ("k_row", "v_row"))
    exponent = given["scale"] >> 23 & 0xFF
    if extra:
        return Refusal.RESERVED
    if given["tokens"] == 0:
        return Refusal.BAD_TOKENS
    if k.stop > WINDOW.first_row or v.stop > WINDOW.first_row or (k.start < v.stop and v.start < k.stop):
        return Refusal.BAD_ROWS
    if (
        given["last_query"] >= TINY.queries_at_once
        or given["query"] % TINY.queries_at_once
        or given["output"] % TINY.queries_at_once
    ):
        return Refusal.BAD_QUERIES
    if given["scale"] >> 31 or exponent in (0, 255):
        return Refusal.BAD_SCALE
    return Refusal.NONE


def descriptor_line(sim, given, extra=0):
    word = sim.codec.packed(WINDOW.descriptor, vars(Descriptor(**given)))
    return (int.from_bytes(word, "little") | extra << WINDOW.descriptor.width).to_bytes(LINE, "little")


class Bench:
    """A rank with known cells and queries, none of which a refused request may change."""

    def __init__(self, sim, seed):
        self.sim, self.rng = sim, np.random.default_rng(seed)
        self.cells = all_cells([*range(FUZZ_ROWS), 1000, WINDOW.first_row - 1, *range(WINDOW.first_row, ORG.rows)])
        bits = self.rng.standard_normal((*self.cells.data.shape[:2], 4)).astype(np.float16)
        data = np.ascontiguousarray(bits).view(np.uint8)
        self.cells = self.cells._replace(data=data)
        sim.port.poke(self.cells)
        self.queries = self.rng.standard_normal((TINY.queries, TINY.head_dim)).astype(np.float16).view(np.uint16)
        sim.write_queries(0, self.queries)
        sim.finish_writes()
        self.done = 0

    def attend(self, text, **changes):
        """A good descriptor gives the results of the golden model."""
        given = GOOD | changes
        self.sim.submit(Descriptor(**given))
        self.check_result(given, text)

    def check_result(self, given, text):
        self.sim.finish_writes()
        self.done += 1
        self.sim.run(400_000, until_finished=self.done)
        assert len(self.sim.finished) == self.done, f"not finished: {given}, {text}"
        outputs, statistics = golden(self.sim, given, self.queries)
        got = self.sim.read_outputs(given["output"], given["last_query"] + 1)
        np.testing.assert_array_equal(got, outputs, f"{given}, {text}")
        got = self.sim.read_statistics(given["output"], given["last_query"] + 1)
        np.testing.assert_array_equal(got, statistics, f"{given}, {text}")

    def check_refused(self, why, text, count=1):
        """The refusal is counted and reported, without any other effect; then it is cleared."""
        status = self.sim.status()
        assert (status.refused, status.refusal) == (count, why), f"{status}, {text}"
        assert (status.busy, status.queued, status.done, status.chip) == (0, 0, self.done, 0), f"{status}, {text}"
        np.testing.assert_array_equal(self.sim.port.peek(self.cells), self.cells.data, text)
        self.sim.control(ControlOp.CLEAR)
        status = self.sim.status()
        assert (status.refused, status.refusal) == (0, 0), f"after CLEAR: {status}, {text}"


BAD_DESCRIPTORS = {
    "no token": ({"tokens": 0}, Refusal.BAD_TOKENS),
    "k reaches the window": ({"k_row": WINDOW.first_row - 3}, Refusal.BAD_ROWS),
    "v reaches the window": ({"v_row": WINDOW.first_row - 3}, Refusal.BAD_ROWS),
    "k in the window": ({"k_row": ORG.rows - 1}, Refusal.BAD_ROWS),
    "v beyond the bank": ({"v_row": ORG.rows - 1, "tokens": 300}, Refusal.BAD_ROWS),
    "tokens beyond the bank": ({"tokens": (1 << 24) - 1}, Refusal.BAD_ROWS),
    "k is v": ({"v_row": 0}, Refusal.BAD_ROWS),
    "k ends in v": ({"v_row": 3}, Refusal.BAD_ROWS),
    "v ends in k": ({"k_row": 7}, Refusal.BAD_ROWS),
    "three queries": ({"last_query": 2}, Refusal.BAD_QUERIES),
    "sixteen queries": ({"last_query": 15}, Refusal.BAD_QUERIES),
    "query misaligned": ({"query": 3}, Refusal.BAD_QUERIES),
    "output misaligned": ({"output": 1}, Refusal.BAD_QUERIES),
    "scale 0": ({"scale": 0}, Refusal.BAD_SCALE),
    "scale -0": ({"scale": 1 << 31}, Refusal.BAD_SCALE),
    "scale negative": ({"scale": 0xBEB8AA3B}, Refusal.BAD_SCALE),
    "scale subnormal": ({"scale": 0x7FFFFF}, Refusal.BAD_SCALE),
    "scale infinite": ({"scale": 0x7F800000}, Refusal.BAD_SCALE),
    "scale nan": ({"scale": 0x7FC00001}, Refusal.BAD_SCALE),
}
GOOD_AT_THE_EDGE = [
    {"k_row": WINDOW.first_row - 4, "v_row": 0},
    {"v_row": 4, "tokens": 128},
    {"k_row": 4, "v_row": 0, "tokens": 128},
    {"scale": 0x00800000},
    {"scale": 0x7F7FFFFF, "normalise": 0},
    {"scale": 0x3F7FFFFF},
    {"scale": 0x3F800000},  # 1.0
    {"scale": 0x3FFFFFFF},
    {"scale": 0x40000000},  # 2.0: the first exponent with its highest bit set
    {"scale": 0x407F5C29},  # 3.99
    {"scale": 0x40800000},
]


@pytest.mark.parametrize("owner", [0, 1])
def test_bad_descriptors(owner):
    with open_rank(TINY) as sim:
        bench = Bench(sim, 1)
        if owner:
            sim.take()
            bench.attend("before")
        for name, (changes, why) in BAD_DESCRIPTORS.items():
            assert expected_refusal(GOOD | changes) == why, name
            sim.submit(Descriptor(**(GOOD | changes)))
            bench.check_refused(why, name)
        for bit in (0, 1, 7, LINE * 8 - WINDOW.descriptor.width - 1):
            sim.write_window(1, [descriptor_line(sim, GOOD, 1 << bit)])
            bench.check_refused(Refusal.RESERVED, f"descriptor bit {bit}")
        if not owner:
            sim.take()
        for changes in GOOD_AT_THE_EDGE:
            bench.attend("at the edge", **changes)
        assert sim.status().refused == 0


def lines_outside(read):
    """Lines that no region has, or that cannot be read (or written)."""
    regions = WINDOW.regions
    allowed = ("reads", "outputs", "statistics") if read else ("queries", "append")
    good = {line for name in allowed for line in range(regions[name].base, regions[name].base + regions[name].size)}
    return sorted(set(range(WINDOW.rows * WINDOW.lines_per_row)) - good - ({0, 3} if read else {0, 1}))


@pytest.mark.parametrize("owner", [0, 1])
def test_window_accesses(owner):
    """Every line that cannot be read or written; masked writes; control words that do not exist or not now."""
    with open_rank(TINY) as sim:
        bench = Bench(sim, 2)
        if owner:
            sim.take()
        for line in lines_outside(read=True):
            assert sim.read_window(line) == [bytes(LINE)]
            bench.check_refused(Refusal.OUTSIDE, f"read of line {line}")
        for line in lines_outside(read=False):
            sim.write_window(line, [bench.rng.bytes(LINE)])
            bench.check_refused(Refusal.OUTSIDE, f"write of line {line}")
        for line in (0, 1, WINDOW.regions["queries"].base, WINDOW.regions["append"].base, 5):
            for mask in (1, 1 << (LINE - 1), (1 << LINE) - 1):
                sim.write_window(
                    line,
                    [
                        sim.codec.packed(
                            WINDOW.control, dict.fromkeys(("entry", "bank", "row", "column"), 0) | {"op": 1}
                        )
                    ],
                    mask=mask,
                )
                bench.check_refused(Refusal.MASKED, f"write of line {line}, mask {mask:#x}")
        never = [0, *range(max(ControlOp) + 1, 16)]
        for op in never + ([ControlOp.TAKE] if owner else [ControlOp.RELEASE, ControlOp.READ]):
            sim.control(op)
            bench.check_refused(Refusal.BAD_OP, f"control word {op}")
        for bit in range(WINDOW.control.width, LINE * 8, 9):
            for op in (ControlOp.TAKE, ControlOp.RELEASE, ControlOp.READ, ControlOp.CLEAR):
                sim.write_window(0, [(int(op) | 1 << bit).to_bytes(LINE, "little")])
                bench.check_refused(Refusal.RESERVED, f"control word {op.name} with bit {bit}")
        if owner:
            for row in (WINDOW.first_row, ORG.rows - 1):
                sim.control(ControlOp.READ, row=row)
                bench.check_refused(Refusal.OUTSIDE, f"split read of row {row}")
            assert sim.read_columns(2, 1000, [3]) == [bytes(LINE)]
            bench.check_refused(Refusal.DATA_READ, "read of a data row")
        assert sim.status().owner == owner
        if not owner:
            sim.take()
        bench.attend("after")


@pytest.mark.parametrize("owner", [0, 1])
def test_column_commands_to_a_closed_bank(owner):
    with open_rank(TINY) as sim:
        bench = Bench(sim, 3)
        if owner:
            sim.take()
        for code in (Command.RD, Command.WR):
            for bank in range(TINY.num_banks):
                sim.memory.close_all()
                sim.settle()
                BusCommands(sim.port).give(code, 40, bank=bank, column=1)
                sim.finish_writes()
                sim.run(20)
                if code is Command.RD:
                    assert sim.port.lines_read() == [bytes(LINE)]
                bench.check_refused(Refusal.ROW_CLOSED, f"{code.name} in bank {bank}")
        if not owner:
            sim.take()
        bench.attend("after")


def test_take_while_a_row_is_open():
    with open_rank(TINY) as sim:
        bench = Bench(sim, 4)
        for bank in range(1, TINY.num_banks):
            sim.memory.close_all()
            sim.settle()
            BusCommands(sim.port).give(Command.ACT, 30, bank=bank, row=1000)
            sim.settle()
            sim.control(ControlOp.TAKE)
            BusCommands(sim.port).give(Command.PREpb, 60, bank=bank)
            sim.settle()
            bench.check_refused(Refusal.BAD_OP, f"TAKE while a row is open in bank {bank}")
            assert not sim.status().owner
        sim.memory.close_all()
        sim.settle()
        BusCommands(sim.port).give(Command.ACT, 30, bank=1, row=WINDOW.first_row)  # a row of the window may be open
        sim.settle()
        sim.control(ControlOp.TAKE)
        sim.pim_owns, sim.memory.refreshing = True, False
        BusCommands(sim.port).give(Command.PREpb, 60, bank=1)
        sim.settle()
        assert sim.status().owner
        bench.attend("after")


def test_full_queues():
    """Before the take-over, only as many descriptors leave the queue as the stages hold."""
    with open_rank(TINY) as sim:
        bench = Bench(sim, 5)
        line = descriptor_line(sim, GOOD)
        given = 40
        for _ in range(given):
            sim.write_window(1, [line])
        status = sim.status()
        assert status.refusal == Refusal.QUEUE_FULL
        assert status.busy + status.refused == given
        assert TINY.descriptor_queue <= status.busy < given
        sim.take()
        bench.done = status.busy - 1
        bench.check_result(GOOD, "the last one")
        bench.check_refused(Refusal.QUEUE_FULL, "descriptors", status.refused)
        bench.attend("after")


def random_descriptor(rng):
    """A descriptor that is often good, else with one or more fields at random."""
    given = {
        "k_row": int(rng.integers(FUZZ_ROWS // 2)),
        "v_row": int(rng.integers(FUZZ_ROWS // 2, FUZZ_ROWS)),
        "tokens": int(rng.integers(1, 200)),
        "last_query": int(rng.integers(2)),
        "query": int(rng.integers(8)) * 2,
        "output": int(rng.integers(8)) * 2,
        "scale": int(rng.integers(0x3D800000, 0x407F5C29)),
        "normalise": int(rng.integers(2)),
        "static_order": int(rng.integers(2)),
    }
    if rng.random() < 0.4:
        name = rng.choice(["k_row", "v_row", "last_query", "query", "output", "scale", "tokens"])
        given[name] = int(rng.integers(1 << {f.name: f.width for f in WINDOW.descriptor.fields}[name]))
        given["tokens"] = (
            given["tokens"] if given["tokens"] < 250 or given["tokens"] > 1 << 23 else given["tokens"] % 250
        )
    return given, int(rng.random() < 0.05) << int(rng.integers(20))


def fuzz(first, count):
    with open_rank(TINY) as sim:
        bench, accepted = Bench(sim, first), 0
        sim.take()
        for seed in range(first, first + count):
            given, extra = random_descriptor(np.random.default_rng(seed))
            sim.write_window(1, [descriptor_line(sim, given, extra)])
            why = expected_refusal(given, extra)
            if why is Refusal.NONE:
                accepted += 1
                bench.check_result(given, f"seed {seed}")
            else:
                bench.check_refused(why, f"seed {seed}: {given}, {extra:#x}")
        status = sim.status()
        assert (status.refused, status.chip, status.done) == (0, 0, accepted)
    return accepted


def test_random_descriptors():
    assert 100 < fuzz(0, 300) < 250


@pytest.mark.slow
def test_many_random_descriptors():
    fuzz(1000, 3000)


def test_garbage_on_the_window():
    """Random bits as descriptors and control words: the rank does not hang, and works afterwards."""
    with open_rank(TINY) as sim:
        bench = Bench(sim, 6)
        sim.take()
        for _ in range(200):
            word = int.from_bytes(bench.rng.bytes(LINE), "little") >> int(bench.rng.integers(LINE * 8))
            if bench.rng.random() < 0.5:
                if word & 15 in (ControlOp.RELEASE, ControlOp.CLEAR):
                    word ^= 8
                sim.write_window(0, [word.to_bytes(LINE, "little")])
            elif (word >> 36 & 0xFFFFFF) > 300 or word >> WINDOW.descriptor.width:  # long ones take too long
                sim.write_window(1, [(word | 1 << WINDOW.descriptor.width).to_bytes(LINE, "little")])
        sim.drain()
        assert sim.status().refused > 100
        bench.attend("after")
