"""Softmax unit of the rank PU: equal to its golden model, with the stated cycles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimhw.rank_pu.softmax import Softmax
from pimsim.lint import lint_warnings
from pimsim.pysim import run_pysim
from pimsim.softmax_stimulus import Schedule, make_item, make_items
from pimsim.verilated import StreamRun, VerilatedUnit
from pimspec.errors import ParameterError
from pimspec.fields import Field, FieldTable
from pimspec.formats import BF16, FP32
from pimspec.params.rank_pu import SoftmaxParams

VARIANTS = {
    "8-lanes": SoftmaxParams(lanes=8, queries_per_line=1, lines_per_group=4, max_lines=32, word_lines=8),
    "deep": SoftmaxParams(
        lanes=2, queries_per_line=2, lines_per_group=3, max_lines=16, word_lines=4,
        mul_depth=3, add_depth=4, exp_depth=4, narrow_depth=2,
    ),
    "bf16": SoftmaxParams(format=BF16, lanes=2, queries_per_line=4, lines_per_group=2, max_lines=16, word_lines=8,
                          exp_depth=1),
    "smallest": SoftmaxParams(lanes=2, queries_per_line=1, lines_per_group=1, max_lines=8, word_lines=4),
}  # fmt: skip
SLOW_VARIANTS = {
    "default": SoftmaxParams(),
    "16-lanes": SoftmaxParams(lanes=16, queries_per_line=1, lines_per_group=8, max_lines=64),
    "group-of-5": SoftmaxParams(
        lanes=4, queries_per_line=1, lines_per_group=5, max_lines=64, word_lines=4, add_depth=2, exp_depth=3
    ),
}
ALL_VARIANTS = {**VARIANTS, **SLOW_VARIANTS}
SLOW = [pytest.param(v, marks=pytest.mark.slow) for v in SLOW_VARIANTS]
LINT = ["deep", "smallest", *(pytest.param(v, marks=pytest.mark.slow) for v in ("8-lanes", "bf16")), *SLOW]
# Chances that no beat is offered, that `o` is refused and that `stats` is refused.
STALLS = {"none": (0, 0, 0), "idle": (0.4, 0, 0), "o": (0, 0.5, 0), "stats": (0, 0, 0.9), "all": (0.4, 0.8, 0.8)}


class Bench(wiring.Component):
    """All inputs of the unit in one stream, and all data taken from its outputs in another, which is never refused.

    The outputs of the unit are refused by chance, independently. Statistics leave when no word does; `cycle` is the
    cycle in which a beat was taken from the unit. `broken`: a waiting beat was dropped or changed.
    """

    def __init__(self, params: SoftmaxParams) -> None:
        self.params = params
        item = tuple(replace(f, name=f"item_{f.name}") for f in params.items.fields)
        stats = tuple(replace(f, name=f"stats_{f.name}") for f in params.stats.fields)
        flags = ("has_item", 1), ("has_score", 1), ("refuse_o", 8), ("refuse_stats", 8)
        more = ("cycle", 32), ("is_stats", 1), ("broken", 1)
        self.inputs = FieldTable(*item, *params.inputs.fields, *(Field(name=n, width=w) for n, w in flags))
        self.outputs = FieldTable(*params.outputs.fields, *stats, *(Field(name=n, width=w) for n, w in more))
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(self.inputs))),
                "o": Out(stream.Signature(layout_of(self.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        p, given = self.params, self.i.payload
        m.submodules.unit = unit = Softmax(params=p)
        m.submodules.queue = queue = SyncFIFO(width=p.stats.width + 32, depth=64)
        word, split, cycle = given.as_value(), p.items.width, Signal(32)
        m.d.comb += [
            unit.item.payload.eq(word[:split]),
            unit.score.payload.eq(word[split : split + p.inputs.width]),
            unit.item.valid.eq(self.i.valid & given.has_item),
            self.i.ready.eq(~given.has_item | unit.item.ready),
            unit.score.valid.eq(self.i.valid & self.i.ready & given.has_score),
        ]
        noise, noise1, noise2 = Signal(32, init=0x9E3779B9), Signal(32), Signal(32)
        m.d.comb += [noise1.eq(noise ^ (noise << 13)), noise2.eq(noise1 ^ (noise1 >> 17))]
        m.d.sync += [noise.eq(noise2 ^ (noise2 << 5)), cycle.eq(cycle + 1)]
        broken, taken, payloads = Signal(), [], []
        for k, (name, port) in enumerate({"o": unit.o, "stats": unit.stats}.items()):
            payload = port.payload.as_value()
            refuse, waited, before = Signal(8), Signal(), Signal(len(payload))
            with m.If(self.i.valid):
                m.d.sync += refuse.eq(given[f"refuse_{name}"])
            m.d.comb += port.ready.eq(noise[8 * k : 8 * k + 8] >= refuse)
            m.d.sync += [waited.eq(port.valid & ~port.ready), before.eq(payload)]
            with m.If(waited & (~port.valid | (payload != before))):
                m.d.sync += broken.eq(1)
            taken.append(port.valid & port.ready)
            payloads.append(payload)
        m.d.comb += [
            queue.w_en.eq(taken[1]),
            queue.w_data.eq(Cat(payloads[1], cycle)),
            queue.r_en.eq(~taken[0]),
            self.o.valid.eq(taken[0] | queue.r_rdy),
        ]
        with m.If(taken[0]):
            m.d.comb += self.o.payload.eq(Cat(payloads[0], Const(0, p.stats.width), cycle, Const(0, 1), broken))
        with m.Else():
            m.d.comb += self.o.payload.eq(Cat(Const(0, p.outputs.width), queue.r_data, Const(1, 1), broken))
        return m


@dataclass(kw_only=True)
class Observed:
    """Beats that left the unit: rows of each output, and the cycles of them and of the beats that entered."""

    rows: dict[str, dict[str, np.ndarray]]
    at: dict[str, np.ndarray]
    accepted_at: np.ndarray

    @classmethod
    def of(cls, run: StreamRun, params: SoftmaxParams) -> Observed:
        assert not run.results["broken"].any()
        is_stats, cycle = run.results["is_stats"] == 1, run.results["cycle"]
        # Words are seen in the cycle in which they are taken, which ties the two counts of cycles together.
        start = np.unique((run.delivered_at - cycle)[~is_stats])
        assert len(start) == 1
        rows, at = {}, {}
        for name, table, prefix in (("o", params.outputs, ""), ("stats", params.stats, "stats_")):
            here = is_stats == (name == "stats")
            rows[name] = {f.name: run.results[prefix + f.name][here] for f in table.fields}
            at[name] = (cycle + start)[here]
        return cls(rows=rows, at=at, accepted_at=run.accepted_at)


@cache
def verilog_of(params: SoftmaxParams) -> str:
    return component_verilog(Bench(params), "softmax_bench")


def run_verilated(params: SoftmaxParams, operands, num_results: int, **stalls) -> StreamRun:
    bench = Bench(params)
    with VerilatedUnit(
        verilog=verilog_of(params), top="softmax_bench", inputs=bench.inputs, outputs=bench.outputs
    ) as unit:
        return unit.run(operands, num_results, **stalls)


def run_in_pysim(params: SoftmaxParams, operands, num_results: int, **stalls) -> StreamRun:
    bench = Bench(params)
    return run_pysim(bench, bench, operands, num_results, **stalls)


def check(params: SoftmaxParams, schedule: Schedule, *, run=run_verilated, idle=0.0, refuse=(0.0, 0.0)) -> Observed:
    """Run a schedule and compare all results with the golden model's."""
    parts = [item.expected(params) for item in schedule.items]
    total = sum(len(part["last"]) for both in parts for part in both)
    got = Observed.of(run(params, schedule.operands(refuse), total, idle=idle, seed=schedule.seed), params)
    for k, name in enumerate(("o", "stats")):
        for column, values in got.rows[name].items():
            want = np.concatenate([both[k][column].reshape(-1, *values.shape[1:]) for both in parts])
            assert values.shape == want.shape, f"{name}.{column}: {values.shape} for {want.shape} ({schedule.seed=})"
            bad = np.flatnonzero((values != want).reshape(len(want), -1).any(axis=1))
            assert len(bad) == 0, f"{name}.{column}[{bad[0]}]: {values[bad[0]]} for {want[bad[0]]} ({schedule.seed=})"
    return got


def check_cycles(params: SoftmaxParams, schedule: Schedule, got: Observed) -> None:
    """Every word, entry of statistics and acceptance in the cycle that follows from those of the scores."""
    words, stats, ends, stats_free = [], [], [0], 0
    accepted = got.accepted_at
    for n, item in enumerate(schedule.items):
        begin = max(ends[-1], accepted[schedule.last_score[n]] + params.start_cycles)
        row = begin
        for first_line in range(0, item.num_lines, params.word_lines):
            for _ in range(item.num_group_lines):
                row += min(params.word_lines, item.num_lines - first_line)
                words.append(row + params.prob_cycles)
        ends.append(begin + item.num_beats)
        shown = max(stats_free, ends[-1] - 1 + params.sum_cycles)
        stats_free = shown + item.num_group_lines
        stats += range(shown, stats_free)
        announced = schedule.announced[n]
        if n >= 2:
            # With no beat withheld an announcement waits only for the end of the item before last.
            assert accepted[announced] == max(accepted[announced - 1] + 1, ends[n - 1])
    np.testing.assert_array_equal(got.at["o"], words)
    np.testing.assert_array_equal(got.at["stats"], stats)


@pytest.mark.parametrize("variant", [*VARIANTS, *SLOW])
def test_rtl_equals_golden(variant, count_vectors):
    """All kinds of item, of all lengths, in any order and interleaved, with every kind of stall."""
    params = ALL_VARIANTS[variant]
    for seed, (idle, *refuse) in enumerate(STALLS.values()):
        schedule = Schedule(params, make_items(params, 40, seed), seed, mix=(0.5, 0.0, 1.0)[seed % 3])
        got = check(params, schedule, idle=idle, refuse=tuple(refuse))
        if not (idle or any(refuse)):
            check_cycles(params, schedule, got)
        scores = sum(item.scores.size for item in schedule.items)
        count_vectors("RTL softmax (Verilator), scores", scores)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_rtl_equals_golden_at_length(variant, count_vectors):
    params = VARIANTS[variant]
    for seed in range(100, 120):
        idle, *refuse = list(STALLS.values())[seed % len(STALLS)]
        schedule = Schedule(params, make_items(params, 100, seed), seed, mix=(0.5, 0.0, 1.0)[seed % 3])
        check(params, schedule, idle=idle, refuse=tuple(refuse))
        count_vectors("RTL softmax (Verilator), scores", sum(item.scores.size for item in schedule.items))


def test_pysim_equals_golden(count_vectors):
    params = VARIANTS["smallest"]
    schedule = Schedule(params, make_items(params, 20, 2), 2)
    check_cycles(params, schedule, check(params, schedule, run=run_in_pysim))
    count_vectors("RTL softmax in pysim, scores", sum(item.scores.size for item in schedule.items))


def one_after_the_other(params: SoftmaxParams, shapes) -> Schedule:
    rng = np.random.default_rng(0)
    return Schedule(params, [make_item(params, rng, *shape) for shape in shapes], mix=0.0)


# From the last score of an item of 3 lines and 1 line of the group to its first word, to its first statistics, and to
# the first
# score of the item after next; and the entries of the table. Written out, so that neither the parameters nor the
# hardware can move alone.
CYCLES = {"8-lanes": (14, 18, 10, 16), "deep": (20, 25, 10, 32), "bf16": (11, 13, 8, 16), "smallest": (12, 14, 8, 16)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_latency_is_as_stated(variant):
    params = VARIANTS[variant]
    shape = {"num_lines": 3, "num_group_lines": 1}
    schedule = one_after_the_other(params, [(3, 1)] * 3)
    got = check(params, schedule)
    check_cycles(params, schedule, got)
    last = got.accepted_at[schedule.last_score[0]]
    after_next = schedule.announced[2] + 1
    measured = (got.at["o"][0] - last, got.at["stats"][0] - last, got.accepted_at[after_next] - last)
    stated = (
        params.probs_latency_cycles(num_lines=3),
        params.stats_latency_cycles(**shape),
        params.refill_cycles(**shape),
    )
    assert (*measured, params.stats_entries) == CYCLES[variant]
    assert (*stated, params.stats_entries) == CYCLES[variant]
    assert params.latency_cycles == stated[0] + params.word_lines - 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_items_follow_without_a_bubble(variant):
    """A long item, then short ones whose scores are complete when pass 2 reaches them: a row each clock."""
    params = VARIANTS[variant]
    shapes = [
        (params.max_lines, params.lines_per_group),
        (1, 1),
        (params.max_lines, 1),
        (params.word_lines + 1, params.lines_per_group),
    ]
    schedule = one_after_the_other(params, shapes)
    got = check(params, schedule)
    check_cycles(params, schedule, got)
    first = got.at["o"][: -(-params.max_lines // params.word_lines) * params.lines_per_group + 1]
    np.testing.assert_array_equal(np.diff(first), [params.word_lines] * (len(first) - 2) + [1])


def test_an_output_that_is_refused_leaves_the_other_alone():
    """All words that are complete are offered while no statistics are taken, and the other way round."""
    params = VARIANTS["smallest"]
    schedule = one_after_the_other(params, [(8, 1)] * 12)
    free = check(params, schedule)
    late = check(params, schedule, refuse=(0.0, 0.98))
    before = free.at["o"] - free.at["o"][0]
    np.testing.assert_array_equal(late.at["o"][:12] - late.at["o"][0], before[:12])
    assert (late.at["stats"] - free.at["stats"])[5] > 50


def test_statistics_refused_for_long_stop_pass_2_and_nothing_is_lost():
    params = VARIANTS["smallest"]
    schedule = one_after_the_other(params, [(1, 1)] * 60)
    got = check(params, schedule, refuse=(0.0, 0.98))
    words_ahead = np.searchsorted(got.at["o"], got.at["stats"]) - np.arange(60)
    assert words_ahead.max() == params.stats_entries


@pytest.mark.parametrize("variant", LINT)
def test_lint_is_silent(variant, tmp_path):
    source = tmp_path / "softmax.v"
    source.write_text(component_verilog(Softmax(params=ALL_VARIANTS[variant]), "softmax"))
    assert lint_warnings(source, "softmax") == []


def test_parameters_are_checked():
    for wrong in (
        {"lanes": 3}, {"lanes": 1}, {"queries_per_line": 3}, {"lines_per_group": 0}, {"lines_per_group": 9},
        {"max_lines": 24}, {"max_lines": 8},
        {"word_lines": 2}, {"format": FP32}, {"mul_depth": 9},
    ):  # fmt: skip
        with pytest.raises(ParameterError):
            SoftmaxParams(**wrong)


def test_hardware_layout_is_the_contracts():
    params = SoftmaxParams()
    for table in (params.items, params.inputs, params.outputs, params.stats):
        layout = layout_of(table)
        assert layout.size == table.width
        assert [layout[row["name"]].offset for row in table.describe()] == [row["offset"] for row in table.describe()]
