"""The softmax unit of the rank PU against its golden model, and its cycles against what it states."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from pimhw.pipeline import layout_of
from pimhw.rank_pu.softmax import Softmax
from pimsim.lint import lint_warnings
from pimsim.stimulus import corners, random_numbers
from pimsim.verilated import VerilatedUnit
from pimspec.errors import ParameterError
from pimspec.fields import Field, FieldTable
from pimspec.formats import BF16, FP32
from pimspec.golden.softmax import softmax
from pimspec.rank_params import SoftmaxParams

CONTEXTS = (1, 2, 15, 16, 17, 1000)
STALLS = {"none": (0.0, 0.0), "idle": (0.4, 0.0), "backpressure": (0.0, 0.4), "both": (0.4, 0.4)}
SCALE = int(np.float32(np.log2(np.e) / 8).view(np.uint32))
VARIANTS = {
    "default": SoftmaxParams(max_tokens=1024),
    "deep": SoftmaxParams(max_tokens=1024, mul_depth=3, add_depth=4, exp_depth=4, narrow_depth=2, parts=8),
    "bf16": SoftmaxParams(max_tokens=1024, format=BF16, lanes=8, exp_depth=1),
    "one-lane": SoftmaxParams(max_tokens=1000, lanes=1, add_depth=2, exp_depth=3, parts=16),
}


def beats_of(lengths, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """`keep` and `last` of segments with these numbers of tokens."""
    keep, last = [], []
    for length in lengths:
        num_beats = -(-length // lanes)
        keep.append((np.arange(num_beats * lanes) < length).astype(np.int64).reshape(num_beats, lanes))
        last.append((np.arange(num_beats) == num_beats - 1).astype(np.int64))
    return np.concatenate(keep), np.concatenate(last)


def make_operands(lengths, params: SoftmaxParams, seed: int) -> dict[str, np.ndarray]:
    """Scores like those of attention; kinds of segment with specials, equal scores, huge spreads, and holes."""
    rng = np.random.default_rng(seed)
    keep, last = beats_of(lengths, params.lanes)
    shape = keep.shape
    scores = (rng.normal(size=shape) * 20).astype(np.float32).view(np.uint32).astype(np.int64)
    segment = np.cumsum(last) - last
    kind = rng.integers(0, 16, len(lengths))[segment]
    scale = np.full(len(last), SCALE)
    special, wild = rng.choice(corners(FP32), shape), random_numbers(rng, scores.size, FP32).reshape(shape)
    negative = FP32.sign_mask | (rng.integers(0, 2, shape) * (130 << 23))  # -0 and -8
    rare = rng.random(shape) < 0.02
    for number, values in (
        (0, special),
        (1, wild),
        (2, np.full(shape, 0xC1230000)),
        (3, negative),
        (4, np.where(rare, FP32.inf | FP32.sign_mask, scores)),
        (5, np.where(rare, FP32.inf, scores)),
        (6, np.where(rare, FP32.nan | 5, scores)),
    ):
        scores = np.where((kind == number)[:, None], values, scores)
    keep = np.where((kind == 7)[:, None], keep * rng.integers(0, 2, shape), keep)
    keep = np.where((kind == 8)[:, None], 0, keep)
    scale = np.where(kind == 9, random_numbers(rng, len(scale), FP32, 100, 140)[segment], scale)
    return {"scores": scores, "keep": keep, "last": last, "scale": scale}


def expected_of(operands, params: SoftmaxParams):
    return softmax(
        operands["scores"], operands["keep"], operands["last"], operands["scale"], params.format, params.max_beats
    )


class Tagged(wiring.Component):
    """The unit with `scale` in its input stream and both outputs in one stream, statistics marked by `is_stats`.

    The two outputs get in each other's way, so that the pipeline has to stand still for one while the other is taken.
    """

    def __init__(self, params: SoftmaxParams) -> None:
        self.params = params
        self.inputs = FieldTable(*params.inputs.fields, Field(name="scale", width=32))
        self.outputs = FieldTable(*params.outputs.fields, *params.stats.fields, Field(name="is_stats", width=1))
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(self.inputs))),
                "o": Out(stream.Signature(layout_of(self.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit = unit = Softmax(params=self.params)
        locked, locked_stats, is_stats = Signal(), Signal(), Signal()
        m.d.comb += [
            unit.i.payload.eq(self.i.payload.as_value()[: self.params.inputs.width]),
            unit.scale.eq(self.i.payload.scale),
            unit.i.valid.eq(self.i.valid),
            self.i.ready.eq(unit.i.ready),
            is_stats.eq(Mux(locked, locked_stats, unit.stats.valid)),
            self.o.valid.eq(Mux(is_stats, unit.stats.valid, unit.o.valid)),
            unit.stats.ready.eq(is_stats & self.o.ready),
            unit.o.ready.eq(~is_stats & self.o.ready),
        ]
        width = self.params.outputs.width
        beat = unit.o.payload.as_value() & (~is_stats).replicate(width)
        stats = unit.stats.payload.as_value() & is_stats.replicate(self.params.stats.width)
        m.d.comb += self.o.payload.eq(Cat(beat, stats, is_stats))
        m.d.sync += [locked.eq(self.o.valid & ~self.o.ready), locked_stats.eq(is_stats)]
        return m


def unit_for(params: SoftmaxParams) -> VerilatedUnit:
    top = Tagged(params)
    text = verilog.convert(top, name="softmax_tagged", strip_internal_attrs=True)
    return VerilatedUnit(verilog=text, top="softmax_tagged", inputs=top.inputs, outputs=top.outputs)


def check_verilated(unit: VerilatedUnit, operands, params: SoftmaxParams, *, idle=0.0, refuse=0.0, seed=0) -> int:
    expected = expected_of(operands, params)
    num_results = len(expected.last) + len(expected.m)
    run = unit.run(operands, num_results, idle=idle, refuse=refuse, seed=seed)
    stats = run.results["is_stats"] == 1
    for name, want in expected._asdict().items():
        got = run.results[name][stats if name in ("m", "l", "more") else ~stats]
        assert got.shape == want.shape, f"{name}: {got.shape} for {want.shape} (seed {seed})"
        bad = np.flatnonzero((got != want).reshape(len(want), -1).any(axis=1))
        assert len(bad) == 0, f"{name}[{bad[0]}] is {got[bad[0]]}, not {want[bad[0]]}; {len(bad)} wrong (seed {seed})"
    return int(operands["keep"].sum())


@pytest.mark.parametrize("variant", VARIANTS)
def test_rtl_equals_golden(variant, count_vectors):
    """All kinds of segment at the lengths of `CONTEXTS` and random ones, with every kind of stall."""
    params = VARIANTS[variant]
    with unit_for(params) as unit:
        for seed, (idle, refuse) in enumerate(STALLS.values()):
            rng = np.random.default_rng(seed)
            lengths = rng.permutation(np.concatenate([CONTEXTS, rng.integers(1, 70, 150), [1, 1, 1, 1000, 2, 1000]]))
            operands = make_operands(lengths, params, seed)
            tokens = check_verilated(unit, operands, params, idle=idle, refuse=refuse, seed=seed)
            count_vectors("RTL softmax (Verilator), scores", tokens)


def test_a_long_segment_is_cut_into_parts():
    params = SoftmaxParams(max_tokens=32, parts=4)
    lengths = [32, 33, 31, 64, 1, 200, 28, 29, 300]
    operands = make_operands(lengths, params, 5)
    expected = expected_of(operands, params)
    assert expected.more.tolist() == [0, 1, 0, 0, 1, 0, 0, *[1] * 6, 0, 0, 0, *[1] * 9, 0]
    with unit_for(params) as unit:
        for idle, refuse in STALLS.values():
            check_verilated(unit, operands, params, idle=idle, refuse=refuse, seed=5)


def test_segments_of_the_full_default_length(count_vectors):
    """8192 tokens fill the score memory; 8193 are cut."""
    params = SoftmaxParams()
    operands = make_operands([8192, 8192, 8193, 8192], params, 0)
    with unit_for(params) as unit:
        count_vectors("RTL softmax (Verilator), scores", check_verilated(unit, operands, params))


@dataclass
class Bench:
    """Drives the unit in pysim; each of the three streams stalls on its own. The protocol monitor is always on."""

    params: SoftmaxParams
    idle: float = 0.0
    refuse: tuple[float, float] = (0.0, 0.0)
    seed: int = 0
    accepted_at: list[int] = field(default_factory=list)
    rows: dict[str, list[dict[str, object]]] = field(default_factory=lambda: {"o": [], "stats": []})
    taken_at: dict[str, list[int]] = field(default_factory=lambda: {"o": [], "stats": []})

    def run(self, operands, *, max_cycles: int = 100_000) -> Bench:
        unit = Softmax(params=self.params)
        expected = expected_of(operands, self.params)
        goal = {"o": len(expected.last), "stats": len(expected.m)}
        words = self.params.inputs.pack(operands)
        rng = np.random.default_rng(self.seed)
        tables = {"o": self.params.outputs, "stats": self.params.stats}

        async def bench(ctx) -> None:
            offering, held = False, {"o": None, "stats": None}
            for cycle in range(max_cycles):
                k = len(self.accepted_at)
                if not offering and k < len(words) and rng.random() >= self.idle:
                    ctx.set(unit.i.payload.as_value(), int.from_bytes(words[k].astype("<u4").tobytes(), "little"))
                    ctx.set(unit.scale, int(operands["scale"][k]))
                    offering = True
                ctx.set(unit.i.valid, offering)
                for name, chance in zip(("o", "stats"), self.refuse, strict=True):
                    port = getattr(unit, name)
                    ctx.set(port.ready, rng.random() >= chance)
                for name in ("o", "stats"):
                    held[name] = self._look(ctx, getattr(unit, name), name, cycle, held[name], tables[name])
                if offering and ctx.get(unit.i.ready):
                    self.accepted_at.append(cycle)
                    offering = False
                if all(len(self.rows[n]) == goal[n] for n in goal):
                    return
                await ctx.tick()
            pytest.fail(f"{ {n: len(r) for n, r in self.rows.items()} } of {goal} after {max_cycles} cycles")

        simulator = Simulator(unit)
        simulator.add_clock(1e-9)
        simulator.add_testbench(bench)
        simulator.run()
        self._compare(expected)
        return self

    def _look(self, ctx, port, name, cycle, held, table):
        valid, word = ctx.get(port.valid), ctx.get(port.payload.as_value())
        assert held is None or (valid and word == held), f"{name} dropped or changed a waiting result in cycle {cycle}"
        if not valid:
            return None
        if not ctx.get(port.ready):
            return word
        raw = np.frombuffer(word.to_bytes(4 * table.num_words, "little"), dtype="<u4").reshape(1, -1)
        self.rows[name].append({n: v[0] for n, v in table.unpack(raw).items()})
        self.taken_at[name].append(cycle)
        return None

    def _compare(self, expected) -> None:
        for name, want in expected._asdict().items():
            rows = self.rows["stats" if name in ("m", "l", "more") else "o"]
            np.testing.assert_array_equal([row[name] for row in rows], want, err_msg=f"{name}, seed {self.seed}")


@pytest.mark.parametrize(
    ("idle", "refuse"),
    [(0.0, (0.0, 0.0)), (0.5, (0.0, 0.0)), (0.0, (0.5, 0.0)), (0.0, (0.0, 0.9)), (0.0, (0.5, 0.9)), (0.5, (0.5, 0.5))],
)
def test_pysim_equals_golden(idle, refuse, count_vectors):
    params = SoftmaxParams(max_tokens=64)
    rng = np.random.default_rng(2)
    operands = make_operands(rng.integers(1, 40, 25), params, 2)
    Bench(params, idle=idle, refuse=refuse, seed=2).run(operands)
    count_vectors("RTL softmax in pysim, scores", int(operands["keep"].sum()))


# (first probabilities, statistics after a part of n beats less n): written out, so that neither the parameters nor
# the hardware can move alone.
CYCLES = {"default": (10, 12), "deep": (18, 26), "bf16": (10, 13), "one-lane": (10, 10)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_latency_is_as_stated(variant):
    params = VARIANTS[variant]
    n = 5
    operands = make_operands([n * params.lanes], params, 0)
    bench = Bench(params).run(operands)
    np.testing.assert_array_equal(np.diff(bench.accepted_at), 1)
    np.testing.assert_array_equal(np.diff(bench.taken_at["o"]), 1)
    latency = bench.taken_at["o"][0] - bench.accepted_at[-1]
    stats = bench.taken_at["stats"][0] - bench.accepted_at[-1]
    assert (params.latency_cycles, params.stats_latency_cycles(n) - n) == CYCLES[variant]
    assert (latency, stats - n) == CYCLES[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_segments_follow_without_a_bubble(variant):
    """Equal segments of the longest kind, and of the shortest that needs no bubble: a beat each clock in and out."""
    params = dataclasses.replace(VARIANTS[variant], max_tokens=24 * VARIANTS[variant].lanes)
    for num_beats, count in ((params.max_beats, 5), (params.bubble_free_beats, 20)):
        operands = make_operands([num_beats * params.lanes] * count, params, 1)
        bench = Bench(params).run(operands)
        np.testing.assert_array_equal(np.diff(bench.accepted_at), 1)
        np.testing.assert_array_equal(np.diff(bench.taken_at["o"]), 1)
        np.testing.assert_array_equal(np.diff(bench.taken_at["stats"]), num_beats)


def test_the_bubble_free_length_is_the_shortest():
    for params in (SoftmaxParams(max_tokens=64), SoftmaxParams(max_tokens=64, parts=8)):
        num_beats = params.bubble_free_beats - 1
        operands = make_operands([num_beats * params.lanes] * 12, params, 1)
        assert (np.diff(Bench(params).run(operands).accepted_at) > 1).any()


def test_unequal_segments_never_stop_the_input():
    """Pass 2 of a long segment overlaps pass 1 of several shorter ones and the other way round."""
    params = SoftmaxParams(max_tokens=128, parts=8)
    shortest = params.bubble_free_beats * params.lanes
    operands = make_operands([128, shortest, 40, 128, 16, 128, 128, shortest, 64], params, 4)
    bench = Bench(params).run(operands)
    np.testing.assert_array_equal(np.diff(bench.accepted_at), 1)
    ends = np.flatnonzero(operands["last"])
    for begin, end in zip([0, *ends[:-1] + 1], ends, strict=True):
        np.testing.assert_array_equal(np.diff(bench.taken_at["o"][begin : end + 1]), 1)


def test_a_refused_output_fills_the_memory_and_nothing_is_lost():
    """With `o` refused for long the input stops only when every row is taken."""
    params = SoftmaxParams(max_tokens=64)
    operands = make_operands([64, 64, 64, 64], params, 3)
    bench = Bench(params, refuse=(0.97, 0.0), seed=3).run(operands)
    gaps = np.diff(bench.accepted_at)
    in_flight = params.prob_cycles
    assert (gaps[: params.num_rows - 1] == 1).all()
    assert (gaps[params.num_rows + in_flight :] > 1).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_is_silent_on_the_unit(variant, tmp_path):
    """The arithmetic cores inside have their own lint test."""
    text = verilog.convert(Softmax(params=VARIANTS[variant]), name="softmax", strip_internal_attrs=True)
    source = tmp_path / "softmax.v"
    source.write_text(text)
    lines = text.splitlines()
    for warning in lint_warnings(source, "softmax"):
        number = int(warning.split(":")[2])
        head = next(lines[k] for k in range(number - 1, -1, -1) if lines[k].startswith("module"))
        assert not head.startswith(("module softmax(", "module \\softmax.rows", "module \\softmax.maxima")), warning


def test_parameters_are_checked():
    for wrong in ({"lanes": 3}, {"max_tokens": 30}, {"max_tokens": 4}, {"parts": 3}, {"format": FP32}):
        with pytest.raises(ParameterError):
            SoftmaxParams(**wrong)


def test_hardware_layout_is_the_contracts():
    params = SoftmaxParams()
    for table in (params.inputs, params.outputs, params.stats):
        layout = layout_of(table)
        assert layout.size == table.width
        assert [layout[row["name"]].offset for row in table.describe()] == [row["offset"] for row in table.describe()]
