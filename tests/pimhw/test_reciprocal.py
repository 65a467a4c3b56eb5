"""Reciprocal unit: equal to its golden model, with the stated latency and interval."""

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from pimhw.arith.reciprocal import Reciprocal
from pimhw.generate import component_verilog
from pimspec.formats import FORMATS, FP32, FloatFormat
from pimspec.golden.reciprocal import reciprocal
from pimspec.params.arith import ReciprocalParams

SEED = 21
ALL_PARAMS = [ReciprocalParams(format=f, bits_per_cycle=b) for f in FORMATS.values() for b in (1, 2, 4)]
STALLS = {"none": (0.0, 0.0), "idle": (0.8, 0.0), "backpressure": (0.0, 0.8), "both": (0.6, 0.6)}

# (latency, interval): written out, so that neither the parameters nor the hardware can change alone.
CYCLES = {
    ("fp32", 1): (27, 27),
    ("fp32", 2): (15, 15),
    ("fp32", 4): (9, 9),
    ("fp16", 1): (14, 14),
    ("fp16", 2): (8, 8),
    ("fp16", 4): (5, 5),
    ("bf16", 1): (11, 11),
    ("bf16", 2): (7, 7),
    ("bf16", 4): (5, 5),
}


def name_of(params: ReciprocalParams) -> str:
    return f"{params.format}-{params.bits_per_cycle}"


class Bench:
    """Bench that feeds operands in order and collects results, with the protocol monitor always on.

    Parameters
    ----------
    params : ReciprocalParams
    idle, hold : float
        Probabilities per cycle that no operand is offered (once one is, it stays) and that no result is taken.
    """

    def __init__(self, params: ReciprocalParams, idle: float = 0.0, hold: float = 0.0) -> None:
        self.dut, self.idle, self.hold = Reciprocal(params=params), idle, hold
        self.rng = np.random.default_rng(SEED)
        self.results: list[int] = []
        self.accepted: list[int] = []  # cycle numbers
        self.appeared: list[int] = []
        self.overlapped = 0  # operands accepted in the cycle in which a result left

    def run(self, operands: np.ndarray, limit_per_operand: int = 200) -> None:
        async def bench(ctx: SimulatorContext) -> None:
            waiting, held = [int(x) for x in operands], None
            offered = False
            for cycle in range(limit_per_operand * len(operands)):
                offered = offered or (bool(waiting) and self.rng.random() >= self.idle)
                ctx.set(self.dut.i.valid, offered)
                ctx.set(self.dut.i.payload.a, waiting[0] if offered else int(self.rng.integers(1 << 32)))
                ctx.set(self.dut.o.ready, self.rng.random() >= self.hold)
                held = self._look(ctx, cycle, held)
                if offered and ctx.get(self.dut.i.ready):
                    self.accepted.append(cycle)
                    waiting.pop(0)
                    offered = False
                if len(self.results) == len(operands):
                    return
                await ctx.tick()
            pytest.fail(f"{len(operands) - len(self.results)} results missing after {cycle} cycles")

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()

    def _look(self, ctx: SimulatorContext, cycle: int, held: int | None) -> int | None:
        """Watch the output; returns the payload that must still be there in the next cycle."""
        if not ctx.get(self.dut.o.valid):
            assert held is None, f"cycle {cycle}: valid fell before the result was taken"
            return None
        payload = ctx.get(self.dut.o.payload.y)
        if held is None:
            self.appeared.append(cycle)
        else:
            assert payload == held, f"cycle {cycle}: payload {payload:#x} while {held:#x} was not taken (seed {SEED})"
        if not ctx.get(self.dut.o.ready):
            return payload
        self.results.append(payload)
        self.overlapped += ctx.get(self.dut.i.ready & self.dut.i.valid)
        return None

    def check(self, operands: np.ndarray, format: FloatFormat) -> None:
        """Run `operands` and compare with golden."""
        self.run(operands)
        for k, (a, got, want) in enumerate(zip(operands, self.results, reciprocal(operands, format), strict=True)):
            assert got == want, f"{format} #{k}: 1/{a:#010x} gave {got:#x}, not {want:#x} (seed {SEED})"


def fp32_bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def directed(format: FloatFormat) -> np.ndarray:
    """Specials, subnormals, and powers of two with their neighbours at the borders of `format`."""
    specials = [0x00000000, 0x7F800000, 0x7F800001, 0x7FFFFFFF, 0x7FC00000]
    subnormal = [0x00000001, 0x007FFFFF, 0x00555555, 0x00300001, 0x001FFFFF]
    exponents = [0, 1, -1, format.emax, format.emax + 1, format.emax - 1, format.emin, format.emin - 1, format.emin + 1]
    exponents += [format.emin - format.fraction_bits - k for k in range(-1, 6)] + [126, 127, -126, -127]
    powers = [fp32_bits(2.0**-e) for e in exponents if -128 < e < 150]
    powers += [0x7F7FFFFF, 0x00800000, 0x00400000, 0x00200000]
    near = [p + d for p in powers for d in (-1, 0, 1) if p + d >= 0]
    patterns = np.array(sorted({*specials, *subnormal, *near}), dtype=np.int64)
    negative = np.arange(len(patterns)) % 3 == 0
    return np.concatenate(
        [patterns | (negative.astype(np.int64) << 31), np.array([0x80000000, 0xFF800000, 0xFF800123])]
    )


def random(format: FloatFormat, count: int, seed: int = SEED) -> np.ndarray:
    """Any pattern, and as many with a result that is not trivial in `format`."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 1 << 32, size=count)
    field = rng.integers(max(0, 125 - format.emax), min(254, 130 - format.emin + format.fraction_bits) + 1, size=count)
    return np.where(rng.random(count) < 0.3, a, a & 0x807FFFFF | field << 23)


@pytest.mark.parametrize("params", ALL_PARAMS, ids=name_of)
def test_results_without_stalls(params: ReciprocalParams) -> None:
    operands = np.concatenate([directed(params.format), random(params.format, 100)])
    Bench(params).check(operands, params.format)
    print(f"{name_of(params)}: {len(operands)} vectors")


@pytest.mark.parametrize("stalls", ["idle", "backpressure", "both"])
@pytest.mark.parametrize("params", ALL_PARAMS, ids=name_of)
def test_results_with_stalls(params: ReciprocalParams, stalls: str) -> None:
    bench = Bench(params, *STALLS[stalls])
    bench.check(random(params.format, 25, seed=SEED + 1), params.format)
    if stalls == "backpressure":
        assert bench.overlapped > 0


@pytest.mark.parametrize("params", ALL_PARAMS, ids=name_of)
def test_latency_and_interval(params: ReciprocalParams) -> None:
    bench = Bench(params)
    # Specials and a power of two among them: the time does not depend on the operand.
    bench.run(np.array([0x3FC00000, 0, FP32.one, FP32.inf, FP32.nan, 1, 0x7F7FFFFF, 0x40490FDB]))
    latency = {o - i for i, o in zip(bench.accepted, bench.appeared, strict=True)}
    interval = set(np.diff(bench.accepted).tolist())
    expected = CYCLES[str(params.format), params.bits_per_cycle]
    assert (params.latency_cycles, params.interval_cycles) == expected
    assert (latency, interval) == ({expected[0]}, {expected[1]})


def test_ready_only_while_idle_or_when_the_result_leaves() -> None:
    dut = Reciprocal(params=ReciprocalParams(bits_per_cycle=4))

    async def bench(ctx: SimulatorContext) -> None:
        assert (ctx.get(dut.i.ready), ctx.get(dut.o.valid)) == (1, 0)
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        ctx.set(dut.o.ready, 1)
        for _ in range(dut.params.latency_cycles - 1):
            assert (ctx.get(dut.i.ready), ctx.get(dut.o.valid)) == (0, 0)
            await ctx.tick()
        assert (ctx.get(dut.i.ready), ctx.get(dut.o.valid)) == (1, 1)
        ctx.set(dut.o.ready, 0)
        assert (ctx.get(dut.i.ready), ctx.get(dut.o.valid)) == (0, 1)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("params", ALL_PARAMS, ids=name_of)
def test_converts_to_verilog(params: ReciprocalParams) -> None:
    text = component_verilog(Reciprocal(params=params), "reciprocal")
    assert "module reciprocal(" in text
    assert f"[{params.format.width - 1}:0] o__payload" in text
