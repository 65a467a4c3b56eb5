"""Parts of the buffer chip that take turns and count, against models of a few lines."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module, Signal, Value
from amaranth.sim import Simulator

from pimhw.host_side.chip_port import ChipPort
from pimhw.host_side.descriptor_check import DescriptorCheck
from pimhw.host_side.ownership import Ownership
from pimhw.sequencer.micro_op_arbiter import MicroOpArbiter
from pimhw.sequencer.sum_sets import SumSets
from pimhw.sequencer.task_arbiter import TaskArbiter
from pimhw.sequencer.work_tracker import WorkTracker
from pimspec.hostif.window import Refusal
from pimspec.isa import MicroKind
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
ONE = 0x3F800000


def clocks(dut, inputs, outputs, drive, count):
    """Run `count` clocks: `drive(k, outputs of the clock before)` gives the inputs of clock k; yields both."""
    rows = []

    async def bench(ctx):
        seen = {}
        for k in range(count):
            given = drive(k, seen)
            for name, value in given.items():
                ctx.set(Value.cast(inputs[name]), int(value))
            await ctx.delay(1e-9)
            seen = {name: ctx.get(Value.cast(signal)) for name, signal in outputs.items()}
            rows.append((given, seen))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return rows


class Clocked(Elaboratable):
    """A combinational component with a clock beside it, so that a bench can count in clocks."""

    def __init__(self, dut):
        self.dut = dut

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        m.d.sync += Signal(name="clocked").eq(1)
        return m


def offered(rng, stream, seen, name, share=0.5):
    """Whether a stream offers something: what was offered and not taken still is."""
    held = stream["valid"] and not seen[f"{name}_ready"]
    if not held:
        stream["valid"] = bool(rng.random() < share)
        stream["data"] = int(rng.integers(1 << 16))
    return stream


def test_a_bank_gets_tasks_of_host_and_rows_in_turn():
    dut, rng = TaskArbiter(params=TINY), np.random.default_rng(1)
    host, rows = {"valid": False, "data": 0}, {"valid": False, "data": 0}
    inputs = {
        "host": dut.host.valid, "host_row": dut.host.payload.row,
        "rows": dut.rows.valid, "rows_row": dut.rows.payload.row, "ready": dut.o.ready,
    }  # fmt: skip
    outputs = {
        "host_ready": dut.host.ready, "rows_ready": dut.rows.ready, "valid": dut.o.valid, "row": dut.o.payload.row,
        "of_host": dut.of_host,
    }  # fmt: skip
    mask = (1 << TINY.organization.row_bits) - 1

    def drive(k, seen):
        for stream, name in ((host, "host"), (rows, "rows")):
            if seen or k == 0:
                offered(rng, stream, seen or {f"{name}_ready": 0}, name, 0.7)
        return {
            "host": host["valid"], "host_row": host["data"] & mask,
            "rows": rows["valid"], "rows_row": rows["data"] & mask, "ready": rng.random() < 0.5,
        }  # fmt: skip

    before, both = None, 0
    for given, seen in clocks(dut, inputs, outputs, drive, 2000):
        assert seen["valid"] == (given["host"] or given["rows"])
        if not seen["valid"]:
            continue
        side = "host" if seen["of_host"] else "rows"
        assert given[side]
        assert seen["row"] == given[f"{side}_row"]
        assert seen["host_ready"] == (given["ready"] and side == "host")
        assert seen["rows_ready"] == (given["ready"] and side == "rows")
        if before is not None:  # what was offered stays
            assert (side, seen["row"]) == before
        before = None if given["ready"] else (side, seen["row"])
        both += given["host"] and given["rows"]
    assert both > 500


def test_two_waiting_sides_alternate():
    """The host's rows differ; a run of one row goes on for as long as RUN says, and then a task of the rows comes."""
    for same, turn in ((False, 1), (True, TaskArbiter.RUN)):
        dut = TaskArbiter(params=TINY)
        inputs = {"host": dut.host.valid, "row": dut.host.payload.row, "rows": dut.rows.valid, "ready": dut.o.ready}

        def drive(k, seen, same=same):
            return {"host": 1, "row": 5 if same else k % 7, "rows": 1, "ready": 1}

        rows = clocks(dut, inputs, {"of_host": dut.of_host}, drive, 4 * (turn + 1))
        assert [seen["of_host"] for _, seen in rows] == ([1] * turn + [0]) * 4


def test_descriptors_and_programs_take_turns_without_being_mixed():
    """Items of random length on both sides: each side waits for one item of the other at most, and keeps its order."""
    dut, rng = MicroOpArbiter(params=TINY), np.random.default_rng(2)
    inputs = {"begun": dut.begun, "ready": dut.o.ready}
    sides = {"ours": dut.descriptor, "theirs": dut.program}
    for name, side in sides.items():
        inputs |= {f"{name}_{f}": getattr(side.payload, f) for f in ("kind", "row", "final")} | {name: side.valid}
    outputs = {f"{name}_ready": side.ready for name, side in sides.items()}
    outputs |= {"valid": dut.o.valid, "row": dut.o.payload.row, "of_program": dut.of_program}
    last = {"ours": int(MicroKind.MERGE), "theirs": int(MicroKind.END)}
    left = dict.fromkeys(sides, 0)  # micro-ops of the item at hand
    begun, row = dict.fromkeys(sides, False), dict.fromkeys(sides, 0)
    waited, most, order = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0), []

    def drive(k, seen):
        crowded = k % 2000 < 1000  # both sides have items all the time, or now and then
        for name in sides:
            if seen and left[name] and seen[f"{name}_ready"]:
                other = "theirs" if name == "ours" else "ours"
                if not begun[name]:
                    order.append(name)
                    most[name], waited[name] = max(most[name], waited[name]), 0
                    waited[other] += left[other] > 0 and not begun[other]
                assert not begun[other]
                begun[name], row[name] = left[name] > 1, (row[name] + 1) % 16
                left[name] -= 1
            if not left[name] and (crowded or rng.random() < 0.1):
                left[name] = int(rng.integers(2, 6))
        given = {"begun": begun["ours"], "ready": bool(rng.random() < 0.7)}
        for name in sides:
            end = left[name] == 1
            given |= {name: left[name] > 0, f"{name}_kind": last[name] if end else int(MicroKind.MAC_K)}
            given |= {f"{name}_row": row[name], f"{name}_final": int(end)}
        return given

    for given, seen in clocks(dut, inputs, outputs, drive, 8000):
        turn, other = ("theirs", "ours") if seen["of_program"] else ("ours", "theirs")
        assert not seen[f"{other}_ready"]
        assert not seen[f"{turn}_ready"] or given["ready"]
        if seen["valid"]:
            assert seen["row"] == given[f"{turn}_row"]
    assert most == {"ours": 1, "theirs": 1}
    assert min(order.count(name) for name in sides) > 500


def test_sets_of_sums_are_taken_stand_and_are_freed_in_turn():
    dut, rng = SumSets(params=TINY), np.random.default_rng(3)
    inputs = {name: getattr(dut, name) for name in ("taken", "done", "done_set", "read", "release")}
    outputs = {name: getattr(dut, name) for name in ("free", "stand", "oldest")}
    banks = TINY.num_banks
    started, freed, done = 0, 0, [[], []]  # segments in order; banks that have done the last row, by set
    read = False

    def drive(k, seen):
        nonlocal started, freed, read
        given = dict.fromkeys(inputs, 0)
        if not seen:
            return given
        if started - freed < 2 and rng.random() < 0.3:
            given["taken"], started = 1, started + 1
        for bank in range(banks):  # a bank does its segments in order
            under_way = [n for n in range(freed, started) if bank not in done[n % 2]]
            if under_way and not given["taken"] and rng.random() < 0.2:
                given["done"] |= 1 << bank
                given["done_set"] |= (under_way[0] % 2) << bank
                done[under_way[0] % 2].append(bank)
        if read:
            given["release"], read = 1, False
            done[freed % 2].clear()
            freed += 1
        elif seen["stand"] and rng.random() < 0.5:
            given["read"] = 1
            read = True
        return given

    model_used = oldest = 0
    standing = [0, 0]
    stood = 0
    for given, seen in clocks(dut, inputs, outputs, drive, 3000):
        assert seen["free"] == (model_used < 2)
        assert seen["oldest"] == oldest
        assert seen["stand"] == (standing[oldest] == (1 << banks) - 1)
        stood += seen["stand"]
        for bank in range(banks):
            if given["done"] >> bank & 1:
                standing[given["done_set"] >> bank & 1] |= 1 << bank
        if given["read"]:
            standing[oldest] = 0
        model_used += given["taken"] - given["release"]
        oldest ^= given["release"]
    assert stood > 100


def test_work_is_counted_and_the_static_order_runs_alone():
    dut, rng = WorkTracker(params=TINY), np.random.default_rng(4)
    names = ("accepted", "begun", "of_program", "next_static_order", "started", "merged", "finished")
    inputs = {name: getattr(dut, name) for name in names}
    outputs = {name: getattr(dut, name) for name in ("busy", "done", "issuer_idle", "may_start", "static_order")}
    state = {"busy": 0, "heads": 0, "items": 0, "done": 0, "alone": 0, "next": 0}

    def drive(k, seen):
        given = dict.fromkeys(names, 0)
        given["next_static_order"] = state["next"]
        may = not (state["next"] or state["alone"]) or state["items"] == 0
        if may and state["items"] < 6 and rng.random() < 0.4:
            given["started"], state["next"] = 1, int(rng.random() < 0.3)
        given["accepted"] = int(rng.random() < 0.1)
        given["begun"] = int(rng.random() < 0.2)
        given["of_program"] = int(rng.random() < 0.5)
        if state["items"] and rng.random() < 0.3:
            given["merged"] = 1
            given["finished"] = int(state["heads"] > 0 and state["busy"] > 0 and rng.random() < 0.7)
        rows.append((dict(state), dict(given), may_start(state, given)))
        state["busy"] += given["accepted"] + (given["begun"] & given["of_program"]) - given["finished"]
        state["heads"] += given["begun"] - given["finished"]
        state["items"] += given["started"] - given["merged"]
        state["done"] += given["finished"]
        if given["started"]:
            state["alone"] = given["next_static_order"]
        return given

    def may_start(state, given):
        return state["items"] == 0 or not (given["next_static_order"] or state["alone"])

    rows: list = []
    seen_rows = clocks(dut, inputs, outputs, drive, 2000)
    for (before, _, may), (_, seen) in zip(rows, seen_rows, strict=True):
        assert seen["busy"] == before["busy"] & 0xFF
        assert seen["done"] == before["done"] & 0xFFFF
        assert seen["issuer_idle"] == (before["heads"] & 0xFF == 0)
        assert seen["static_order"] == (before["alone"] and before["items"] != 0)
        assert seen["may_start"] == may
    assert sum(seen["static_order"] for _, seen in seen_rows) > 50
    assert state["done"] > 50


def test_the_dram_is_taken_after_quiet_and_given_back_at_rest():
    dut = Ownership(params=TINY)
    names = ("take", "release", "direct_valid", "work", "writing", "engine_idle")
    inputs, outputs = {name: getattr(dut, name) for name in names}, {"owner": dut.owner, "enable": dut.enable}
    quiet = TINY.quiet_clocks
    at = {"direct_valid": {0}, "take": {2}, "release": {quiet + 20}}
    busy = {"work": range(quiet + 30), "writing": range(quiet + 25, quiet + 33)}
    idle_from = quiet + 40

    def drive(k, seen):
        given = {name: int(k in clocks) for name, clocks in {**at, **busy}.items()}
        return given | {"engine_idle": int(k >= idle_from)}

    rows = clocks(dut, inputs, outputs, drive, quiet + 60)
    owner = [seen["owner"] for _, seen in rows]
    enable = [seen["enable"] for _, seen in rows]
    assert owner == [int(2 < k <= idle_from) for k in range(len(rows))]
    assert enable == [int(quiet + 1 < k <= idle_from) for k in range(len(rows))]


GOOD = {"k_row": 0, "v_row": 4, "tokens": 100, "last_query": 1, "query": 2, "output": 6, "scale": ONE}


@pytest.mark.parametrize(
    ("change", "room", "above", "why"),
    [
        ({}, 1, 0, Refusal.NONE),
        ({"scale": 0x3F7FFFFF}, 1, 0, Refusal.NONE),
        ({"scale": 0x40000000}, 1, 0, Refusal.NONE),
        ({"scale": 0x407F5C29}, 1, 0, Refusal.NONE),
        ({"scale": 0x7F7FFFFF}, 1, 0, Refusal.NONE),
        ({"scale": 0x00800000}, 1, 0, Refusal.NONE),
        ({}, 0, 1, Refusal.QUEUE_FULL),
        ({"tokens": 0}, 1, 1, Refusal.RESERVED),
        ({"tokens": 0, "v_row": 0}, 1, 0, Refusal.BAD_TOKENS),
        ({"v_row": 1}, 1, 0, Refusal.BAD_ROWS),
        ({"k_row": TINY.window.first_row - 1}, 1, 0, Refusal.BAD_ROWS),
        ({"v_row": 4, "query": 1}, 1, 0, Refusal.BAD_QUERIES),
        ({"output": 7, "scale": 0}, 1, 0, Refusal.BAD_QUERIES),
        ({"last_query": 2}, 1, 0, Refusal.BAD_QUERIES),
        ({"scale": 0x80000000 | ONE}, 1, 0, Refusal.BAD_SCALE),
        ({"scale": 0x7F800000}, 1, 0, Refusal.BAD_SCALE),
        ({"scale": 1}, 1, 0, Refusal.BAD_SCALE),
    ],
)
def test_the_first_reason_to_refuse_a_descriptor(change, room, above, why):
    dut, table = DescriptorCheck(params=TINY), TINY.window.descriptor
    line = table.pack_int(**(GOOD | change)) | above << table.width
    inputs, outputs = {"line": dut.line, "room": dut.room}, {"refusal": dut.refusal}
    ((_, seen),) = clocks(Clocked(dut), inputs, outputs, lambda k, seen: {"line": line, "room": room}, 1)
    assert Refusal(seen["refusal"]) is why


def test_lines_for_the_chips_by_precedence_and_back_again():
    dut, rng = ChipPort(params=TINY), np.random.default_rng(5)
    chips, beats = TINY.num_chips, TINY.access_bytes
    size = chips * beats

    def number(bits):
        return int.from_bytes(bits, "little")

    def by_chip(line):
        """Host order to chip order: a 2x2 transpose of beats and chips, then chip by chip."""
        pairs = np.asarray(line).reshape(beats // 2, 2, chips // 2, 2).swapaxes(1, 3)
        return pairs.reshape(beats, chips).T.ravel()

    lines = {name: rng.integers(0, 256, size, dtype=np.uint8) for name in ("direct", "posted_in", "operand", "posted")}
    masks = {name: rng.integers(0, 2, size, dtype=np.uint8) for name in lines}
    ports = {"direct": dut.direct_in, "posted_in": dut.posted_in, "operand": dut.operand, "posted": dut.posted}
    inputs = {"operand_valid": dut.operand.valid, "posted_valid": dut.posted.valid, "read": dut.read_data}
    for name, port in ports.items():
        inputs |= {f"{name}_data": port.data, f"{name}_mask": port.mask}
    outputs = {
        "data": dut.write_data, "mask": dut.write_mask, "posted": dut.posted_line.data,
        "posted_mask": dut.posted_line.mask, "host": dut.host_line,
    }  # fmt: skip

    def bits(mask):
        return sum(int(bit) << k for k, bit in enumerate(mask))

    fixed = {"read": number(by_chip(lines["direct"]).tobytes())}
    for name, line in lines.items():
        fixed |= {f"{name}_data": number(line.tobytes()), f"{name}_mask": bits(masks[name])}
    cases = [(0, 0), (0, 1), (1, 0), (1, 1)]

    def drive(k, seen):
        return fixed | {"operand_valid": cases[k][0], "posted_valid": cases[k][1]}

    direct = by_chip(lines["direct"]), by_chip(masks["direct"])
    expected = [direct, (lines["posted"], masks["posted"]), *[(lines["operand"], masks["operand"])] * 2]
    rows = clocks(Clocked(dut), inputs, outputs, drive, len(cases))
    for (data, mask), (_, seen) in zip(expected, rows, strict=True):
        assert (seen["data"], seen["mask"]) == (number(np.asarray(data, np.uint8).tobytes()), bits(mask))
        assert seen["posted"] == number(by_chip(lines["posted_in"]).astype(np.uint8).tobytes())
        assert seen["posted_mask"] == bits(by_chip(masks["posted_in"]))
        assert seen["host"] == number(lines["direct"].tobytes())
