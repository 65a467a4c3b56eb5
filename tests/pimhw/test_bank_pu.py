"""Bank PU: equal to its golden model, with the stated cycles and status bits.

The file is long because one bench, a script of bursts with its golden state, serves every test.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field

import numpy as np
import pytest
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
from pimspec.fields import Field, FieldTable
from pimspec.formats import BF16, FP16
from pimspec.golden.bank_pu import BankState, Burst, burst, empty_bank, write_operand
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.params.bank_pu import BankPuParams

STALLS = {"none": (0.0, 0.0), "idle": (0.4, 0.0), "backpressure": (0.0, 0.4), "both": (0.4, 0.4)}
QUIET_CLOCKS = 64  # clocks without a result, before the sums or the status are delivered
SCORE, SUM, REPORT = range(3)  # kind of a delivered beat
STATUS_BITS = ("overflow", "stray", "early", "refused")


def params_of(lanes: int, rows: int, head_dim: int, format, **more) -> BankPuParams:
    """Parameters as in a chip of 16 banks, or `lanes` dims if a bank's share would be less."""
    given = {"dims_per_bank": max(lanes, head_dim // 16), "operand_words": 64} | more
    return BankPuParams(format=format, lanes=lanes, queries_at_once=rows, head_dim=head_dim, **given)


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
EVERYDAY = ("4x1-128-fp16", "4x1-64-bf16")  # the others take up to a minute to build


def variants(*names: str):
    """Test parameters: every set outside EVERYDAY runs with the slow tests."""
    return [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in names]


class Scripted(wiring.Component):
    """The unit with all of its inputs in one stream, taken one beat a clock: a beat holds the inputs of one clock.

    A beat with `show` delivers the sums of set `select_set`, dim `select`, as they are in its clock, and waits until
    they are taken. A beat with `report` waits until no score came for QUIET_CLOCKS, then delivers the status (and
    whether a command was refused). Scores go first.
    """

    def __init__(self, params: BankPuParams) -> None:
        self.params = p = params
        self.inputs = FieldTable(
            *(Field(name=f"{n}_valid", width=1) for n in ("command", "operand", "column")),
            Field(name="report", width=1),
            Field(name="show", width=1),
            Field(name="select_set", width=1),
            Field(name="select", width=p.dim_width),
            *p.commands.fields,
            *(Field(name=f"w_{f.name}", width=f.width, count=f.count) for f in p.operands.fields),
            *p.inputs.fields,
        )
        self.outputs = FieldTable(
            *p.outputs.fields, Field(name="kind", width=2), *(Field(name=n, width=1) for n in STATUS_BITS)
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
        bits, at = beat.as_value()[6 + p.dim_width :], p.commands.width
        taken = self.i.valid & self.i.ready
        told = Mux(beat.show, SUM, REPORT)
        m.d.comb += [
            unit.command.payload.eq(bits[:at]),
            unit.operand.payload.eq(bits[at : at + p.operands.width]),
            unit.column.payload.eq(beat.data),
            unit.command.valid.eq(taken & beat.command_valid),
            unit.operand.valid.eq(taken & beat.operand_valid),
            unit.column.valid.eq(taken & beat.column_valid),
            unit.sum_select.eq(beat.select),
            unit.sum_set.eq(beat.select_set),
            self.i.ready.eq(Mux(beat.show, self.o.ready & ~unit.o.valid, ~beat.report | (tell & self.o.ready))),
            self.o.valid.eq(unit.o.valid | (self.i.valid & (beat.show | (beat.report & tell)))),
            unit.o.ready.eq(self.o.ready),
            self.o.payload.as_value().eq(
                Mux(
                    unit.o.valid,
                    unit.o.payload.as_value(),
                    Cat(Mux(beat.show, unit.sum.as_value(), 0), told[:2], unit.status.as_value(), refused),
                )
            ),
        ]
        m.d.sync += refused.eq(refused | (unit.command.valid & ~unit.command.ready))
        with m.If(unit.o.valid | ~beat.report | ~self.i.valid):
            m.d.sync += quiet.eq(0)
        with m.Elif(~tell):
            m.d.sync += quiet.eq(quiet + 1)
        return m


@dataclass
class Script:
    """Builder of the beats of a run and, by the golden model, of its expected results."""

    params: BankPuParams
    beats: list[dict[str, object]] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    columns_at: list[int] = field(default_factory=list)  # beat of each column access
    begun: set[int] = field(default_factory=set)  # sets of sums that a `first` token has begun
    still_at: list[int] = field(default_factory=lambda: [0, 0])  # beat from which the sums of a set stand
    scored_at: int = 0  # beat from which no score comes any more

    def __post_init__(self) -> None:
        p = self.params
        self.table = Scripted(p).inputs
        self.nothing = {f.name: np.zeros(f.count) if f.count else 0 for f in self.table.fields}
        self.state = empty_bank(p)

    def beat(self, **given) -> None:
        self.beats.append(self.nothing | given)

    def idle(self, clocks: int) -> None:
        for _ in range(clocks):
            self.beat()

    def fill(self, values, first_word: int = 0, keep=None) -> None:
        """Write words of the operand buffer; `values` of shape (words, rows, lanes), `keep` (words, lanes) or all."""
        lanes = self.params.lanes
        for k, parts in enumerate(values):
            address = (first_word + k) % self.params.operand_words
            kept = np.ones(lanes, np.int64) if keep is None else keep[k]
            for row, part in enumerate(parts):
                here = kept if row == len(parts) - 1 else 1 - kept  # the last write of a word counts
                bits = int((here << np.arange(lanes)).sum())
                self.state = write_operand(self.state, address, row, part, here)
                self.beat(operand_valid=1, w_data=part, w_keep=bits, w_address=address, w_row=row)

    def look(self, at: int, which: int, dim: int, want) -> None:
        """Look at sums of a set in an existing beat, after all looks so far."""
        self.sums.append(want)
        self.beats[at].update(show=1, select_set=which, select=dim)

    def show_sums(self) -> None:
        """Look at all sums that have begun, one dim a clock."""
        for which in sorted(self.begun):
            for dim, want in enumerate(self.state.by_dim(which)):
                self.beat()
                self.look(len(self.beats) - 1, which, dim, want)

    def burst(self, command: Burst, columns, *, chain: bool = False, gap: int | None = None, watch=None) -> None:
        """Add a burst of one column access each `interval` clocks.

        With `chain` its command arrives with the last column access of the burst before, and its first access
        `interval` clocks after that, or `gap` clocks. `watch`, a random generator, looks at sums of the set that the
        burst does not use (of either, in K), in the clocks in which they are stable.
        """
        p = self.params
        if chain:
            self.beats[self.columns_at[-1]].update(command_valid=1, **dataclasses.asdict(command))
        else:
            self.beat(command_valid=1, **dataclasses.asdict(command))
        if gap is not None:
            self.idle(self.columns_at[-1] + gap - len(self.beats))
        begin, before = len(self.beats), self.state
        for column in columns:
            self.columns_at.append(len(self.beats))
            self.beat(column_valid=1, data=column)
            self.idle(p.interval - 1)
        scores, self.state = burst(columns, command, self.state, p)
        self.scores.append(scores)
        whole = self.state.last
        if watch is not None:
            used = {whole.set} if whole.mode == MODE_LANE else set()
            self._watch(range(begin, len(self.beats)), before, self.begun - used, watch)
        if whole.mode == MODE_LANE and whole.first and whole.count >= p.accesses_per_v:
            self.begun.add(whole.set)
        if len(columns) and whole.mode == MODE_LANE:
            self.still_at[whole.set] = self.columns_at[-1] + p.sum_latency_cycles
        elif len(columns):
            self.scored_at = self.columns_at[-1] + p.latency_cycles

    def _watch(self, beats: range, state: BankState, sets: set[int], rng) -> None:
        for at in beats:
            here = sorted(which for which in sets if at >= self.still_at[which])
            if here and at >= self.scored_at and rng.random() < 0.7:  # a score would come before a look that waits
                which, dim = int(rng.choice(here)), int(rng.integers(self.params.dims_per_bank))
                self.look(at, which, dim, state.by_dim(which)[dim])

    def _run(self, unit: VerilatedUnit, **stalls):
        num_results = sum(map(len, self.scores)) + len(self.sums)
        beats = [*self.beats, self.nothing | {"report": 1}]
        operands = {name: np.array([b[name] for b in beats]).astype(np.int64) for name in self.nothing}
        run = unit.run(operands, num_results + 1, **stalls)
        assert run.results["kind"][-1] == REPORT
        return run, {n: int(run.results[n][-1]) for n in STATUS_BITS}

    def status(self, unit: VerilatedUnit) -> dict[str, int]:
        """Run without a look at the values, and return the status bits."""
        return self._run(unit)[1]

    def run(self, unit: VerilatedUnit, **stalls):
        """Run, compare all scores and sums, and return the run with the status bits."""
        run, status = self._run(unit, **stalls)
        none = np.zeros((0, self.params.queries_at_once), np.int64)
        for kind, name, want in ((SCORE, "score", self.scores), (SUM, "sum", [s[None] for s in self.sums])):
            wanted, got = np.concatenate([*want, none]), run.results["y"][run.results["kind"] == kind]
            assert got.shape == wanted.shape, f"{name}: {got.shape} for {wanted.shape} ({stalls})"
            bad = np.argwhere(got != wanted)
            assert len(bad) == 0, (
                f"{name}{bad[0]} is {got[tuple(bad[0])]:#x}, not {wanted[tuple(bad[0])]:#x}; {len(bad)} wrong"
            )
        return run, status


CLEAN = dict.fromkeys(STATUS_BITS, 0)


@functools.lru_cache(maxsize=4)
def verilog_of(params: BankPuParams) -> str:
    return component_verilog(Scripted(params), "bank_pu_scripted")


def unit_for(params: BankPuParams) -> VerilatedUnit:
    top = Scripted(params)
    return VerilatedUnit(verilog=verilog_of(params), top="bank_pu_scripted", inputs=top.inputs, outputs=top.outputs)


def numbers(rng, shape, params: BankPuParams, kind: str = "plain"):
    """Numbers like those of attention, arbitrary ones, or special values mixed in."""
    format, count = params.format, int(np.prod(shape))
    if kind == "wild":
        values = random_numbers(rng, count, format)
    else:
        values = random_numbers(rng, count, format, format.bias - 6, format.bias + 2)
    if kind == "special":
        values = np.where(rng.random(count) < 0.02, rng.choice(corners(format), count), values)
    return values.reshape(shape)


def mixed_script(params: BankPuParams, seed: int, kind: str) -> Script:
    """K rows, V rows of two segments with absent tokens, cut K, V that goes on, with operand writes during bursts.

    Sums of one set are looked at while bursts work on the other.
    """
    p, rng = params, np.random.default_rng(seed)
    script = Script(p)
    one, other = (0, 1) if rng.integers(2) else (1, 0)  # sets of sums

    def values(*shape):
        return numbers(rng, shape, p, kind)

    def k_burst(tokens: int, **how) -> None:
        command = Burst(MODE_TREE, int(rng.integers(2)), 0, tokens * p.accesses_per_k, set=int(rng.integers(2)))
        script.burst(command, values(command.count, p.lanes), **how)

    def v_burst(tokens: int, first: int, which: int, **how) -> None:
        start = p.accesses_per_k + int(rng.integers(4))
        command = Burst(MODE_LANE, first, start, tokens * p.accesses_per_v, set=which)
        script.burst(command, values(command.count, p.lanes), watch=rng, **how)

    def resumed(count: int, **how) -> None:
        mode, first, start, which = rng.integers(2, size=4).tolist()
        script.burst(Burst(mode, first, start, count, 1, which), values(count, p.lanes), watch=rng, **how)

    row = p.max_columns // p.accesses_per_k, p.max_columns // p.accesses_per_v
    keep = (rng.random((p.operand_words, p.lanes)) < 0.8).astype(np.int64)
    script.fill(values(p.operand_words, p.queries_at_once, p.lanes), 0, keep)
    k_burst(row[0])
    k_burst(row[0], chain=True)
    v_burst(row[1], 1, one, chain=True, gap=p.mode_gap_cycles)
    v_burst(row[1], 1, other, chain=True)  # perhaps beginning with an absent token, like any with `first`
    k_burst(row[0], chain=True)  # the sums outlast it
    cut = int(rng.integers(p.accesses_per_k + 1))
    resumed(cut, chain=True)
    resumed(p.accesses_per_k - cut)
    script.fill(values(4, p.queries_at_once, p.lanes), p.accesses_per_k, keep[::-1][:4])
    v_burst(row[1], 0, one, gap=p.mode_gap_cycles + 4 * p.queries_at_once + 1)
    cut = int(rng.integers(2 * p.accesses_per_v + 1))
    resumed(cut)
    resumed(2 * p.accesses_per_v - cut, chain=cut > 0)
    v_burst(row[1] // 2, 0, other, chain=True)
    for _ in range(24):
        which, first = (int(rng.random() < chance) for chance in (0.5, 0.2))
        v_burst(int(rng.integers(1, 3)), first, which, chain=True, gap=p.interval + int(rng.integers(2)))
    k_burst(1, chain=True)
    script.idle(30)
    script.show_sums()
    v_burst(row[1], 1, one)
    v_burst(row[1], 1, other)
    script.idle(20)
    script.show_sums()
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


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("variant", variants(*VARIANTS))
def test_latencies_are_as_stated(variant, which):
    """Whole rows without a bubble: each score, and the sums, come in the clock that the parameters state."""
    p = VARIANTS[variant]
    rng, script = np.random.default_rng(1), Script(VARIANTS[variant])
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))
    columns = numbers(rng, (4, p.max_columns, p.lanes), p)
    for k in range(3):
        script.burst(Burst(MODE_TREE, 0, 0, p.max_columns), columns[k], chain=k > 0)
    v_columns = p.max_columns // p.accesses_per_v * p.accesses_per_v
    command, dim = Burst(MODE_LANE, 1, 3, v_columns, set=which), p.dims_per_bank - 1
    script.burst(command, columns[3][:v_columns], chain=True, gap=p.mode_gap_cycles)
    at = np.array(script.columns_at)
    assert (np.diff(at[: 3 * p.max_columns]) == p.interval).all()
    script.idle(at[-1] + p.sum_latency_cycles + 1 - len(script.beats))
    script.look(at[-1] + p.sum_latency_cycles, which, dim, script.state.by_dim(which)[dim])
    with unit_for(p) as unit:
        run, status = script.run(unit)
    assert status == CLEAN
    came = run.delivered_at[run.results["kind"] == SCORE] - run.accepted_at[0]
    ends = at[: 3 * p.max_columns][p.accesses_per_k - 1 :: p.accesses_per_k]
    assert (came - ends == p.latency_cycles).all()
    shown = run.delivered_at[run.results["kind"] == SUM] - run.accepted_at[0]
    assert (shown - at[-1] == p.sum_latency_cycles).all()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("variant", variants("4x1-128-fp16", "4x1-64-bf16", "4x3-64-fp16", "8x1-64-fp16"))
def test_sums_change_in_the_stated_clock(variant, which):
    """A clock before the stated latency the sums of the last access are still the old ones.

    Meanwhile V goes on in the other set, which has its own latency.
    """
    p = VARIANTS[variant]
    rng, script, dim = np.random.default_rng(5), Script(p), p.dims_per_bank - 1
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))
    mine = Burst(MODE_LANE, 1, 0, p.accesses_per_v, set=which)
    tokens = -(-(p.sum_latency_cycles + 2) // (p.accesses_per_v * p.interval))
    others = Burst(MODE_LANE, 1, 1, tokens * p.accesses_per_v, set=1 - which)
    last_token = Burst(MODE_LANE, 0, 0, p.accesses_per_v, resume=1, set=which)
    states, ends = [], []
    for command in (mine, others, mine, others, last_token):
        states.append(script.state)
        script.burst(command, numbers(rng, (command.count, p.lanes), p), chain=len(states) > 1)
        ends.append(script.columns_at[-1])
    script.idle(30)
    for k, one in ((2, which), (4, 1 - which)):
        old, new = (state.by_dim(one)[dim] for state in (states[k], script.state))
        assert not np.array_equal(old, new)
        script.look(ends[k] + p.sum_latency_cycles - 1, one, dim, old)
        script.look(ends[k] + p.sum_latency_cycles, one, dim, new)
    script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


FORWARDING = ("4x1-64-bf16", "4x3-64-fp16", "4x8-64-fp16")  # an addition begins as the one before it ends


@pytest.mark.parametrize("variant", variants("4x1-128-fp16", "8x1-64-fp16", *FORWARDING))
def test_sets_of_sums_may_change_with_each_token(variant):
    """Bursts of one token, an interval apart: each order of sets in 8 of them, then random ones with gaps and `first`.

    Sums of the unused set are looked at in each clock in which they are stable.
    """
    p = VARIANTS[variant]
    rng, script = np.random.default_rng(9), Script(p)
    assert (p.accesses_per_v * p.interval == p.add_depth) == (variant in FORWARDING)
    keep = (rng.random((p.operand_words, p.lanes)) < 0.9).astype(np.int64)
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p), 0, keep)

    def token(which: int, first: int, gap: int) -> None:
        command = Burst(MODE_LANE, first, int(rng.integers(p.operand_words)), p.accesses_per_v, set=which)
        columns = numbers(rng, (command.count, p.lanes), p)
        script.burst(command, columns, chain=len(script.columns_at) > 0, gap=gap or None, watch=rng)

    token(0, 1, 0)
    token(1, 1, p.interval)
    for order in range(1 << 8):
        for k in range(8):
            token(order >> k & 1, 0, p.interval)
    for _ in range(500):
        token(int(rng.integers(2)), int(rng.random() < 0.2), p.interval + int(rng.choice(3, p=[0.8, 0.1, 0.1])))
    script.idle(20)
    script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN
    assert len(script.sums) > 200


@pytest.mark.parametrize("variant", variants(*VARIANTS))
def test_first_leaves_the_other_set_alone(variant):
    """`first` in one set, at each distance from the last access of the other, also with an absent token.

    A K burst in between names either set.
    """
    p = VARIANTS[variant]
    rng, script = np.random.default_rng(10), Script(p)
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))
    script.fill(
        numbers(rng, (1, p.queries_at_once, p.lanes), p), 1, np.arange(p.lanes)[None] != 0
    )  # its first token is absent
    count = 3 * p.accesses_per_v
    for gap in range(p.interval, p.sum_latency_cycles + 2):
        for which in (0, 1):
            for start in (0, 1):
                for one, first, word, wait in (
                    (which, 1, 0, None),
                    (which, 0, 2, p.interval),
                    (1 - which, 1, start, gap),
                ):
                    chain, columns = wait is not None, numbers(rng, (count, p.lanes), p)
                    script.burst(Burst(MODE_LANE, first, word, count, set=one), columns, chain=chain, gap=wait)
                kept = script.state.by_dim(which)
                script.idle(20)
                script.show_sums()
                tree = Burst(MODE_TREE, 1, 0, p.accesses_per_k, set=which)
                script.burst(tree, numbers(rng, (tree.count, p.lanes), p), watch=rng)
                script.idle(p.mode_gap_cycles + p.latency_cycles)
                again = Burst(MODE_LANE, 1, start, count, set=1 - which)
                script.burst(again, numbers(rng, (count, p.lanes), p), watch=rng)
                assert np.array_equal(script.state.by_dim(which), kept)
                script.idle(20)
                script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


@pytest.mark.parametrize("variant", variants("4x1-128-fp16", "4x1-64-bf16", "4x3-64-fp16", "8x1-64-fp16"))
def test_gaps_down_to_the_stated_one_work(variant):
    """From V to V, V to K, K to K and K to V: at the gap all is well; one clock less is reported."""
    p = VARIANTS[variant]
    rng, v_count = np.random.default_rng(2), 2 * p.accesses_per_v

    def script_with(sets: tuple[int, int], sum_gap: int, mode_gap: int, tree_gap: int = p.interval) -> Script:
        script = Script(p)
        script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))
        lanes = [Burst(MODE_LANE, 1, 0, v_count, set=which) for which in sets]
        tree = Burst(MODE_TREE, 0, 0, p.accesses_per_k, set=sets[0])
        for lane, gap in zip(lanes, (None, sum_gap), strict=True):
            script.burst(lane, numbers(rng, (v_count, p.lanes), p), chain=gap is not None, gap=gap)
            if sum_gap < p.interval:
                script.beats = script.beats[: script.columns_at[-1] + 1]
        script.burst(tree, numbers(rng, (tree.count, p.lanes), p), chain=True, gap=p.interval)
        if tree_gap < p.interval:
            script.beats = script.beats[: script.columns_at[-1] + 1]
        script.burst(tree, numbers(rng, (tree.count, p.lanes), p), chain=True, gap=tree_gap)
        script.burst(lanes[0], numbers(rng, (v_count, p.lanes), p), chain=True, gap=mode_gap)
        script.idle(30)
        script.show_sums()
        return script

    mode = p.mode_gap_cycles
    short = [(p.interval, mode - 1)]
    short += [(p.interval, mode, p.interval - 1), (p.interval - 1, mode)] if p.interval > 1 else []
    for sets in ((0, 0), (0, 1), (1, 0), (1, 1)):
        with unit_for(p) as unit:
            assert script_with(sets, p.interval, mode).run(unit)[1] == CLEAN
        for gaps in short:
            with unit_for(p) as unit:
                assert script_with(sets, *gaps).status(unit) == CLEAN | {"early": 1}


def test_broken_tokens_and_empty_bursts():
    """Counts that are no whole number of tokens, counts of 0, and addresses over the end of the buffer, in any set."""
    p = VARIANTS["4x1-128-fp16"]
    rng, script = np.random.default_rng(3), Script(p)
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))
    program = (
        (MODE_LANE, 1, 3, 0), (MODE_LANE, 0, 5, 0), (MODE_LANE, 1, 0, 0), (MODE_TREE, 0, 40, 0), (MODE_TREE, 0, 33, 0),
        (MODE_TREE, 1, 0, 0), (MODE_LANE, 0, 1, 0), (MODE_LANE, 1, 127, 0), (MODE_TREE, 0, 0, 0), (MODE_LANE, 1, 33, 1),
        (MODE_LANE, 1, 0, 0), (MODE_TREE, 0, 3, 1), (MODE_TREE, 0, 0, 1), (MODE_TREE, 0, 126, 1),
    )  # fmt: skip
    for sets in np.vstack([np.zeros(len(program)), np.ones(len(program)), rng.integers(2, size=(6, len(program)))]):
        for (mode, first, count, resume), which in zip(program, sets.astype(int).tolist(), strict=True):
            script.idle(40)
            script.burst(Burst(mode, first, 50, count, resume, which), numbers(rng, (count, p.lanes), p))
            script.idle(40)
            script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


def test_a_broken_v_token_asks_for_one_more_clock():
    """The clock is needed before the same set goes on; the other set may go on at once."""
    p = VARIANTS["4x1-128-fp16"]
    rng, script = np.random.default_rng(11), Script(p)
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))

    def v_burst(which: int, first: int, count: int, gap: int | None) -> None:
        command = Burst(MODE_LANE, first, 3, count, set=which)
        script.burst(command, numbers(rng, (count, p.lanes), p), chain=gap is not None, gap=gap)

    for which in (0, 1):
        for first in (0, 1):
            v_burst(0, 1, 4, None)
            v_burst(1, 1, 4, p.interval)
            v_burst(which, first, 3, p.interval)
            v_burst(1 - which, 0, 3, p.interval)
            v_burst(which, 0, 1, p.interval)
            v_burst(which, 0, 4, p.interval + 1)
            script.idle(20)
            script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


@pytest.mark.parametrize("mode", [MODE_TREE, MODE_LANE])
def test_a_burst_may_be_cut_anywhere(mode):
    """Each place in two tokens: with a pause, a write of an operand not used any more, and no other burst between."""
    p = VARIANTS["4x1-128-fp16"]
    rng, script = np.random.default_rng(6), Script(p)
    keep = (rng.random((p.operand_words, p.lanes)) < 0.7).astype(np.int64)
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p, "wild"), 0, keep)
    count = 2 * (p.accesses_per_k if mode == MODE_TREE else p.accesses_per_v)
    columns = numbers(rng, (count, p.lanes), p, "wild")
    for cut in range(count + 1):
        script.idle(p.mode_gap_cycles)
        which = cut % 2
        script.burst(Burst(mode, 1, 5, cut, set=which), columns[:cut])
        script.idle(int(rng.integers(30)))
        script.burst(Burst(1 - mode, 1, 9, count - cut, resume=1, set=1 - which), columns[cut:])
        script.idle(20)
        script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


@pytest.mark.parametrize("variant", variants(*VARIANTS))
def test_absent_tokens_change_no_sum(variant):
    """Every pattern of absent tokens in a word, with NaN, infinities and both zeros in operands and columns."""
    p = VARIANTS[variant]
    rng, script = np.random.default_rng(7), Script(p)
    format = p.format
    odd = np.array(
        [format.nan, format.nan | 1, format.inf, format.inf | format.sign_mask, 0, format.sign_mask, format.one, 1]
    )
    count = p.lanes * p.accesses_per_v
    for pattern in range(min(1 << p.lanes, 64)):
        keep = pattern >> np.arange(p.lanes) & 1
        probs = np.where(
            keep, numbers(rng, (1, p.queries_at_once, p.lanes), p), rng.choice(odd, (1, p.queries_at_once, p.lanes))
        )
        if pattern % 5 == 0:
            probs = rng.choice(odd, (1, p.queries_at_once, p.lanes))
        script.fill(probs, 0, keep[None])
        columns = numbers(rng, (count, p.lanes), p)
        absent = np.repeat(keep == 0, p.accesses_per_v)
        columns[absent] = rng.choice(odd, (int(absent.sum()), p.lanes))
        if pattern % 3 == 0:
            columns = rng.choice(np.array([0, format.sign_mask]), (count, p.lanes))
        which = int(rng.integers(2))
        script.burst(Burst(MODE_LANE, 1, 0, count, set=which), columns)
        script.idle(12)
        script.show_sums()
        script.burst(Burst(MODE_LANE, 0, 0, count, set=which), columns[::-1])
        script.idle(12)
        script.show_sums()
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN


def test_a_stray_access_has_no_effect():
    p = VARIANTS["4x1-64-bf16"]
    rng, script = np.random.default_rng(4), Script(p)
    script.fill(numbers(rng, (p.operand_words, p.queries_at_once, p.lanes), p))
    script.beat(column_valid=1, data=numbers(rng, p.lanes, p))
    command = Burst(MODE_TREE, 0, 0, p.accesses_per_k)
    script.burst(command, numbers(rng, (command.count, p.lanes), p))
    script.beat(column_valid=1, data=numbers(rng, p.lanes, p))
    with unit_for(p) as unit:
        assert script.run(unit)[1] == CLEAN | {"stray": 1}


def test_a_lost_score_is_reported_and_the_status_can_be_cleared():
    """No result of `result_words` + 1 tokens is taken: the last is lost, the others stay."""
    p = BankPuParams(lanes=2, head_dim=2, dims_per_bank=2, operand_words=2, add_depth=1, interval=1)
    unit, seen = BankPu(params=p), []
    tokens = p.result_words + 1

    async def bench(ctx):
        for name, value in dataclasses.asdict(Burst(MODE_TREE, 0, 0, tokens)).items():
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
            assert count <= p.result_words
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
