"""The DRAM command engine: every command through the rule checker, every task done, and every rule felt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from pimhw.dram.command_engine import CommandEngine
from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimsim.command_trace import TracedCommand, TraceStatistics
from pimsim.lint import lint_warnings
from pimsim.rule_checker import RuleChecker, RuleViolationError
from pimsim.verilated import VerilatedUnit
from pimspec.commands import COMMANDS, Command
from pimspec.constraints import Level, TimingConstraint
from pimspec.engine_params import (
    ENGINE_COMMANDS,
    TASK_COMMANDS,
    CommandEngineParams,
    RowTaskKind,
    refresh_margins,
    timer_groups,
)
from pimspec.errors import ParameterError, PimError
from pimspec.fields import Field, FieldTable

FULL = CommandEngineParams()
TINY = CommandEngineParams(bank_groups=2, banks_per_group=2)
CODES = {int(command): command for command in Command}
Tasks = dict[str, np.ndarray]


class Workload(wiring.Component):
    """The engine behind a small task queue for each bank; `o` shows what it issues in each of `clocks` clocks.

    The first transfer, with `start`, sets `clocks`; the others are tasks. After the last clock tasks are discarded.
    """

    def __init__(self, params: CommandEngineParams, constraints: Sequence[TimingConstraint] | None = None) -> None:
        self.params = params
        self.engine = CommandEngine(params=params, constraints=constraints)
        extra = [Field(name="bank", width=5), Field(name="start", width=1), Field(name="clocks", width=24)]
        self.inputs = FieldTable(*params.task.fields, *extra)
        self.outputs = FieldTable(*params.command.fields, Field(name="valid", width=1))
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(self.inputs))),
                "o": Out(stream.Signature(layout_of(self.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        left, over, free = Signal(24), Signal(), Signal()
        for b in range(self.params.num_banks):
            m.submodules[f"queue{b}"] = queue = SyncFIFOBuffered(width=self.params.task.width, depth=4)
            mine = self.i.valid & ~self.i.payload.start & (self.i.payload.bank == b)
            m.d.comb += [
                queue.w_data.eq(self.i.payload.as_value()),
                queue.w_en.eq(mine & ~over),
                engine.tasks[b].payload.eq(queue.r_data),
                engine.tasks[b].valid.eq(queue.r_rdy),
                queue.r_en.eq(engine.tasks[b].ready),
            ]
            with m.If(self.i.payload.bank == b):
                m.d.comb += free.eq(queue.w_rdy)
        m.d.comb += [
            self.i.ready.eq(self.i.payload.start | over | free),
            self.o.valid.eq(left != 0),
            self.o.payload.valid.eq(engine.command.valid),
        ]
        for field in self.params.command.fields:
            m.d.comb += self.o.payload[field.name].eq(engine.command.payload[field.name])
        with m.If(self.i.valid & self.i.payload.start):
            m.d.sync += left.eq(self.i.payload.clocks)
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), over.eq(left == 1)]
        return m


def run_engine(
    params: CommandEngineParams,
    tasks: Tasks,
    clocks: int,
    constraints: Sequence[TimingConstraint] | None = None,
    idle: float = 0.0,
) -> tuple[list[TracedCommand], list[bool]]:
    """The commands of `clocks` clocks, and for each whether it is marked as the last of its task."""
    top = Workload(params, constraints)
    start = {field.name: np.zeros(1, dtype=np.int64) for field in top.inputs.fields}
    start["start"][0], start["clocks"][0] = 1, clocks
    zeros = np.zeros(len(tasks["bank"]), dtype=np.int64)
    operands = {n: np.concatenate([start[n], tasks.get(n, zeros)]) for n in start}
    with VerilatedUnit(
        verilog=component_verilog(top, "workload"), top="workload", inputs=top.inputs, outputs=top.outputs
    ) as unit:
        run = unit.run(operands, clocks, idle=idle, seed=1)
    return traced(params, run.results), [bool(x) for x in run.results["last"][run.results["valid"] == 1]]


def traced(params: CommandEngineParams, results: Tasks) -> list[TracedCommand]:
    trace = []
    for clock in np.flatnonzero(results["valid"]):
        values = {name: int(column[clock]) for name, column in results.items()}
        command = CODES[values["code"]]
        given = {what: values[what] for what in COMMANDS[command].fields if what != "rank"}
        if command is Command.PIM_MAC:
            given["count"] = values["count"]
        trace.append(TracedCommand(int(clock) * params.ck_per_clock, command, 0, **given))
    return trace


def check(params: CommandEngineParams, trace: Sequence[TracedCommand], clocks: int) -> TraceStatistics:
    """Every rule of the part, refresh included, up to the last clock."""
    checker = RuleChecker((params.timing, params.organization))
    return checker.check_trace(trace, end_ck=(clocks - 1) * params.ck_per_clock)


def random_tasks(
    params: CommandEngineParams, num_tasks: int, seed: int, *, longest: int = 16, rows: int = 3, kinds: str = "all"
) -> Tasks:
    """Short and long bursts of every kind on few rows, so that rows are hit and missed, in runs on one bank."""
    rng = np.random.default_rng(seed)
    count = np.minimum(rng.geometric(3 / longest, num_tasks), params.column_accesses)
    column = (rng.random(num_tasks) * (params.column_accesses - count + 1)).astype(np.int64)
    kind = rng.integers(0, 3, num_tasks) if kinds == "all" else np.full(num_tasks, RowTaskKind[kinds])
    bank = rng.integers(0, params.num_banks, num_tasks)
    return {"bank": bank, "row": rng.integers(0, rows, num_tasks), "column": column, "count": count, "kind": kind}


def mac_tasks(params: CommandEngineParams, num_tasks: int) -> Tasks:
    """Whole rows on every bank in turn."""
    index = np.arange(num_tasks)
    whole = np.full(num_tasks, params.column_accesses)
    zeros = np.zeros_like(index)
    row = index // params.num_banks
    return {"bank": index % params.num_banks, "row": row, "column": zeros, "count": whole, "kind": zeros}


def accesses_of_tasks(params: CommandEngineParams, tasks: Tasks) -> list[list[tuple[Command, int, int, bool]]]:
    """For each bank (command, row, column access, whether the last of its task), in order."""
    lists: list[list[tuple[Command, int, int, bool]]] = [[] for _ in range(params.num_banks)]
    for bank, row, column, count, kind in zip(
        *(tasks[n].tolist() for n in ("bank", "row", "column", "count", "kind")), strict=True
    ):
        command = TASK_COMMANDS[RowTaskKind(kind)]
        lists[bank] += [(command, row, column + k, k == count - 1) for k in range(count)]
    return lists


def accesses_of_trace(
    params: CommandEngineParams, trace: Sequence[TracedCommand], last: Sequence[bool]
) -> list[list[tuple[Command, int, int, bool]]]:
    org, rows = params.organization, {}
    lists: list[list[tuple[Command, int, int, bool]]] = [[] for _ in range(params.num_banks)]
    for item, ends in zip(trace, last, strict=True):
        if item.bank is None:
            continue
        bank = item.bank_group * org.banks_per_group + item.bank
        if item.command is Command.ACT:
            rows[bank] = item.row
        if item.column is not None:
            first, inside = divmod(item.column, org.burst_length)
            assert inside == 0, str(item)
            done = [(item.command, rows[bank], first + k, ends and k == item.count - 1) for k in range(item.count)]
            lists[bank] += done
    return lists


def check_work(params, tasks, trace, last, *, complete: bool) -> int:
    """Each bank did its tasks in order, `complete` or up to some point; returns the number of accesses."""
    wanted, got = accesses_of_tasks(params, tasks), accesses_of_trace(params, trace, last)
    for bank, (want, have) in enumerate(zip(wanted, got, strict=True)):
        assert have == (want if complete else want[: len(have)]), f"bank {bank}"
    return sum(map(len, got))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("params", [TINY, FULL], ids=["tiny", "full"])
def test_random_tasks(params, seed, count_vectors):
    """Legal, in order and complete; the last tasks come late, so that banks run dry too."""
    tasks, clocks = random_tasks(params, 3000, seed, longest=(4, 16, 128)[seed]), (60_000, 60_000, 150_000)[seed]
    trace, last = run_engine(params, tasks, clocks, idle=(0.0, 0.9, 0.0)[seed])
    check(params, trace, clocks)
    check_work(params, tasks, trace, last, complete=True)
    count_vectors("command engine, commands under the rule checker", len(trace))


@pytest.mark.parametrize(
    "params",
    [
        CommandEngineParams(preset="ddr5-4800-x8-16gb", bank_groups=2, banks_per_group=2),
        CommandEngineParams(preset="hbm3-5200", ck_per_clock=2, bank_groups=2, banks_per_group=1, split_bursts=False),
        CommandEngineParams(preset="ddr4-2400-x8-8gb", ck_per_clock=1, bank_groups=2, banks_per_group=2),
    ],
    ids=lambda params: f"{params.preset}-{params.ck_per_clock}",
)
def test_other_parts(params, count_vectors):
    """Two-cycle commands (DDR5), latencies that are no whole clocks, and a clock of one CK."""
    clocks = 8 * params.refresh_clocks
    trace, last = run_engine(params, tasks := random_tasks(params, 2000, 5, longest=24), clocks)
    check(params, trace, clocks)
    check_work(params, tasks, trace, last, complete=False)
    count_vectors("command engine, commands under the rule checker", len(trace))


def test_mac_utilisation(count_vectors):
    """16 banks, whole rows, refresh on: 0.900 of the column rate. The row alone allows 256 of 269 clocks, 0.952."""
    clocks = 32 * FULL.refresh_clocks
    trace, last = run_engine(FULL, tasks := mac_tasks(FULL, 16 * 400), clocks)
    statistics = check(FULL, trace, clocks)
    check_work(FULL, tasks, trace, last, complete=False)
    assert 0.895 <= statistics.row_efficiency <= 0.905
    assert len(trace) / clocks < 0.18, "share of the command bus"
    count_vectors("command engine, commands under the rule checker", len(trace))


def test_whole_bursts_wait_for_the_refresh():
    params = dataclasses.replace(FULL, split_bursts=False)
    clocks = 8 * params.refresh_clocks
    trace, last = run_engine(params, mac_tasks(params, 16 * 100), clocks)
    assert 0.80 <= check(params, trace, clocks).row_efficiency <= 0.86
    macs = [item for item in trace if item.command is Command.PIM_MAC]
    assert {item.count for item in macs} == {128}
    assert all(ends for item, ends in zip(trace, last, strict=True) if item.command is Command.PIM_MAC)


@pytest.mark.parametrize("load", ["none", "mac", "all"])
def test_refresh_interval(load):
    """REFab every `refresh_clocks` to the clock, with PREab before it if a row is open, whatever the load."""
    tasks = mac_tasks(TINY, 400) if load == "mac" else random_tasks(TINY, 1 if load == "none" else 8000, 1, longest=60)
    trace, _ = run_engine(TINY, tasks, clocks := 12 * TINY.refresh_clocks)
    check(TINY, trace, clocks)
    at = np.array([item.ck for item in trace if item.command is Command.REFab])
    assert len(at) >= 11
    assert set(np.diff(at)) == {TINY.timing.nREFI}
    assert any(item.command is Command.PREab for item in trace) == (load != "none")


def test_one_bank_by_hand():
    """Rows of one bank as close as the rules allow: ACT, 6 clocks, MAC, 254 clocks, last access, 3, PRE, 6, ACT."""
    whole, none = np.full(4, 128), np.zeros(4, dtype=np.int64)
    tasks = {"bank": none + 1, "row": np.array([7, 7, 8, 9]), "column": none, "count": whole, "kind": none}
    trace, last = run_engine(TINY, tasks, 1500)
    start = trace[0].ck
    expected = [("ACT", 0), ("PIM_MAC", 6), ("PIM_MAC", 262), ("PREpb", 519), ("ACT", 525), ("PIM_MAC", 531)]
    expected += [("PREpb", 788), ("ACT", 794), ("PIM_MAC", 800), ("PREpb", 1057)]
    assert [(item.command.name, (item.ck - start) // 4) for item in trace] == expected
    assert [ends for item, ends in zip(trace, last, strict=True) if item.column is not None] == [True] * 4


@pytest.mark.parametrize(("patience_clocks", "least", "most"), [(64, 200, 700), (1024, 1500, 3500)])
def test_no_bank_starves(patience_clocks, least, most):
    """Fifteen banks hit their rows with RD for ever; the WR of the last one waits as long as the others are let."""
    params = dataclasses.replace(FULL, patience_clocks=patience_clocks)
    bank = np.random.default_rng(3).integers(0, 15, 2000)
    bank[::100] = 15
    tasks = {"bank": bank, "row": np.zeros_like(bank), "column": np.zeros_like(bank), "count": np.full(2000, 16)}
    tasks["kind"] = np.where(bank == 15, RowTaskKind.WR, RowTaskKind.RD)
    trace, last = run_engine(params, tasks, clocks := 45_000)
    check(params, trace, clocks)
    check_work(params, tasks, trace, last, complete=True)
    ck = {c: np.array([x.ck for x in trace if x.command is c and x.bank == x.bank_group == 3]) for c in Command}
    acts, writes = ck[Command.ACT], ck[Command.WR]
    waited = writes[np.searchsorted(writes, acts)] - acts
    assert least <= waited.max() // params.ck_per_clock <= most


# The rules. IMPLIED ones cannot be felt, for the reason given; all others the mutation tests must feel.
IMPLIED = {
    "CA_1": "one command a clock",
    "tRRD_S": "one clock",
    "tCCD_S": "one clock",
    "tCCD_S_WR": "one clock",
    "tRC": "tRAS + tRP: 13 + 6 = 19 clocks",
    "tWR_WRA": "tWR + tRP: 11 + 6 = 17 clocks",
    "pim_RD_MAC": "two clocks, and a bank takes its next task in the clock between",
}
EIGHT = CommandEngineParams(bank_groups=4, banks_per_group=2)


def _issued_only(rule: TimingConstraint) -> bool:
    issued = set(ENGINE_COMMANDS)
    return not rule.sibling and bool(issued & set(rule.preceding)) and bool(issued & set(rule.following))


FELT = [rule.name for rule in FULL.constraints if _issued_only(rule) and rule.name not in IMPLIED]


def mutated(params: CommandEngineParams, name: str, change: str) -> list[TimingConstraint]:
    """The table with rule `name` dropped, or one controller clock shorter."""
    table = []
    for rule in params.constraints:
        if rule.name != name:
            table.append(rule)
        elif change == "shortened" and rule.latency_cycles > params.ck_per_clock:
            table.append(dataclasses.replace(rule, latency_cycles=rule.latency_cycles - params.ck_per_clock))
    return table


EVERYDAY = {("tRCD_MAC", "shortened"), ("tRTP", "shortened"), ("tFAW", "dropped")}  # each is a build of its own
MUTATIONS = [
    pytest.param(name, change, marks=[] if (name, change) in EVERYDAY else pytest.mark.slow)
    for name in FELT
    for change in ("dropped", "shortened")
]


@pytest.mark.parametrize(("name", "change"), MUTATIONS)
def test_each_rule_is_felt(name, change):
    """An engine without the rule breaks that rule, and none before it. tFAW cannot bind with four banks (tRC)."""
    params = EIGHT if name == "tFAW" else TINY
    trace, _ = run_engine(params, random_tasks(params, 1500, 2, longest=6), 6000, mutated(params, name, change))
    with pytest.raises(RuleViolationError) as caught:
        check(params, trace, 6000)
    assert caught.value.rule == name


def test_implied_rules_need_no_timer():
    """Without all the rules called implied the stream is still legal."""
    table = [rule for rule in TINY.constraints if rule.name not in IMPLIED]
    trace, _ = run_engine(TINY, random_tasks(TINY, 5000, 3, longest=6), 30_000, table)
    check(TINY, trace, 30_000)
    assert set(IMPLIED) <= {rule.name for rule in FULL.constraints if _issued_only(rule)}


def test_rules_become_timers():
    """Same level, preceding commands and window: one timer, with every latency that its rules name."""
    groups = timer_groups(FULL.constraints, 4)
    keys = [(group.level, group.events, group.window) for group in groups]
    assert len(set(keys)) == len(keys) == 13
    (row,) = (g for g in groups if g.level.value == "bank" and g.events == (Command.ACT,))
    assert {c.name: n for c, n in row.ready_clocks} == {
        "ACT": 19, "REFab": 19, "PREpb": 13, "PREab": 13, "RD": 6, "WR": 6, "PIM_MAC": 6
    }  # fmt: skip
    margins = {c.name: n for c, n in refresh_margins(groups).items()}
    assert margins == {"PREab": 6, "PREpb": 7, "RD": 9, "PIM_MAC": 9, "WR": 17, "ACT": 23}


def test_a_rule_to_mac_over_a_rank_is_refused():
    rule = TimingConstraint(
        name="x",
        level=Level.RANK,
        preceding=(Command.ACT,),
        following=(Command.PIM_MAC,),
        latency_cycles=9,
    )
    with pytest.raises(ParameterError, match="level of x must be bank, as it counts to PIM_MAC, not 'rank'"):
        CommandEngine(params=FULL, constraints=[rule])


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("ck_per_clock", 0, r"ck_per_clock must be 1\.\.8, not 0"),
        ("bank_groups", 8, "bank_groups must be a power of two up to 4, not 8"),
        ("banks_per_group", 3, "banks_per_group must be a power of two up to 4, not 3"),
        ("patience_clocks", 4, r"patience_clocks must be 8\.\.1024, not 4"),
        ("preset", "ddr6", "unknown DRAM preset 'ddr6'"),
    ],
)
def test_parameters_are_checked(what, value, text):
    with pytest.raises(PimError, match=text):
        CommandEngineParams(**{what: value})


@pytest.mark.parametrize(
    "params", [TINY, FULL, CommandEngineParams(bank_groups=2, banks_per_group=1, split_bursts=False)]
)
def test_lint(params, tmp_path):
    source = tmp_path / "engine.v"
    source.write_text(component_verilog(CommandEngine(params=params), "engine"))
    assert lint_warnings(source, "engine") == []
