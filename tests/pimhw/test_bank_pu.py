"""The bank PU against its golden model, and its cycles and status bits against what it states."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from pimhw.bank_pu import BankPu
from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimsim.lint import lint_warnings
from pimsim.stimulus import corners, random_numbers
from pimsim.verilated import VerilatedUnit
from pimspec.bank_params import BankPuParams
from pimspec.fields import Field, FieldTable
from pimspec.formats import BF16, FP16
from pimspec.golden.bank_pu import Burst, burst, empty_buffer, empty_sums, write_operand
from pimspec.golden.dot import MODE_LANE, MODE_TREE

STALLS = {"none": (0.0, 0.0), "idle": (0.4, 0.0), "backpressure": (0.0, 0.4), "both": (0.4, 0.4)}
QUIET_CLOCKS = 64  # without a result, before the status is told
STATUS_BITS = ("overflow", "stray", "early", "refused")


def params_of(lanes: int, rows: int, head_dim: int, fmt, **more) -> BankPuParams:
    """As a chip of 16 banks has it, or `lanes` dims if a bank's share would be less."""
    given = {"dims_per_bank": max(lanes, head_dim // 16), "operand_words": 64} | more
    return BankPuParams(format=fmt, lanes=lanes, rows=rows, head_dim=head_dim, **given)


VARIANTS = {
    "4x1-128-fp16": params_of(4, 1, 128, FP16),
    "4x1-64-bf16": params_of(4, 1, 64, BF16, interval=1, add_depth=1),  # one group, summed again in each clock
    "4x3-64-fp16": params_of(4, 3, 64, FP16, mul_depth=2, add_depth=3, interval=3),
    "8x1-64-fp16": params_of(8, 1, 64, FP16, interval=4, add_depth=3),
    "4x8-64-fp16": params_of(4, 8, 64, FP16, add_depth=1, interval=1),
}
SLOW = {
    "4x8-128-bf16": params_of(4, 8, 128, BF16),
    "8x3-128-bf16": params_of(8, 3, 128, BF16, dims_per_bank=32, interval=1, add_depth=1, result_words=3),
    "4x3-128-fp16": params_of(4, 3, 128, FP16),
    "8x8-128-fp16": params_of(8, 8, 128, FP16),
    "8x8-64-bf16": params_of(8, 8, 64, BF16, mul_depth=2),
}
EVERYDAY = {"4x1-128-fp16", "4x1-64-bf16"}  # the others take up to a minute to build


def variants(*names: str):
    """Test parameters: every set that is not an everyday one runs with the slow tests."""
    return [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in names]


class Scripted(wiring.Component):
    """The unit with all of its inputs in one stream, which it takes one beat a clock: a beat is what one clock does.

    A beat with `report` waits until no result came for QUIET_CLOCKS, then delivers the status (and whether a command
    was refused) in place of a result.
    """

    def __init__(self, params: BankPuParams) -> None:
        self.params = p = params
        self.inputs = FieldTable(
            *(Field(name=f"{n}_valid", width=1) for n in ("command", "operand", "column")),
            Field(name="report", width=1),
            *p.commands.fields,
            *(Field(name=f"w_{f.name}", width=f.width, count=f.count) for f in p.operands.fields),
            *p.inputs.fields,
        )
        self.outputs = FieldTable(
            *p.outputs.fields, Field(name="is_report", width=1), *(Field(name=n, width=1) for n in STATUS_BITS)
        )
        io = {"i": In(stream.Signature(layout_of(self.inputs))), "o": Out(stream.Signature(layout_of(self.outputs)))}
        super().__init__(io)

    def elaborate(self, platform) -> Module:
        m = Module()
        p = self.params
        m.submodules.unit = unit = BankPu(params=p)
        quiet, refused = Signal(range(QUIET_CLOCKS)), Signal()
        beat = self.i.payload
        tell = quiet == QUIET_CLOCKS - 1
        bits, at = beat.as_value()[4:], p.commands.width
        m.d.comb += [
            unit.command.payload.eq(bits[:at]),
            unit.operand.payload.eq(bits[at : at + p.operands.width]),
            unit.column.payload.eq(beat.data),
            unit.command.valid.eq(self.i.valid & beat.command_valid),
            unit.operand.valid.eq(self.i.valid & beat.operand_valid),
            unit.column.valid.eq(self.i.valid & beat.column_valid),
            self.i.ready.eq(~beat.report | (tell & self.o.ready)),
            self.o.valid.eq(unit.o.valid | (self.i.valid & beat.report & tell)),
            unit.o.ready.eq(self.o.ready),
            self.o.payload.eq(Mux(unit.o.valid, unit.o.payload, self._report(unit, refused))),
        ]
        m.d.sync += refused.eq(refused | (unit.command.valid & ~unit.command.ready))
        with m.If(unit.o.valid | ~beat.report | ~self.i.valid):
            m.d.sync += quiet.eq(0)
        with m.Elif(~tell):
            m.d.sync += quiet.eq(quiet + 1)
        return m

    def _report(self, unit, refused):
        zero = Signal(self.params.outputs.width)
        return Cat(zero, 1, unit.status.as_value(), refused)


@dataclass
class Script:
    """Builds the beats of a run and, by the golden model, what must come out: bursts as they are given."""

    params: BankPuParams
    beats: list[dict[str, object]] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    columns_at: list[int] = field(default_factory=list)  # beat of each column access

    def __post_init__(self) -> None:
        p = self.params
        self.table = Scripted(p).inputs
        self.nothing = {f.name: np.zeros(f.count) if f.count else 0 for f in self.table.fields}
        self.buffer, self.state = empty_buffer(p), empty_sums(p)

    def beat(self, **given) -> None:
        self.beats.append(self.nothing | given)

    def idle(self, clocks: int) -> None:
        for _ in range(clocks):
            self.beat()

    def fill(self, values, first_word: int = 0) -> None:
        """Write words of the operand buffer; `values` of shape (words, rows, lanes)."""
        for word, parts in enumerate(values, first_word):
            for row, part in enumerate(parts):
                address = word % self.params.operand_words
                self.buffer = write_operand(self.buffer, address, row, part)
                self.beat(operand_valid=1, w_data=part, w_address=address, w_row=row)

    def burst(self, command: Burst, columns, *, chain: bool = False, gap: int | None = None) -> None:
        """A burst of one column access each `interval` clocks.

        With `chain` its command arrives with the last column access of the burst before, and its first access
        `interval` clocks behind that, or `gap` clocks.
        """
        p = self.params
        if chain:
            self.beats[self.columns_at[-1]].update(command_valid=1, **dataclasses.asdict(command))
        else:
            self.beat(command_valid=1, **dataclasses.asdict(command))
        if gap is not None:
            self.idle(self.columns_at[-1] + gap - len(self.beats))
        for column in columns:
            self.columns_at.append(len(self.beats))
            self.beat(column_valid=1, data=column)
            self.idle(p.interval - 1)
        results, self.state = burst(columns, command, self.buffer, self.state, p)
        (self.scores if command.mode == MODE_TREE else self.sums).append(results)

    def _run(self, unit: VerilatedUnit, num_results: int, **stalls):
        beats = [*self.beats, self.nothing | {"report": 1}]
        operands = {name: np.array([b[name] for b in beats]).astype(np.int64) for name in self.nothing}
        run = unit.run(operands, num_results + 1, **stalls)
        assert run.results["is_report"].tolist() == [0] * num_results + [1]
        return run, {n: int(run.results[n][-1]) for n in STATUS_BITS}

    def status(self, unit: VerilatedUnit) -> dict[str, int]:
        """Run without a look at the values."""
        return self._run(unit, sum(map(len, self.scores + self.sums)))[1]

    def run(self, unit: VerilatedUnit, **stalls):
        """Run, compare all results, and return the run with the status bits."""
        want = {MODE_TREE: np.concatenate([*self.scores, np.zeros((0, self.params.rows), np.int64)])}
        want[MODE_LANE] = np.concatenate([*self.sums, np.zeros((0, self.params.rows), np.int64)])
        run, status = self._run(unit, sum(map(len, want.values())), **stalls)
        for mode, name in ((MODE_TREE, "scores"), (MODE_LANE, "sums")):
            got = run.results["y"][:-1][run.results["mode"][:-1] == mode]
            assert got.shape == want[mode].shape, f"{name}: {got.shape} for {want[mode].shape} ({stalls})"
            bad = np.argwhere(got != want[mode])
            assert len(bad) == 0, (
                f"{name}{bad[0]} is {got[tuple(bad[0])]:#x}, not {want[mode][tuple(bad[0])]:#x}; "
                f"{len(bad)} wrong ({stalls})"
            )
        return run, status


CLEAN = dict.fromkeys(STATUS_BITS, 0)


@functools.lru_cache(maxsize=4)
def verilog_of(params: BankPuParams) -> str:
    return verilog.convert(Scripted(params), name="bank_pu_scripted", strip_internal_attrs=True)


def unit_for(params: BankPuParams) -> VerilatedUnit:
    top = Scripted(params)
    return VerilatedUnit(verilog=verilog_of(params), top="bank_pu_scripted", inputs=top.inputs, outputs=top.outputs)


def numbers(rng, shape, params: BankPuParams, kind: str = "plain"):
    """Numbers like those of attention, arbitrary ones, or special values mixed in."""
    fmt, count = params.format, int(np.prod(shape))
    if kind == "wild":
        values = random_numbers(rng, count, fmt)
    else:
        values = random_numbers(rng, count, fmt, fmt.bias - 6, fmt.bias + 2)
    if kind == "special":
        values = np.where(rng.random(count) < 0.02, rng.choice(corners(fmt), count), values)
    return values.reshape(shape)


def mixed_script(params: BankPuParams, seed: int, kind: str) -> Script:
    """K rows, V rows, K, V that goes on, with operand writes while bursts run; V is read out at the end."""
    p, rng = params, np.random.default_rng(seed)
    script = Script(p)

    def values(*shape):
        return numbers(rng, shape, p, kind)

    def k_burst(tokens: int, **how) -> None:
        command = Burst(MODE_TREE, int(rng.integers(2)), int(rng.integers(2)), 0, tokens * p.accesses_per_k)
        script.burst(command, values(command.count, p.lanes), **how)

    def v_burst(tokens: int, first: int, last: int, **how) -> None:
        command = Burst(MODE_LANE, first, last, p.accesses_per_k, tokens * p.accesses_per_v)
        script.burst(command, values(command.count, p.lanes), **how)

    row = p.max_columns // p.accesses_per_k, p.max_columns // p.accesses_per_v
    script.fill(values(p.operand_words, p.rows, p.lanes))
    k_burst(row[0])
    k_burst(row[0], chain=True)
    v_burst(row[1], 1, 0, chain=True, gap=p.mode_gap_cycles)
    k_burst(row[0], chain=True)  # the sums outlast it
    script.fill(values(4, p.rows, p.lanes), p.accesses_per_k)
    v_burst(row[1], 0, 0, gap=p.mode_gap_cycles + 4 * p.rows + 1)
    v_burst(row[1], 0, 1, chain=True)
    k_burst(1, chain=True)  # scores and sums leave together
    script.idle(4 * p.dims_per_bank + 20)
    v_burst(1, 1, 1)
    script.idle(4 * p.dims_per_bank + 20)
    return script


@pytest.mark.parametrize("variant", variants(*VARIANTS, *SLOW))
def test_rtl_equals_golden(variant, count_vectors):
    """Plain, wild and special values; without stalls, with idle clocks, with results refused, with both."""
    params = (VARIANTS | SLOW)[variant]
    with unit_for(params) as unit:
        for seed, (idle, refuse) in enumerate(STALLS.values()):
            for kind in ("plain", "wild", "special"):
                script = mixed_script(params, seed, kind)
                _, status = script.run(unit, idle=idle, refuse=refuse, seed=seed)
                assert status == CLEAN, f"{status} (seed {seed}, {kind})"
                count_vectors("RTL bank PU (Verilator), column accesses", len(script.columns_at))


@pytest.mark.parametrize("variant", variants(*VARIANTS))
def test_latencies_are_as_stated(variant):
    """Whole rows without a bubble: each score, and the sums, come in the clock that the parameters state."""
    p = VARIANTS[variant]
    rng, script = np.random.default_rng(1), Script(VARIANTS[variant])
    script.fill(numbers(rng, (p.operand_words, p.rows, p.lanes), p))
    columns = numbers(rng, (4, p.max_columns, p.lanes), p)
    for k in range(3):
        script.burst(Burst(MODE_TREE, 0, 0, 0, p.max_columns), columns[k], chain=k > 0)
    script.burst(Burst(MODE_LANE, 1, 1, 3, p.max_columns), columns[3], chain=True, gap=p.mode_gap_cycles)
    at = np.array(script.columns_at)
    assert (np.diff(at[: 3 * p.max_columns]) == p.interval).all()
    with unit_for(p) as unit:
        run, status = script.run(unit)
    assert status == CLEAN
    came = run.delivered_at[:-1] - run.accepted_at[0]
    ends = at[: 3 * p.max_columns][p.accesses_per_k - 1 :: p.accesses_per_k]
    assert (came[: len(ends)] - ends == p.latency_cycles).all()
    assert (came[len(ends) :] - at[-1] == p.sum_latency_cycles + np.arange(p.dims_per_bank)).all()


@pytest.mark.parametrize("variant", variants("4x1-128-fp16", "4x1-64-bf16", "4x3-64-fp16", "8x1-64-fp16"))
def test_short_gaps_work_down_to_the_stated_one(variant):
    """From V to V, V to K, K to K and K to V: at the gap all is well; one clock less is noted."""
    p = VARIANTS[variant]
    rng, v_count = np.random.default_rng(2), 2 * p.accesses_per_v

    def script_with(sum_gap: int, mode_gap: int, tree_gap: int = p.interval) -> Script:
        script = Script(p)
        script.fill(numbers(rng, (p.operand_words, p.rows, p.lanes), p))
        lane, tree = Burst(MODE_LANE, 1, 1, 0, v_count), Burst(MODE_TREE, 0, 0, 0, p.accesses_per_k)
        script.burst(lane, numbers(rng, (v_count, p.lanes), p))
        script.burst(lane, numbers(rng, (v_count, p.lanes), p), chain=True, gap=sum_gap)
        script.burst(tree, numbers(rng, (tree.count, p.lanes), p), chain=True)
        if tree_gap < p.interval:
            script.beats = script.beats[: script.columns_at[-1] + 1]
        script.burst(tree, numbers(rng, (tree.count, p.lanes), p), chain=True, gap=tree_gap)
        script.burst(lane, numbers(rng, (v_count, p.lanes), p), chain=True, gap=mode_gap)
        return script

    sums, mode = p.sum_gap_cycles, p.mode_gap_cycles
    with unit_for(p) as unit:
        assert script_with(sums, mode).run(unit)[1] == CLEAN
    short = [((sums - 1, mode), "overflow"), ((sums, mode - 1), "early")]
    short += [((sums, mode, p.interval - 1), "early")] if p.interval > 1 else []
    for gaps, bit in short:
        with unit_for(p) as unit:
            assert script_with(*gaps).status(unit) == CLEAN | {bit: 1}


def test_broken_tokens_and_empty_bursts():
    """Counts that are no whole number of tokens, counts of 0, and addresses over the end of the buffer."""
    p = VARIANTS["4x1-128-fp16"]
    rng, script = np.random.default_rng(3), Script(p)
    script.fill(numbers(rng, (p.operand_words, p.rows, p.lanes), p))
    for mode, first, last, count in (
        (MODE_LANE, 1, 0, 3), (MODE_LANE, 0, 0, 5), (MODE_LANE, 1, 1, 0), (MODE_TREE, 0, 0, 40), (MODE_TREE, 0, 0, 33),
        (MODE_TREE, 1, 1, 0), (MODE_LANE, 0, 0, 1), (MODE_LANE, 1, 1, 127),
    ):  # fmt: skip
        script.idle(40)
        script.burst(Burst(mode, first, last, 50, count), numbers(rng, (count, p.lanes), p))
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


def test_a_stray_access_has_no_effect():
    p = VARIANTS["4x1-64-bf16"]
    rng, script = np.random.default_rng(4), Script(p)
    script.fill(numbers(rng, (p.operand_words, p.rows, p.lanes), p))
    script.beat(column_valid=1, data=numbers(rng, p.lanes, p))
    command = Burst(MODE_TREE, 0, 0, 0, p.accesses_per_k)
    script.burst(command, numbers(rng, (command.count, p.lanes), p))
    script.beat(column_valid=1, data=numbers(rng, p.lanes, p))
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN | {"stray": 1}


def test_a_lost_score_is_noted_and_the_status_can_be_cleared():
    """Nothing takes the results of `result_words` + 1 tokens: the last is lost, the others stay."""
    p = BankPuParams(lanes=2, head_dim=2, dims_per_bank=2, operand_words=2, add_depth=1, interval=1)
    unit, seen = BankPu(params=p), []
    tokens = p.result_words + 1

    async def bench(ctx):
        for name, value in dataclasses.asdict(Burst(MODE_TREE, 0, 0, 0, tokens)).items():
            ctx.set(unit.command.payload[name], value)
        ctx.set(unit.command.valid, 1)
        await ctx.tick()
        ctx.set(unit.command.valid, 0)
        ctx.set(unit.column.valid, 1)
        await ctx.tick().repeat(tokens)
        ctx.set(unit.column.valid, 0)
        await ctx.tick().repeat(p.latency_cycles)
        seen.append(ctx.get(unit.status.overflow))
        ctx.set(unit.status_clear, 1)
        await ctx.tick()
        seen.append(ctx.get(unit.status.as_value()))
        ctx.set(unit.o.ready, 1)
        count = 0
        while ctx.get(unit.o.valid):
            count += 1
            await ctx.tick()
        seen.append(count)

    simulator = Simulator(unit)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == [1, 0, p.result_words]


@pytest.mark.parametrize("variant", variants(*VARIANTS))
def test_verilog_is_clean(variant, tmp_path):
    source = tmp_path / "bank_pu.v"
    source.write_text(component_verilog(BankPu(params=VARIANTS[variant]), "bank_pu"))
    assert lint_warnings(source, "bank_pu") == []
