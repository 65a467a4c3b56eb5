"""DPA dispatcher: every refusal, micro-op, fault and status of the golden model, in order, on random programs."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from pimhw.dpa.dispatcher import Dispatcher
from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimsim.dpa_stimulus import SessionCommand, attention_words, random_session
from pimsim.lint import lint_warnings
from pimsim.verilated import VerilatedUnit
from pimspec.fields import Field, FieldTable
from pimspec.golden.dpa import DpaDevice
from pimspec.isa import Fault
from pimspec.params.dpa import ConfigOp, DpaParams
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
SMALL = (
    replace(TINY, segment_tokens=128, queries=16)
    .with_dpa(
        num_slots=5,
        num_registers=6,
        program_words=128,
        chunk_bytes=1 << 20,
        directory_entries=4,
        leaf_entries=4,
        num_leaves=8,
        watchdog=700,
        max_tokens_bits=12,
    )
    .require_dpa()
)
REFUSAL, MICRO_OP, OUTCOME, STATUS = range(4)
PREFIXES = {MICRO_OP: "m", OUTCOME: "o", STATUS: "s"}


class Session(wiring.Component):
    """The dispatcher behind one stream: configuration operations, runs (until nothing waits) and status reads.

    Its output reports all events in order; `kind` selects the other fields that count.
    """

    def __init__(self, params: DpaParams) -> None:
        self.params = params
        self.dispatcher = Dispatcher(params=params)
        kind = Field(name="kind", width=2)
        self.inputs = FieldTable(kind, *params.config.fields)
        self.tables = {MICRO_OP: params.micro_op, OUTCOME: params.outcome, STATUS: params.status}
        fields = [
            replace(f, name=f"{PREFIXES[which]}_{f.name}") for which, table in self.tables.items() for f in table.fields
        ]
        self.outputs = FieldTable(kind, Field(name="refusal", width=4), *fields)
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(self.inputs))),
                "o": Out(stream.Signature(layout_of(self.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.dispatcher = dut = self.dispatcher
        layout = layout_of(self.outputs)
        m.submodules.told = told = fifo.SyncFIFOBuffered(width=layout.size, depth=16)
        entry = self.o.payload.__class__(layout, told.w_data)
        given = self.i.payload
        m.d.comb += [
            self.o.payload.eq(told.r_data),
            self.o.valid.eq(told.r_rdy),
            told.r_en.eq(self.o.ready),
            dut.o.ready.eq(told.w_level < 8),
            dut.status_slot.eq(given.slot),
        ]
        for f in self.params.config.fields:
            m.d.comb += dut.config.payload[f.name].eq(given[f.name])
        with m.If(dut.answered):
            m.d.comb += [entry.kind.eq(REFUSAL), entry.refusal.eq(dut.refusal), told.w_en.eq(1)]
        with m.Elif(dut.outcome_valid):
            m.d.comb += [entry.kind.eq(OUTCOME), told.w_en.eq(1)]
            m.d.comb += [entry[f"o_{f.name}"].eq(dut.outcome[f.name]) for f in self.tables[OUTCOME].fields]
        with m.Elif(dut.o.valid & dut.o.ready):
            m.d.comb += [entry.kind.eq(MICRO_OP), told.w_en.eq(1)]
            m.d.comb += [entry[f"m_{f.name}"].eq(dut.o.payload[f.name]) for f in self.tables[MICRO_OP].fields]
        with m.FSM():
            with m.State("NEXT"):
                with m.If(self.i.valid & (given.kind == REFUSAL)):
                    m.d.comb += [dut.config.valid.eq(1), self.i.ready.eq(dut.config.ready)]
                    with m.If(dut.config.ready):
                        m.next = "ANSWER"
                with m.Elif(self.i.valid & (given.kind == OUTCOME)):
                    m.next = "RUN"
                with m.Elif(self.i.valid):
                    m.next = "READ"
            with m.State("ANSWER"):
                m.next = "NEXT"
            with m.State("RUN"):
                m.d.comb += dut.enable.eq(1)
                with m.If(dut.idle & ~dut.outcome_valid):
                    m.d.comb += self.i.ready.eq(1)
                    m.next = "NEXT"
            with m.State("READ"):
                m.next = "STATUS"
            with m.State("STATUS"):
                m.d.comb += [entry.kind.eq(STATUS), told.w_en.eq(1), self.i.ready.eq(1)]
                m.d.comb += [entry[f"s_{f.name}"].eq(dut.status[f.name]) for f in self.tables[STATUS].fields]
                m.next = "NEXT"
        return m


@functools.cache
def session_of(params: DpaParams):
    top = Session(params)
    return top, component_verilog(top, "session")


@dataclass
class Told:
    """Reports of the golden device, as rows for the outputs."""

    rows: list[dict[str, int]]
    faults: dict[int, int]
    micro_ops: int = 0


def golden_session(params: DpaParams, commands) -> Told:
    device = DpaDevice(params)
    told = Told([], {})
    for command in commands:
        if command.kind == "config":
            refusal = device.configure(command.op, command.slot, command.index, command.value)
            told.rows.append({"kind": REFUSAL, "refusal": int(refusal)})
        elif command.kind == "run":
            while (outcome := device.run_next()) is not None:
                for op in outcome.micro_ops:
                    fields = {f.name: int(getattr(op, f.name)) for f in params.micro_op.fields}
                    told.rows.append({"kind": MICRO_OP, **{f"m_{k}": v for k, v in fields.items()}})
                fields = {f.name: int(getattr(outcome, f.name)) for f in params.outcome.fields}
                told.rows.append({"kind": OUTCOME, **{f"o_{k}": v for k, v in fields.items()}})
                told.faults[int(outcome.fault)] = told.faults.get(int(outcome.fault), 0) + 1
                told.micro_ops += len(outcome.micro_ops)
        else:
            slot = device.slots[command.slot]
            fields = {f.name: int(getattr(slot, f.name)) for f in params.status.fields}
            told.rows.append({"kind": STATUS, **{f"s_{k}": v for k, v in fields.items()}})
    return told


def operands_of(commands):
    kinds = {"config": REFUSAL, "run": OUTCOME, "status": STATUS}
    return {
        "kind": [kinds[c.kind] for c in commands],
        "op": [c.op for c in commands],
        "slot": [c.slot for c in commands],
        "index": [c.index for c in commands],
        "value": [[c.value & 0xFFFFFFFF, c.value >> 32] for c in commands],
    }


def mapped_session(params: DpaParams, words, *, tokens: int):
    """One program in slot 0, whose first chunk is mapped; then a run."""
    request = {"length": len(words), "tokens": tokens, "num_entries": params.queries}
    config = [(ConfigOp.WRITE_WORD, index, word) for index, word in enumerate(words)] + [
        (ConfigOp.SET_REQUEST, 0, params.request.pack_int(**request)),
        (ConfigOp.SET_SCALE, 0, 0x3F800000),
        (ConfigOp.SET_DIRECTORY, 0, params.directory_entry.pack_int(valid=1)),
        (ConfigOp.SET_LEAF, 0, params.leaf_entry.pack_int(valid=1, chunk=3)),
        (ConfigOp.SET_OWNER, 3, params.owner_entry.pack_int(valid=1, slot=0, readable=1)),
        (ConfigOp.START, 0, 0),
    ]
    commands = [SessionCommand(kind="config", op=int(op), index=index, value=value) for op, index, value in config]
    return [*commands, SessionCommand(kind="run")]


def check(params: DpaParams, commands, *, idle=0.0, refuse=0.0) -> Told:
    """Run a session on RTL and compare all its reports with the golden device."""
    top, verilog = session_of(params)
    told = golden_session(params, commands)
    with VerilatedUnit(verilog=verilog, top="session", inputs=top.inputs, outputs=top.outputs) as unit:
        run = unit.run(operands_of(commands), len(told.rows), idle=idle, refuse=refuse, seed=1, max_idle_cycles=200_000)
    names = {w: [f"{PREFIXES[w]}_{f.name}" for f in table.fields] for w, table in top.tables.items()}
    names[REFUSAL] = ["refusal"]
    for number, row in enumerate(told.rows):
        got = {name: int(run.results[name][number]) for name in ("kind", *names[row["kind"]])}
        assert got == row, (
            f"result {number}: RTL {got}, golden {row}; before it {told.rows[max(0, number - 3) : number]}"
        )
    return told


@pytest.mark.parametrize(
    ("seed", "count", "stall"),
    [(1, 1000, 0.0), (2, 1000, 0.3), pytest.param(3, 10_000, 0.0, marks=pytest.mark.slow)],
)
def test_random_programs(seed, count, stall, count_vectors):
    commands = random_session(SMALL, np.random.default_rng(seed), num_programs=count)
    told = check(SMALL, commands, idle=stall, refuse=stall)
    count_vectors("random DPA programs", count)
    assert set(told.faults) == set(map(int, Fault)), "every fault, and none"
    assert told.faults[Fault.NONE] > count // 8


def test_another_size(count_vectors):
    """A rank with four queries of a kv_head, segments of one row step, one slot."""
    rank = replace(TINY, queries_at_once=4, segment_tokens=32, queries=32).with_dpa(
        num_slots=1, program_words=64, directory_entries=2, leaf_entries=2, num_leaves=2, watchdog=300, loop_depth=3,
        max_tokens_bits=9,
    )  # fmt: skip
    params = rank.require_dpa()
    told = check(params, random_session(params, np.random.default_rng(4), num_programs=300))
    count_vectors("random DPA programs", 300)
    assert told.faults[Fault.NONE] > 0


def test_an_instruction_takes_a_clock():
    """Clocks of both passes of a program without stalls, and between them."""
    words = attention_words(rows=2, heads=2, k_row=0, v_row=1, stride=2, advance=True)
    commands = mapped_session(SMALL, words, tokens=300)
    top, verilog = session_of(SMALL)
    told = golden_session(SMALL, commands)
    instructions = told.rows[-1]["o_instructions"]
    with VerilatedUnit(verilog=verilog, top="session", inputs=top.inputs, outputs=top.outputs) as unit:
        run = unit.run(operands_of(commands), len(told.rows), max_idle_cycles=200_000)
    assert told.rows[-1]["o_fault"] == Fault.NONE
    assert run.delivered_at[-1] - run.accepted_at[-2] <= 2 * instructions + 20


def test_lint(tmp_path):
    source = tmp_path / "dispatcher.v"
    source.write_text(component_verilog(Dispatcher(params=SMALL), "dispatcher"))
    assert lint_warnings(source, "dispatcher") == []
