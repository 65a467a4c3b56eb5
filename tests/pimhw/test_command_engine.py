"""DRAM command engine: every command through the rule checker, every task done, and every rule effective.

The file is long because one bench, with checker and scoreboard, serves every rule and every kind of task.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from pimhw.dram.command_engine import CommandEngine
from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimsim.lint import lint_warnings
from pimsim.rule_checker import RuleChecker, RuleViolationError
from pimsim.verilated import VerilatedUnit
from pimspec.dram.command_trace import TracedCommand, TraceStatistics
from pimspec.dram.commands import COMMANDS, Command
from pimspec.dram.constraints import Level, TimingConstraint
from pimspec.dram.organization import DRAM_PRESETS
from pimspec.errors import ParameterError, PimError
from pimspec.fields import Field, FieldTable
from pimspec.params.command_engine import (
    BUS_COMMANDS,
    ENGINE_COMMANDS,
    TASK_COMMANDS,
    CommandEngineParams,
    RowTaskKind,
    owed_refresh_clocks,
    refresh_margins,
    timer_groups,
)

FULL = CommandEngineParams(tag_bits=16, bus_tag_bits=16)
TINY = dataclasses.replace(FULL, bank_groups=2, banks_per_group=2)
EIGHT = CommandEngineParams(bank_groups=4, banks_per_group=2, patience_clocks=8)
CODES = {int(command): command for command in Command}
Tasks = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load beside the tasks.

    Parameters
    ----------
    bus_kinds : int
        Bus commands of the kinds whose bit is set, in short runs: 1 PIM_WR_SB, 2 PIM_RD_RB.
    bus_gap : int
        Mask for the clocks between two of them, most at most; 0: a PIM_RD_RB goes to the next bank_group each time,
        otherwise to a random one.
    hold_mask, hold_clocks : int
        Banks that are held for `hold_clocks`, and after as long again, each time the next banks.
    host_every, host_clocks : int
        The host asks for the DRAM `host_every` clocks after it gave it back, and keeps it `host_clocks`; 0: never.
    refresh_every : int
        Clocks between refreshes of the host; 0: none.
    twice_every : int
        Clocks between changes of the refresh rate, the first to twice the rate; 0: no change.
    """

    bus_kinds: int = 0
    bus_gap: int = 0
    hold_mask: int = 0
    hold_clocks: int = 0
    host_every: int = 0
    host_clocks: int = 40
    refresh_every: int = 0
    twice_every: int = 0


NO_LOAD, READS, WRITES, BOTH = Load(), Load(bus_kinds=2), Load(bus_kinds=1), Load(bus_kinds=3)
LOAD_FIELDS = tuple(Field(name=field.name, width=16) for field in dataclasses.fields(Load))


class Workload(wiring.Component):
    """The engine behind a small task queue for each bank; `o` shows what it issues in each of `clocks` clocks.

    The first transfer, with `start`, sets `clocks` and the load; the others are tasks. After the last clock tasks are
    discarded. The tag of a bus command is its number.
    """

    def __init__(self, params: CommandEngineParams, constraints: Sequence[TimingConstraint] | None = None) -> None:
        self.params = params
        self.engine = CommandEngine(params=params, constraints=constraints)
        extra = [Field(name="bank", width=5), Field(name="start", width=1), Field(name="clocks", width=24)]
        self.inputs = FieldTable(*params.task.fields, *extra, *LOAD_FIELDS)
        bus = [Field(name=f"bus_{field.name}", width=field.width, count=field.count) for field in params.bus.fields]
        flags = [Field(name=name, width=1) for name in ("valid", "bus_valid", "idle", "enable", "twice", "request")]
        held = Field(name="held", width=params.num_banks)
        self.outputs = FieldTable(*params.command.fields, *bus, *flags, held)
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(self.inputs))),
                "o": Out(stream.Signature(layout_of(self.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        left, over, free, serving = Signal(24), Signal(), Signal(), Signal(init=1)
        load = {field.name: Signal(field.width, name=field.name) for field in LOAD_FIELDS}
        start = self.i.valid & self.i.payload.start
        for b in range(self.params.num_banks):
            m.submodules[f"queue{b}"] = queue = SyncFIFOBuffered(width=self.params.task.width, depth=4)
            mine = self.i.valid & ~self.i.payload.start & (self.i.payload.bank == b)
            m.d.comb += [
                queue.w_data.eq(self.i.payload.as_value()),
                queue.w_en.eq(mine & ~over),
                engine.tasks[b].payload.eq(queue.r_data),
                engine.tasks[b].valid.eq(queue.r_rdy & serving),
                queue.r_en.eq(engine.tasks[b].ready & serving),
            ]
            with m.If(self.i.payload.bank == b):
                m.d.comb += free.eq(queue.w_rdy)
        m.d.comb += [self.i.ready.eq(self.i.payload.start | over | free), self.o.valid.eq(left != 0)]
        with m.If(start):
            m.d.sync += [left.eq(self.i.payload.clocks), engine.enable.eq(1)]
            m.d.sync += [load[name].eq(self.i.payload[name]) for name in load]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), over.eq(left == 1)]
        self._hold(m, load, start)
        self._refreshes(m, load, start)
        with m.If(~start):
            self._host(m, load, serving)
        if self.params.has_bus_slot:
            self._bus(m, load, serving)
        shown = self.o.payload
        for field in self.params.command.fields:
            m.d.comb += shown[field.name].eq(engine.command.payload[field.name])
        m.d.comb += [shown.valid.eq(engine.command.valid), shown.idle.eq(engine.idle), shown.enable.eq(engine.enable)]
        m.d.sync += [
            shown.held.eq(engine.hold),
            shown.twice.eq(engine.refresh_2x),
            shown.request.eq(engine.refresh_request),
        ]
        return m

    def _hold(self, m: Module, load: dict[str, Signal], start: Value) -> None:
        on, clock = Signal(), Signal(16)
        mask = Signal(self.params.num_banks)
        m.d.comb += self.engine.hold.eq(mask & on.replicate(len(mask)))
        m.d.sync += clock.eq(clock + 1)
        with m.If(clock >= load["hold_clocks"]):
            m.d.sync += [clock.eq(0), on.eq(~on), mask.eq(mask.rotate_left(1))]
        with m.If(start):
            m.d.sync += [clock.eq(0), on.eq(1), mask.eq(self.i.payload.hold_mask)]

    def _refreshes(self, m: Module, load: dict[str, Signal], start: Value) -> None:
        """The host's refreshes, and the rate; `twice` and `request` are shown with the command that saw them."""
        since, unchanged = Signal(16), Signal(16)
        engine = self.engine
        m.d.comb += engine.refresh_request.eq((load["refresh_every"] != 0) & (since == 1))
        m.d.sync += since.eq(Mux(since <= 1, load["refresh_every"], since - 1))
        with m.If((load["twice_every"] != 0) & (unchanged == 0)):
            m.d.sync += [engine.refresh_2x.eq(~engine.refresh_2x), unchanged.eq(load["twice_every"])]
        with m.Elif(unchanged != 0):
            m.d.sync += unchanged.eq(unchanged - 1)
        with m.If(start):
            m.d.sync += [since.eq(self.i.payload.refresh_every), engine.refresh_2x.eq(self.i.payload.twice_every == 1)]
            m.d.sync += unchanged.eq(self.i.payload.twice_every)

    def _host(self, m: Module, load: dict[str, Signal], serving: Signal) -> None:
        clock = Signal(16)
        enable = self.engine.enable
        m.d.sync += clock.eq(clock + 1)
        with m.If(enable & serving & (load["host_every"] != 0) & (clock >= load["host_every"])):
            m.d.sync += serving.eq(0)
        with m.If(enable & ~serving & self.engine.idle):
            m.d.sync += [enable.eq(0), clock.eq(0)]
        with m.If(~enable & ~serving & (clock >= load["host_clocks"])):
            m.d.sync += [enable.eq(1), serving.eq(1), clock.eq(0)]

    def _bus(self, m: Module, load: dict[str, Signal], serving: Signal) -> None:
        bus, shown = self.engine.bus, self.engine.bus_command
        noise, pause, number, read = Signal(16, init=0xACE1), Signal(16), Signal(64), Signal()
        group = Signal.like(bus.payload.bank_group)
        kinds = load["bus_kinds"]
        m.d.comb += [
            bus.valid.eq((kinds != 0) & (pause == 0) & serving),
            bus.payload.read.eq(Mux(kinds[0], read & kinds[1], 1)),
            bus.payload.bank_group.eq(group),
            Value.cast(bus.payload.tag).eq(number),
            self.o.payload.bus_valid.eq(shown.valid),
            self.o.payload.bus_read.eq(shown.payload.read),
            self.o.payload.bus_bank_group.eq(shown.payload.bank_group),
            self.o.payload.bus_tag.eq(Value.cast(shown.payload.tag)),
        ]
        feedback = noise[0] ^ noise[2] ^ noise[3] ^ noise[5]
        m.d.sync += noise.eq(noise[1:] | feedback << 15)
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        with m.If(bus.valid & bus.ready):
            m.d.sync += [pause.eq(noise & load["bus_gap"]), number.eq(number + 1)]
            if self.params.organization.bank_groups > 1:
                m.d.sync += group.eq(Mux(load["bus_gap"] == 0, group + 1, noise[4:]))
            with m.If(noise[8:10] == 0):
                m.d.sync += read.eq(~read)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Commands of a run in order; for each `last`, `resume` and its tag; and all outputs, a row for each clock."""

    params: CommandEngineParams
    trace: list[TracedCommand]
    last: list[bool]
    resume: list[bool]
    tags: list[int]
    results: Tasks

    def at(self, *commands: Command) -> np.ndarray:
        """Clocks of these commands."""
        return np.array([item.ck // self.params.ck_per_clock for item in self.trace if item.command in commands])


@functools.cache
def workload(params: CommandEngineParams, constraints: tuple[TimingConstraint, ...] | None) -> tuple[Workload, str]:
    """The component, and its Verilog."""
    top = Workload(params, constraints)
    return top, component_verilog(top, "workload")


def run_engine(
    params: CommandEngineParams,
    tasks: Tasks,
    clocks: int,
    constraints: Sequence[TimingConstraint] | None = None,
    idle: float = 0.0,
    load: Load = NO_LOAD,
) -> Run:
    """Commands of `clocks` clocks from `enable` on."""
    top, verilog = workload(params, None if constraints is None else tuple(constraints))
    start = {f.name: np.zeros((1, f.count) if f.count else 1, dtype=np.int64) for f in top.inputs.fields}
    start["start"][0], start["clocks"][0] = 1, clocks
    for name, value in dataclasses.asdict(load).items():
        start[name][0] = value
    none = {n: np.repeat(np.zeros_like(start[n]), len(tasks["bank"]), axis=0) for n in start}
    if params.tag_bits <= 32:
        none["tag"] = np.arange(len(tasks["bank"])) & ((1 << params.tag_bits) - 1)
    operands = {n: np.concatenate([start[n], tasks.get(n, none[n])]) for n in start}
    with VerilatedUnit(verilog=verilog, top="workload", inputs=top.inputs, outputs=top.outputs) as unit:
        return traced(params, unit.run(operands, clocks, idle=idle, seed=1).results)


def _tag(value: np.ndarray) -> int:
    """A tag, given as a number or as its bits."""
    return int(value) if value.ndim == 0 else sum(int(bit) << k for k, bit in enumerate(value))


def traced(params: CommandEngineParams, results: Tasks) -> Run:
    items = []
    for clock in np.flatnonzero(results["valid"] | results["bus_valid"]):
        values = {name: column[clock] for name, column in results.items()}
        ck = int(clock) * params.ck_per_clock
        if values["valid"]:
            command = CODES[int(values["code"])]
            given = {what: int(values[what]) for what in COMMANDS[command].fields if what != "rank"}
            if command is Command.PIM_MAC:
                given["count"] = int(values["count"])
            marks = (bool(values["last"]), bool(values["resume"]), _tag(values["tag"]))
            items.append((TracedCommand(ck, command, 0, **given), *marks))
        if values["bus_valid"]:
            command = BUS_COMMANDS[int(values["bus_read"])]
            place = (int(values["bus_bank_group"]), 0) if command is Command.PIM_RD_RB else ()  # the bank is of the tag
            items.append(
                (TracedCommand(ck + params.bus_phase_ck, command, 0, *place), False, False, _tag(values["bus_tag"]))
            )
    trace, last, resume, tags = ([item[k] for item in items] for k in range(4))
    return Run(params=params, trace=trace, last=last, resume=resume, tags=tags, results=results)


def check(run: Run) -> TraceStatistics:
    """Every rule of the part holds, refresh too, up to the last clock; bus commands in order; held banks silent."""
    params = run.params
    limit = params.streaming_limit
    checker = RuleChecker((params.timing, params.organization), params.constraints, max_streaming_banks=limit)
    statistics = checker.check_trace(run.trace, end_ck=len(run.results["valid"]) * params.ck_per_clock - 1)
    check_bus_and_hold(run)
    return statistics


def check_bus_and_hold(run: Run) -> None:
    params, found = run.params, run.results
    numbers = [tag for item, tag in zip(run.trace, run.tags, strict=True) if item.command in BUS_COMMANDS]
    assert numbers == [k % (1 << params.bus_tag_bits) for k in range(len(numbers))]
    banks = found["bank_group"] * params.organization.banks_per_group + found["bank"]
    macs = (found["valid"] == 1) & (found["code"] == Command.PIM_MAC)
    assert not ((found["held"] >> banks)[macs] & 1).any()


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
    """MAC tasks of whole rows on every bank in turn."""
    index = np.arange(num_tasks)
    whole = np.full(num_tasks, params.column_accesses)
    zeros = np.zeros_like(index)
    row = index // params.num_banks
    return {"bank": index % params.num_banks, "row": row, "column": zeros, "count": whole, "kind": zeros}


Access = tuple[Command, int, int, bool, bool, int]
"""Command, row, column access, flags for the first and the last of its task, tag."""


def accesses_of_tasks(params: CommandEngineParams, tasks: Tasks) -> list[list[Access]]:
    """Accesses of each bank, in order."""
    lists: list[list[Access]] = [[] for _ in range(params.num_banks)]
    tags = tasks["tag"] if "tag" in tasks else np.arange(len(tasks["bank"])) % (1 << params.tag_bits)
    columns = [tasks[n].tolist() for n in ("bank", "row", "column", "count", "kind")]
    for bank, row, column, count, kind, tag in zip(*columns, tags, strict=True):
        command = TASK_COMMANDS[RowTaskKind(kind)]
        lists[bank] += [(command, row, column + k, k == 0, k == count - 1, _tag(tag)) for k in range(count)]
    return lists


def accesses_of_run(run: Run) -> list[list[Access]]:
    org, rows = run.params.organization, {}
    lists: list[list[Access]] = [[] for _ in range(run.params.num_banks)]
    for item, last, resume, tag in zip(run.trace, run.last, run.resume, run.tags, strict=True):
        if item.bank is None:
            continue
        bank = item.bank_group * org.banks_per_group + item.bank
        if item.command is Command.ACT:
            rows[bank] = item.row
        if item.column is not None:
            first, inside = divmod(item.column, org.burst_length)
            assert inside == 0, str(item)
            for k in range(item.count):
                ends = (k == 0 and not resume, last and k == item.count - 1)
                lists[bank].append((item.command, rows[bank], first + k, *ends, tag))
    return lists


def check_work(tasks: Tasks, run: Run, *, complete: bool) -> int:
    """Each bank did its tasks in order, `complete` or up to some point; returns the number of accesses."""
    wanted, got = accesses_of_tasks(run.params, tasks), accesses_of_run(run)
    for bank, (want, have) in enumerate(zip(wanted, got, strict=True)):
        assert have == (want if complete else want[: len(have)]), f"bank {bank}"
    return sum(map(len, got))


MIXED = Load(bus_kinds=3, bus_gap=15, hold_mask=9, hold_clocks=300)


def waits(run: Run, *commands: Command) -> set[int]:
    """Clocks between commands of these kinds that follow one another closely."""
    return {int(gap) for gap in np.diff(run.at(*commands)) if gap < 10}


@pytest.mark.parametrize(("bus_tccd", "of_a_group"), [("long", 2), ("short", 1)])
def test_bus_commands_use_the_paths_of_the_bank_groups(bus_tccd, of_a_group):
    """A PIM_WR_SB every tCCD_L, 2 clocks, as reads of one bank_group; of two in turn a read every tCCD_S, 1 clock."""
    params = dataclasses.replace(TINY, bus_tccd=bus_tccd)
    one_group = dataclasses.replace(params, bank_groups=1)
    for given, load, gap in ((params, WRITES, of_a_group), (params, READS, 1), (one_group, READS, of_a_group)):
        run = run_engine(given, random_tasks(given, 1, 1), 2000, load=load)
        check(run)
        assert waits(run, *BUS_COMMANDS) == {gap}
        assert len(run.at(*BUS_COMMANDS)) > 1800 // gap


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "params",
    [TINY, FULL, pytest.param(dataclasses.replace(TINY, bus_tccd="short"), marks=pytest.mark.slow)],
    ids=["tiny", "full", "short"],
)
def test_random_tasks(params, seed, count_vectors):
    """Legal, in order and complete, with and without bus commands and held banks; the last tasks come late in one."""
    tasks, clocks = random_tasks(params, 3000, seed, longest=(4, 16, 128)[seed]), (90_000, 60_000, 240_000)[seed]
    load = (Load(bus_kinds=3, bus_gap=7), NO_LOAD, MIXED)[seed]
    run = run_engine(params, tasks, clocks, idle=(0.0, 0.9, 0.0)[seed], load=load)
    check(run)
    check_work(tasks, run, complete=True)
    count_vectors("command engine, commands under the rule checker", len(run.trace))


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(
            CommandEngineParams(preset="ddr5-4800-x8-16gb", bank_groups=2, banks_per_group=2), marks=pytest.mark.slow
        ),
        CommandEngineParams(preset="ddr5-4800-x8-16gb", ck_per_clock=2, bank_groups=2, banks_per_group=2),
        pytest.param(
            CommandEngineParams(
                preset="hbm3-5200", ck_per_clock=2, bank_groups=2, banks_per_group=1, split_bursts=False
            ),
            marks=pytest.mark.slow,
        ),
        CommandEngineParams(preset="ddr4-2400-x8-8gb", ck_per_clock=1, bank_groups=2, banks_per_group=2),
        CommandEngineParams(preset="ddr4-3200-x8-8gb", ck_per_clock=3, bank_groups=2, banks_per_group=1, columns=16),
    ],
    ids=lambda params: f"{params.preset}-{params.ck_per_clock}",
)
def test_other_parts(params, count_vectors):
    """Two-cycle commands (DDR5), so that all contend in a clock of 2 CK; latencies that are no whole clocks; one CK."""
    clocks = 8 * params.refresh_clocks
    run = run_engine(params, tasks := random_tasks(params, 2000, 5, longest=24), clocks, load=MIXED)
    check(run)
    assert check_work(tasks, run, complete=False) > 2000
    assert (len(run.at(*BUS_COMMANDS)) > 500) == params.has_bus_slot
    count_vectors("command engine, commands under the rule checker", len(run.trace))


@pytest.mark.parametrize("load", [NO_LOAD, READS], ids=["alone", "bus"])
def test_mac_utilisation(load, count_vectors):
    """16 banks, whole rows, refresh on: 0.900 of the column rate, and the same with results read in every clock."""
    clocks = 32 * FULL.refresh_clocks
    run = run_engine(FULL, tasks := mac_tasks(FULL, 16 * 400), clocks, load=load)
    statistics = check(run)
    check_work(tasks, run, complete=False)
    assert 0.895 <= statistics.row_efficiency <= 0.905
    reads = run.at(*BUS_COMMANDS)
    assert (len(run.trace) - len(reads)) / clocks < 0.18, "share of the command slot"
    refreshing = len(run.at(Command.REFab)) * (FULL.timing.nRFC // FULL.ck_per_clock)
    assert load is NO_LOAD or len(reads) >= 0.99 * (clocks - refreshing)
    count_vectors("command engine, commands under the rule checker", len(run.trace))


def test_whole_bursts_wait_for_the_refresh():
    params = dataclasses.replace(EIGHT, split_bursts=False)
    run = run_engine(params, mac_tasks(params, 8 * 100), 8 * params.refresh_clocks)
    assert 0.80 <= check(run).row_efficiency <= 0.86
    macs = [k for k, item in enumerate(run.trace) if item.command is Command.PIM_MAC]
    assert {(run.trace[k].count, run.last[k], run.resume[k]) for k in macs} == {(128, True, False)}


@pytest.mark.parametrize("kind", ["none", "mac", "all"])
def test_refresh_interval(kind):
    """REFab every `refresh_clocks` to the clock, with PREab before it if a row is open, whatever the load."""
    kinds = "MAC" if kind == "mac" else "all"
    tasks = random_tasks(TINY, 1 if kind == "none" else 8000, 1, longest=60, kinds=kinds)
    run = run_engine(TINY, tasks, 12 * TINY.refresh_clocks, load=NO_LOAD if kind == "none" else BOTH)
    check(run)
    at = run.at(Command.REFab)
    assert (at[0], len(at)) == (1, 12)
    assert set(np.diff(at)) == {TINY.refresh_clocks}
    assert (len(run.at(Command.PREab)) > 0) == (kind != "none")


def check_refreshes(run: Run) -> np.ndarray:
    """Each REFab in time for the rate in force at the one before; returns the distances."""
    params = run.params
    at = run.at(Command.REFab)
    bound = np.where(run.results["twice"][at], params.refresh_interval(2), params.refresh_interval(1))
    gaps = np.diff(at, append=len(run.results["valid"]))
    assert (gaps <= bound).all()
    return gaps[:-1]


BUSY = Load(bus_kinds=3, bus_gap=7)


@pytest.mark.parametrize("every", [5000, 4680, 3300, 700])
def test_the_refresh_rate_can_change(every):
    """From the next REFab on, to the clock, with every kind of work; 12,480 CK and half of that."""
    tasks = random_tasks(TINY, 6000, 1, longest=40)
    run = run_engine(TINY, tasks, 45_000, load=dataclasses.replace(BUSY, twice_every=every))
    check(run)
    check_work(tasks, run, complete=False)
    assert set(check_refreshes(run)) == {3120, 1560}


def test_refreshes_of_the_host_are_not_lost():
    """A host that refreshes twice as often gets as many REFab: first those that the engine did ahead are made up for.

    One REFab of the host in each 1,500 clocks, one of the engine in each 3,120 by itself: from 8 ahead to one owed.
    """
    load = dataclasses.replace(BUSY, refresh_every=1500)
    tasks = random_tasks(TINY, 6000, 2, longest=40)
    run = run_engine(TINY, tasks, 60_000, load=load)
    check(run)
    check_refreshes(run)
    requests, done = np.flatnonzero(run.results["request"]), run.at(Command.REFab)
    ahead = np.arange(1, len(done) + 1) - np.searchsorted(requests, done)
    assert ahead[0] == 1
    assert ahead.min() >= 0
    late = done[10:] - requests[np.searchsorted(requests, done[10:]) - 1]
    assert set(late) == {owed_refresh_clocks(TINY, refresh_margins(timer_groups(TINY.constraints, 4, TINY.phases))) + 1}
    assert abs(len(done) - len(requests)) <= 1


def test_a_host_that_refreshes_all_the_time_breaks_no_rule():
    """Far more often than tRFC allows: one REFab after the other, PREab and banks between, and every rule kept."""
    load = dataclasses.replace(BUSY, refresh_every=60)
    run = run_engine(TINY, tasks := random_tasks(TINY, 2000, 3, longest=4), 30_000, load=load)
    check(run)
    gaps = check_refreshes(run)
    soon = owed_refresh_clocks(TINY, refresh_margins(timer_groups(TINY.constraints, 4, TINY.phases)))
    assert set(gaps[1:]) == {soon + 1}  # the first REFab was one ahead
    assert check_work(tasks, run, complete=False) > 500


def test_a_host_as_slow_as_the_engine_changes_nothing():
    """At most one refresh is owed, and not yet when the engine's own comes."""
    load = dataclasses.replace(BUSY, refresh_every=3125)
    run = run_engine(TINY, random_tasks(TINY, 3000, 3), 30_000, load=load)
    check(run)
    assert set(check_refreshes(run)) == {3120}


@dataclass(frozen=True, kw_only=True)
class LateParams(CommandEngineParams):
    """Parameters with a refresh one clock later than allowed."""

    @property
    def refresh_clocks(self) -> int:
        return super().refresh_clocks + 1


def test_a_late_refresh_is_noticed():
    params = LateParams(**dataclasses.asdict(TINY))
    run = run_engine(params, random_tasks(params, 10, 1), 3 * params.refresh_clocks)
    with pytest.raises(RuleViolationError, match=r"^tREFI: REFab .* 12484 CK after REFab .* at most 12480"):
        check(run)


def test_one_bank_follows_the_schedule_by_hand():
    """Rows of one bank as close as the rules allow: ACT, 6 clocks, MAC, 254 clocks, last access, 3, PRE, 6, ACT."""
    whole, none = np.full(4, 128), np.zeros(4, dtype=np.int64)
    tasks = {"bank": none + 1, "row": np.array([7, 7, 8, 9]), "column": none, "count": whole, "kind": none}
    run = run_engine(TINY, tasks, 1500)
    expected = [("REFab", 0), *((name, 140 + clock) for name, clock in (
        ("ACT", 0), ("PIM_MAC", 6), ("PIM_MAC", 262), ("PREpb", 519), ("ACT", 525), ("PIM_MAC", 531),
        ("PREpb", 788), ("ACT", 794), ("PIM_MAC", 800), ("PREpb", 1057),
    ))]  # fmt: skip
    assert [(item.command.name, item.ck // 4 - 1) for item in run.trace] == expected
    assert [ends for item, ends in zip(run.trace, run.last, strict=True) if item.column is not None] == [True] * 4


def test_a_64_bit_tag_is_handed_on():
    """A tag of 64 bits is handed on unchanged, and has no other effect."""
    params = dataclasses.replace(TINY, tag_bits=64, bus_tag_bits=33)
    tasks = random_tasks(params, 300, 1)
    tasks["tag"] = np.random.default_rng(1).integers(0, 2, (300, 64))
    run = run_engine(params, tasks, 8000, load=BOTH)
    check(run)
    check_work(tasks, run, complete=True)
    same = {name: column for name, column in tasks.items() if name != "tag"}
    assert run_engine(TINY, same, 8000, load=BOTH).trace == run.trace


# ------------------------------------------------------------------------------------------------ fairness and hold


@pytest.mark.parametrize(
    ("patience_clocks", "least", "most"),
    [(64, 200, 850), pytest.param(1024, 1500, 3500, marks=pytest.mark.slow)],
)
def test_no_bank_starves(patience_clocks, least, most):
    """Fifteen banks hit their rows with RD for ever; the WR of the last one waits as long as the others are let."""
    params = dataclasses.replace(FULL, patience_clocks=patience_clocks)
    bank = np.random.default_rng(3).integers(0, 15, 2000)
    bank[::100] = 15
    tasks = {"bank": bank, "row": np.zeros_like(bank), "column": np.zeros_like(bank), "count": np.full(2000, 16)}
    tasks["kind"] = np.where(bank == 15, RowTaskKind.WR, RowTaskKind.RD)
    run = run_engine(params, tasks, 45_000)
    check(run)
    check_work(tasks, run, complete=True)
    ck = {c: np.array([x.ck for x in run.trace if x.command is c and x.bank == x.bank_group == 3]) for c in Command}
    acts, writes = ck[Command.ACT], ck[Command.WR]
    waited = writes[np.searchsorted(writes, acts)] - acts
    assert least <= waited.max() // params.ck_per_clock <= most


def waits_outside_refresh(run: Run, at: np.ndarray) -> int:
    """Longest distance of these clocks, without the intervals in which the rank was refreshed."""
    refreshes = run.at(Command.REFab)
    busy = np.searchsorted(refreshes, at[1:]) > np.searchsorted(refreshes, at[:-1])
    return int(np.diff(at)[~busy].max())


@pytest.mark.parametrize(
    ("kind", "load"),
    [
        pytest.param(kind, load, marks=[] if row == column else pytest.mark.slow, id=f"{kind}-{load.bus_kinds}")
        for row, kind in enumerate(("RD", "WR", "all"))
        for column, load in enumerate((READS, WRITES, BOTH))
    ],
)
def test_banks_and_bus_take_turns(kind, load):
    """Both saturated: each has about half of the time, and waits for the turn of the other and a turn-around."""
    tasks = random_tasks(FULL, 4000, 1, kinds=kind, rows=1)
    run = run_engine(FULL, tasks, clocks := 16_000, load=load)
    check(run)
    check_work(tasks, run, complete=False)
    banks, bus = run.at(Command.RD, Command.WR), run.at(*BUS_COMMANDS)
    most = FULL.patience_clocks + 24
    assert waits_outside_refresh(run, bus) <= most
    assert waits_outside_refresh(run, banks) <= most + (FULL.patience_clocks if kind == "all" else 0)
    assert len(banks) >= clocks * 0.3
    assert len(bus) >= clocks * {READS: 0.4, WRITES: 0.2, BOTH: 0.18}[load]  # PIM_WR_SB every other clock


def test_one_access_passes_a_saturated_bus():
    """A RD or WR of a bank, beside MACs of the others, waits for one turn of the bus and no longer."""
    tasks = mac_tasks(FULL, 16 * 60)
    rare = np.arange(len(tasks["bank"])) % 97 == 0
    tasks["kind"] = np.where(rare, RowTaskKind.RD + np.arange(len(rare)) % 2, RowTaskKind.MAC)
    tasks["count"] = np.where(rare, 1, tasks["count"])
    run = run_engine(FULL, tasks, clocks := 18_000, load=READS)
    check(run)
    check_work(tasks, run, complete=True)
    opened, waits = {}, []
    for item in run.trace:
        if item.command is Command.ACT:
            opened[item.bank_group, item.bank] = item.ck
        elif item.command in (Command.RD, Command.WR):
            waits.append((item.ck - opened[item.bank_group, item.bank]) // FULL.ck_per_clock)
    assert len(waits) == rare.sum()
    assert max(waits) <= FULL.patience_clocks + 40
    assert len(run.at(*BUS_COMMANDS)) > 0.85 * clocks


def test_a_held_bank_holds_up_nobody():
    """Its row is opened, its MAC waits, and the banks that hit their rows with RD go on as if it were idle."""
    index = np.arange(1000)
    tasks = {"bank": 1 + index % 3, "row": index * 0, "column": index * 0, "count": index * 0 + 16}
    tasks["kind"] = index * 0 + RowTaskKind.RD
    first = {"bank": 0, "row": 0, "column": 0, "count": 128, "kind": RowTaskKind.MAC}
    tasks = {name: np.append(first[name], column) for name, column in tasks.items()}
    held, free = (
        run_engine(TINY, tasks, 40_000, load=Load(hold_mask=mask, hold_clocks=65_535 if mask else 0)) for mask in (1, 0)
    )
    for run in (held, free):
        check(run)
    mine = [item.command for item in held.trace if (item.bank_group, item.bank) == (0, 0)]
    assert mine.count(Command.ACT) >= 1
    assert Command.PIM_MAC not in mine
    check_work(tasks, free, complete=True)
    check_work(tasks, held, complete=False)
    assert len(held.at(Command.RD)) == len(free.at(Command.RD))
    assert abs(held.at(Command.RD)[-1] - free.at(Command.RD)[-1]) < 300


# ------------------------------------------------------------------------------------------------ ownership


def test_the_host_takes_the_dram_over(count_vectors):
    """REFab first and then regularly; when the host takes over, no rule holds back any command that banks allow."""
    tasks, load = random_tasks(TINY, 3000, 1), Load(bus_kinds=3, bus_gap=7, host_every=7300, host_clocks=50)
    run = run_engine(TINY, tasks, clocks := 90_000, load=load)
    check_bus_and_hold(run)
    check_work(tasks, run, complete=True)
    enable, idle, valid = (run.results[name] for name in ("enable", "idle", "valid"))
    edges = np.diff(enable, prepend=0, append=0)
    part, ck = (TINY.timing, TINY.organization), TINY.ck_per_clock
    sessions = list(zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True))
    assert len(sessions) > 9
    for first, end in sessions:
        inside = [item for item in run.trace if first * ck <= item.ck < end * ck]
        assert (inside[0].command, inside[0].ck) == (Command.REFab, (first + 1) * ck)
        assert not idle[first + 1 : first + 1 + TINY.timing.nRFC // ck].any()
        if end == clocks:
            continue
        assert idle[end - 1]
        bank = {"bank_group": 1, "bank": 1}
        for command, given in (
            (Command.REFab, {}),
            (Command.ACT, {**bank, "row": 0}),
            (Command.PIM_WR_SB, {}),
            (Command.PIM_RD_RB, bank),
        ):
            checker = RuleChecker(part, TINY.constraints, start_ck=int(first) * ck)
            checker.check_trace([*inside, TracedCommand(int(end) * ck, command, 0, **given)])
    issuing = valid | run.results["bus_valid"]
    assert not issuing[enable == 0].any()
    assert not issuing[(idle == 1) & (enable == 1)].any()
    count_vectors("command engine, commands under the rule checker", len(run.trace))


# ------------------------------------------------------------------------------------------------ banks that stream


def violation(run: Run, limit: int) -> RuleViolationError | None:
    checker = RuleChecker(
        (run.params.timing, run.params.organization), run.params.constraints, max_streaming_banks=limit
    )
    try:
        checker.check_trace(run.trace)
    except RuleViolationError as error:
        return error
    return None


def in_flight(run: Run) -> np.ndarray:
    """Number of banks with a PIM_MAC in flight in each clock, by its commands alone."""
    clocks = np.zeros(len(run.results["valid"]) + 2000, np.int64)
    for item in run.trace:
        if item.command is Command.PIM_MAC:
            clock = item.ck // run.params.ck_per_clock
            clocks[clock : clock + item.count * run.params.mac_interval_clocks] += 1
    return clocks


@pytest.mark.parametrize("limit", [1, 3, 4, 7])
def test_no_more_banks_stream_than_may(limit, count_vectors):
    """At the limit all the time, and not above; an engine without it, or with one bank more, is noticed."""
    params = dataclasses.replace(EIGHT, max_streaming_banks=limit)
    run = run_engine(params, mac_tasks(params, 8 * 60), clocks := 8_000, load=READS)
    check(run)
    check_work(mac_tasks(params, 8 * 60), run, complete=False)
    streaming = in_flight(run)[:clocks]
    assert streaming.max() == limit
    assert (streaming == limit).mean() > (0.85 if limit < 7 else 0.6)
    more = dataclasses.replace(params, max_streaming_banks=(limit + 1) % 8)
    loose = run_engine(more, mac_tasks(params, 8 * 60), clocks, load=READS)
    check(loose)
    found = violation(loose, limit)
    assert found is not None
    assert found.rule == "streaming_banks"
    count_vectors("command engine, commands under the rule checker", len(run.trace))


@pytest.mark.parametrize("seed", range(2))
def test_random_tasks_of_banks_that_wait_to_stream(seed, count_vectors):
    """Every kind of task, held banks and bus commands, with two banks of four at once: legal, in order and complete."""
    params = dataclasses.replace(TINY, max_streaming_banks=2, bus_tccd=("long", "short")[seed])
    tasks = random_tasks(params, 2000, seed, longest=(16, 100)[seed])
    run = run_engine(params, tasks, (60_000, 200_000)[seed], load=(MIXED, BUSY)[seed])
    check(run)
    check_work(tasks, run, complete=True)
    count_vectors("command engine, commands under the rule checker", len(run.trace))


def test_a_place_to_stream_is_free_after_the_last_access():
    """Another bank's PIM_MAC follows in the clock after a whole access, and not before: 16 accesses of 2 clocks."""
    params = dataclasses.replace(TINY, max_streaming_banks=1)
    tasks = mac_tasks(params, 40)
    tasks["count"] = tasks["count"] * 0 + 16
    run = run_engine(params, tasks, 4000)
    check(run)
    macs = run.at(Command.PIM_MAC)
    assert set(np.diff(macs)[np.diff(macs) < 60]) == {32}
    trace = [dataclasses.replace(x, ck=x.ck - int(x.ck == macs[5] * 4)) for x in run.trace]
    early = dataclasses.replace(run, trace=sorted(trace, key=lambda x: x.ck))
    assert violation(early, 1).rule == "streaming_banks"


def test_no_bank_starves_for_a_place_to_stream():
    """One place for eight banks, all of which want it: each gets about as many, and waits for a few of the others."""
    params = dataclasses.replace(EIGHT, max_streaming_banks=1, patience_clocks=64)
    run = run_engine(params, mac_tasks(params, 8 * 60), 30_000)
    check(run)
    streamed = [0] * 8
    for item in run.trace:
        if item.command is Command.PIM_MAC:
            streamed[item.bank_group * 2 + item.bank] += item.count
    assert min(streamed) >= 0.7 * max(streamed)
    assert sum(streamed) * params.mac_interval_clocks > 0.9 * 30_000


def test_a_limit_of_current_is_a_number_of_banks():
    assert [CommandEngineParams(max_current_ma=ma).streaming_limit for ma in (0, 470, 540, 5000)] == [16, 1, 9, 16]
    assert CommandEngineParams(max_current_ma=540, max_streaming_banks=4).streaming_limit == 4
    with pytest.raises(ParameterError, match=r"max_current_ma must be at least 461\.8, with which one bank may stream"):
        CommandEngineParams(max_current_ma=450)
    with pytest.raises(PimError, match="unknown part with documented supply currents 'ddr4-3200-x8-16gb'"):
        CommandEngineParams(preset="ddr4-3200-x8-16gb", max_current_ma=600)


# The rules. IMPLIED rules have no visible effect, for the reason given; mutation tests must notice all others.
IMPLIED = {
    "CA_1": "one command a clock and slot, and the slots 2 CK apart",
    "tRRD_S": "one clock",
    "tRC": "tRAS + tRP: 13 + 6 = 19 clocks",
    "tWR_WRA": "tWR + tRP: 11 + 6 = 17 clocks",
    "pim_RD_MAC": "two clocks, and a bank takes its next task in the clock between",
}
IMPLIED_PAIRS = {
    ("tCCD_S", "RD", "RD"): "one clock",
    ("tCCD_S", "PIM_RD_RB", "PIM_RD_RB"): "one clock",
    ("tCCD_S", "RD", "PIM_RD_RB"): "not in one clock: they take turns",
    ("tCCD_S_WR", "WR", "WR"): "one clock",
    ("tCCD_S_WR", "PIM_WR_SB", "PIM_WR_SB"): "one clock",
    ("tCCD_S_WR", "WR", "PIM_WR_SB"): "not in one clock: they take turns",
    ("tCCD_S_WR", "PIM_WR_SB", "WR"): "pim_WR_SB_write: 8 + 2 CK",
    ("tWTR_S", "PIM_WR_SB", "RD"): "tWTR_L: it reaches every bank_group",
    ("tWTR_S", "PIM_WR_SB", "PIM_RD_RB"): "tWTR_L: it reaches every bank_group",
    ("tRFC", "REFab", "PREpb"): "no row is open",
    ("tRFC", "REFab", "PREab"): "no row is open",
    ("tRFC", "REFab", "REFab"): "tREFI",
}
"""Pairs of the rules that bus commands take part in."""
FEW = dataclasses.replace(TINY, patience_clocks=8)
Pair = tuple[str, str, str]


def _pairs(rule: TimingConstraint) -> list[tuple[Command, Command]]:
    issued = set(ENGINE_COMMANDS)
    return [(a, b) for a in rule.preceding for b in rule.following if {a, b} <= issued and not rule.sibling]


def _on_bus(rule: TimingConstraint) -> bool:
    return rule.level is not Level.CHANNEL and any(set(pair) & set(BUS_COMMANDS) for pair in _pairs(rule))


RULES = [rule for rule in FULL.constraints if _pairs(rule)]
PAIRS: list[Pair] = [(rule.name, a.name, b.name) for rule in RULES if _on_bus(rule) for a, b in _pairs(rule)]
FELT = [rule.name for rule in RULES if not _on_bus(rule) and rule.name not in IMPLIED]
FELT_PAIRS = [pair for pair in PAIRS if pair not in IMPLIED_PAIRS]


SLACK = {
    ("tCCD_S", "PIM_RD_RB", "RD"): 1,
    ("tCCD_L", "RD", "RD"): 3,
    ("tCCD_L", "RD", "PIM_RD_RB"): 1,
    ("tCCD_L", "PIM_RD_RB", "RD"): 1,
    ("tCCD_L", "PIM_RD_RB", "PIM_RD_RB"): 3,
    ("pim_WR_SB_write", "PIM_WR_SB", "WR"): 1,
    ("pim_WR_SB_write", "PIM_WR_SB", "PIM_WR_SB"): 3,
    ("pim_write_WR_SB", "WR", "PIM_WR_SB"): 1,
    ("tRTW", "RD", "WR"): 3,
    ("tRTW", "RD", "PIM_WR_SB"): 1,
    ("tRTW", "PIM_RD_RB", "WR"): 1,
    ("tRTW", "PIM_RD_RB", "PIM_WR_SB"): 3,
    ("tWTR_S", "WR", "RD"): 3,
    ("tWTR_S", "WR", "PIM_RD_RB"): 1,
    ("tWTR_L", "WR", "RD"): 3,
    ("tWTR_L", "WR", "PIM_RD_RB"): 1,
    ("tWTR_L", "PIM_WR_SB", "RD"): 1,
    ("tWTR_L", "PIM_WR_SB", "PIM_RD_RB"): 3,
    ("tRFC", "REFab", "ACT"): 3,
    ("tRFC", "REFab", "PIM_WR_SB"): 1,
    ("tRFC", "REFab", "PIM_RD_RB"): 1,
    ("pim_read_REF", "PIM_RD_RB", "REFab"): 3,
    ("pim_write_REF", "PIM_WR_SB", "REFab"): 1,
}
"""For each pair with an effect, the CK by which it may be shorter without effect on the engine: rounded away."""


def next_shorter(params: CommandEngineParams, rule: TimingConstraint, before: Command, after: Command) -> int:
    """Greatest latency that is a clock less than that of the rule; 0 or less where any latency keeps the clock."""
    offset = params.phases[before] - params.phases[after]
    clocks = -(-(rule.latency_cycles + offset) // params.ck_per_clock)
    return (clocks - 1) * params.ck_per_clock - offset


def split(rule: TimingConstraint) -> dict[Pair, TimingConstraint]:
    """The rule as rules of a single pair."""
    return {
        (rule.name, a.name, b.name): dataclasses.replace(rule, preceding=(a,), following=(b,)) for a, b in _pairs(rule)
    }


def mutated(params: CommandEngineParams, what: str | Pair, change: str) -> list[TimingConstraint]:
    """The table with a rule, or one pair of it, dropped, or shortened by the least that makes it a clock shorter."""
    name, pair = (what, None) if isinstance(what, str) else (what[0], what)
    (rule,) = (rule for rule in params.constraints if rule.name == name)
    parts = split(rule)
    changed = parts.pop(pair) if pair else rule
    latency = next_shorter(params, rule, changed.preceding[0], changed.following[0])
    table = [other for other in params.constraints if other.name != name] + list(parts.values() if pair else ())
    if change == "shortened" and latency >= 1:
        table.append(dataclasses.replace(changed, latency_cycles=latency))
    return table


EVERYDAY = [  # each is a build of its own
    ("tRCD_MAC", "shortened"),
    (("tWTR_L", "PIM_WR_SB", "RD"), "shortened"),
    (("tWTR_L", "WR", "PIM_RD_RB"), "shortened"),
    (("tCCD_L", "PIM_RD_RB", "PIM_RD_RB"), "dropped"),
    (("pim_WR_SB_write", "PIM_WR_SB", "PIM_WR_SB"), "dropped"),
    (("tCCD_S", "PIM_RD_RB", "RD"), "dropped"),
    (("tRTW", "RD", "PIM_WR_SB"), "shortened"),
    (("tRFC", "REFab", "PIM_RD_RB"), "shortened"),
    (("pim_read_REF", "PIM_RD_RB", "REFab"), "shortened"),
    (("pim_write_REF", "PIM_WR_SB", "REFab"), "shortened"),
]
MUTATIONS = [
    pytest.param(what, change, marks=[] if (what, change) in EVERYDAY else pytest.mark.slow)
    for what in (*FELT, *FELT_PAIRS)
    for change in ("dropped", "shortened")
]


@pytest.mark.parametrize(("what", "change"), MUTATIONS)
def test_an_engine_without_a_rule_breaks_it(what, change):
    """An engine without the rule breaks that rule, and none before it. tFAW cannot bind with four banks (tRC)."""
    on_bus = what in FELT_PAIRS
    params, load = EIGHT if what == "tFAW" else FEW, Load(bus_kinds=3, bus_gap=7) if on_bus else NO_LOAD
    kinds, clocks = "all", 6000
    if on_bus and "REFab" in what:  # bus commands as close as they may be, so that the nearest legal one is tried
        load, kinds, clocks = Load(bus_kinds=2 if "PIM_RD_RB" in what else 1, bus_gap=3), "MAC", 60_000
    tasks = random_tasks(params, 1500, 2, longest=6, kinds=kinds)
    run = run_engine(params, tasks, clocks, mutated(params, what, change), load=load)
    with pytest.raises(RuleViolationError) as caught:
        check(run)
    found = caught.value
    assert what in (found.rule, (found.rule, found.earlier.command.name, found.later.command.name))


def test_implied_rules_need_no_timer():
    """Without all the rules and pairs called implied the stream is still legal, with and without bus commands."""
    table = []
    for rule in (rule for rule in FEW.constraints if rule.name not in IMPLIED):
        parts = split(rule)
        table += [parts[pair] for pair in parts if pair not in IMPLIED_PAIRS] if set(parts) & set(PAIRS) else [rule]
    for load in (NO_LOAD, BOTH, MIXED):
        check(run_engine(FEW, random_tasks(FEW, 2500, 3, longest=6), 12_000, table, load=load))
    assert set(IMPLIED) <= {rule.name for rule in RULES}
    assert set(IMPLIED_PAIRS) <= set(PAIRS)


def test_changes_within_rounding_have_no_effect():
    """One CK off changes nothing for these pairs; the mutants above are one CK beyond."""
    slack = {}
    for rule in RULES:
        for a, b in _pairs(rule):
            if (rule.name, a.name, b.name) in FELT_PAIRS:
                slack[rule.name, a.name, b.name] = rule.latency_cycles - next_shorter(FULL, rule, a, b) - 1
    assert slack == SLACK


def test_rules_become_timers():
    """Same level, preceding commands of one phase, and window: one timer, with every latency that its rules name."""
    groups = timer_groups(FULL.constraints, 4, FULL.phases)
    keys = [(group.level, group.events, group.window) for group in groups]
    assert len(set(keys)) == len(keys) == 17
    found = {(g.level.value, *(c.name for c in g.events)): {c.name: n for c, n in g.ready_clocks} for g in groups}
    assert found["bank", "ACT"] == {
        "ACT": 19, "REFab": 19, "PREpb": 13, "PREab": 13, "RD": 6, "WR": 6, "PIM_MAC": 6
    }  # fmt: skip
    assert found["rank", "RD"] == {"WR": 3, "PIM_WR_SB": 3, "PIM_RD_RB": 1}  # 12 CK; 12 - 2; 4 - 2: not in one clock
    assert found["rank", "PIM_RD_RB"] == {"RD": 2, "WR": 4, "PIM_WR_SB": 3, "REFab": 7}  # 4 + 2, 12 + 2, 12, 26 + 2
    assert found["rank", "PIM_WR_SB"] == {
        "RD": 7,
        "WR": 3,
        "PIM_RD_RB": 6,
        "PIM_WR_SB": 2,
        "REFab": 6,
    }  # 24 + 2, 8 + 2, 24, 8, 20 + 2; fmt: skip
    assert found["bank_group", "PIM_WR_SB"] == {"RD": 9, "PIM_RD_RB": 8}  # 32 + 2, 32 CK
    assert found["bank_group", "PIM_RD_RB"] == {"RD": 3, "PIM_RD_RB": 2}  # 8 + 2, 8 CK
    assert found["bank_group", "RD"] == {"RD": 2, "PIM_RD_RB": 2}  # 8, 8 - 2 CK
    assert found["rank", "REFab"]["PIM_RD_RB"] == 140  # 558 CK
    margins = {c.name: n for c, n in refresh_margins(groups).items()}
    assert margins == {
        "PREab": 6, "PREpb": 7, "RD": 9, "PIM_MAC": 9, "WR": 17, "ACT": 23, "PIM_WR_SB": 6, "PIM_RD_RB": 7
    }  # fmt: skip


@pytest.mark.parametrize("preset", DRAM_PRESETS)
@pytest.mark.parametrize("ck_per_clock", [2, 3, 4, 8])
def test_data_of_bus_commands_are_over_before_a_refresh(preset, ck_per_clock):
    """The margin of a bus command is the time of its data, counted from its phase; a PREab may come in between."""
    params = CommandEngineParams(preset=preset, ck_per_clock=ck_per_clock)
    timing = params.timing
    margins = refresh_margins(timer_groups(params.constraints, ck_per_clock, params.phases))
    for command, latency in ((Command.PIM_WR_SB, timing.nCWL), (Command.PIM_RD_RB, timing.nCL)):
        assert margins[command] == -(-(params.bus_phase_ck + latency + timing.nBL) // ck_per_clock)


@pytest.mark.parametrize("load", [READS, WRITES], ids=["reads", "writes"])
def test_bus_commands_go_on_until_their_margin(load):
    """The last one before each REFab is as late as its data allow: 28 and 24 CK at a phase of 2, for 26 and 20."""
    run = run_engine(TINY, random_tasks(TINY, 1, 1), 4 * TINY.refresh_clocks, load=load)
    check(run)
    bus, refreshes = run.at(*BUS_COMMANDS), run.at(Command.REFab)[1:]
    last = refreshes - bus[np.searchsorted(bus, refreshes) - 1]
    assert set(last) == {7 if load is READS else 6}


@pytest.mark.slow
def test_a_margin_before_a_precharge_is_kept():
    """With a rule from them to PREab, as no table has one, bus commands stop in time for it, and REFab is not late."""
    given = {"name": "x", "level": Level.RANK, "preceding": (Command.PIM_WR_SB,), "latency_cycles": 70}
    extra = [
        TimingConstraint(**given, following=(Command.REFab,)),
        TimingConstraint(**{**given, "name": "y", "latency_cycles": 30}, following=(Command.PREab,)),
    ]
    table = [*TINY.constraints, *extra]
    margins = refresh_margins(timer_groups(table, 4, TINY.phases))
    assert margins[Command.PIM_WR_SB] == 18  # 72 CK
    run = run_engine(TINY, random_tasks(TINY, 3000, 1), 8 * TINY.refresh_clocks, table, load=BOTH)
    check(run)
    RuleChecker((TINY.timing, TINY.organization), table).check_trace(run.trace)
    assert set(np.diff(run.at(Command.REFab))) == {TINY.refresh_clocks}


def _rule(**change) -> TimingConstraint:
    given = {"name": "x", "level": Level.RANK, "preceding": (Command.ACT,), "latency_cycles": 9}
    return TimingConstraint(**{**given, **change})


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (_rule(following=(Command.PIM_MAC,)), "level of x must be bank, as it counts to PIM_MAC, not 'rank'"),
        (_rule(following=(Command.PIM_RD_RB,), window=2), "window of x must be 1, as it names PIM_MAC or a bus"),
        (_rule(preceding=BUS_COMMANDS, following=(Command.RD,), window=2), "window of x must be 1"),
    ],
)
def test_rules_without_a_timer_are_refused(rule, text):
    with pytest.raises(ParameterError, match=text):
        CommandEngine(params=FULL, constraints=[rule])


# ------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("ck_per_clock", 0, r"ck_per_clock must be 1\.\.8, not 0"),
        ("bank_groups", 8, "bank_groups must be a power of two up to 4, not 8"),
        ("banks_per_group", 3, "banks_per_group must be a power of two up to 4, not 3"),
        ("columns", 8, "columns must be a power of two from 16 up to 1024, not 8"),
        ("columns", 24, "columns must be a power of two from 16 up to 1024, not 24"),
        ("columns", 2048, "columns must be a power of two from 16 up to 1024, not 2048"),
        ("chips", 3, "chips must be an even number, 2 or more, not 3"),
        ("chips", 0, "chips must be an even number, 2 or more, not 0"),
        ("tag_bits", 65, r"tag_bits must be 1\.\.64, not 65"),
        ("bus_tag_bits", 0, r"bus_tag_bits must be 1\.\.64, not 0"),
        ("bus_tccd", "medium", "bus_tccd must be long or short, not 'medium'"),
        ("max_streaming_banks", -1, r"max_streaming_banks must be 0 \(no limit\) or more, not -1"),
        ("max_current_ma", -0.5, r"max_current_ma must be 0 \(no limit\) or more, not -0\.5"),
        ("patience_clocks", 4, r"patience_clocks must be 8\.\.1024, not 4"),
        ("preset", "ddr6", "unknown DRAM preset 'ddr6'"),
    ],
)
def test_parameters_are_checked(what, value, text):
    with pytest.raises(PimError, match=text):
        CommandEngineParams(**{what: value})


def test_a_clock_of_one_ck_has_no_bus_slot():
    params = dataclasses.replace(TINY, preset="ddr4-2400-x8-8gb", ck_per_clock=1)
    assert not params.has_bus_slot
    assert not {"bus", "bus_command"} & set(CommandEngine(params=params).signature.members)
    with pytest.raises(ParameterError, match="ck_per_clock must be 2 or more to issue bus commands, not 1"):
        _ = params.bus_phase_ck


@pytest.mark.parametrize(
    ("change", "chips", "columns", "rows", "page_bytes", "density_gbit"),
    [
        ({}, 8, 1024, 65_536, 1024, 8),
        ({"bank_groups": 2}, 8, 1024, 65_536, 1024, 4),
        ({"columns": 16, "chips": 2}, 2, 16, 524_288, 16, 1),
        ({"columns": 128, "bank_groups": 1, "banks_per_group": 2}, 8, 128, 524_288, 128, 1),
    ],
)
def test_small_organizations(change, chips, columns, rows, page_bytes, density_gbit):
    org = CommandEngineParams(**change).organization
    assert (org.ranks, org.chips_per_rank, org.columns, org.rows) == (1, chips, columns, rows)
    assert (org.page_bytes, org.density_gbit) == (page_bytes, density_gbit)


def test_tfaw_can_be_waived():
    """Short rows of 8 banks: with the waiver ACTs come closer than tFAW allows, and nothing else is broken."""
    params = dataclasses.replace(EIGHT, columns=16, chips=2, relaxed_faw=True)
    assert {r.name for r in EIGHT.constraints} - {r.name for r in params.constraints} == {"tFAW"}
    run = run_engine(params, mac_tasks(params, 1000), 2 * params.refresh_clocks)
    check(run)
    with pytest.raises(RuleViolationError, match=r"^tFAW: "):
        RuleChecker((params.timing, params.organization)).check_trace(run.trace)


@pytest.mark.parametrize(
    "params",
    [
        TINY,
        FULL,
        CommandEngineParams(bank_groups=2, banks_per_group=1, split_bursts=False, columns=16, tag_bits=64),
        CommandEngineParams(preset="ddr4-2400-x8-8gb", ck_per_clock=1, bank_groups=2, banks_per_group=1),
    ],
    ids=["tiny", "full", "two", "one-ck"],
)
def test_lint(params, tmp_path):
    source = tmp_path / "engine.v"
    source.write_text(component_verilog(CommandEngine(params=params), "engine"))
    assert lint_warnings(source, "engine") == []
