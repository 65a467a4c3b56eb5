"""Byte re-layout: the mapping, its inverse, the bypass, and the register stage."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimhw.generate import component_verilog
from pimhw.pipeline import layout_of
from pimhw.rank_pu.relayout import Relayout
from pimsim.lint import lint_warnings
from pimsim.pysim import run_pysim
from pimsim.verilated import VerilatedUnit
from pimspec.errors import ParameterError
from pimspec.fields import Field, FieldTable
from pimspec.params.rank_pu import RelayoutParams

STALLS = {"none": (0.0, 0.0), "idle": (0.4, 0.0), "backpressure": (0.0, 0.4), "both": (0.4, 0.4)}
ALL_PARAMS = [RelayoutParams(dq_beats=w, stages=s) for w in (2, 4, 8, 16) for s in (0, 1)]
ALL_PARAMS += [RelayoutParams(chips=4, dq_beats=8, stages=1)]


def transposed(data: np.ndarray, params: RelayoutParams) -> np.ndarray:
    """2x2 blocks of (beat, chip) transposed; `data` of shape (num_clocks, dq_beats * chips)."""
    blocks = data.reshape(-1, params.dq_beats // 2, 2, params.chips // 2, 2)
    return blocks.swapaxes(2, 4).reshape(data.shape)


class Streamed(wiring.Component):
    """The block behind an input register, between streams; `again` sends the bytes through a second block."""

    def __init__(self, params: RelayoutParams, *, again: bool = False) -> None:
        self.params, self.again = params, again
        self.inputs = FieldTable(*params.inputs.fields, Field(name="bypass", width=1))
        self.outputs = params.outputs
        self.latency_cycles = 1 + params.stages * (1 + again)
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(self.inputs))),
                "o": Out(stream.Signature(layout_of(self.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        valid, advance = Signal(self.latency_cycles), Signal()
        word = Signal.like(self.i.payload)
        m.d.comb += [
            self.o.valid.eq(valid[-1]),
            advance.eq(self.o.ready | ~self.o.valid),
            self.i.ready.eq(advance),
        ]
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(self.i.valid, valid)), word.eq(self.i.payload)]
        data, bypass = word.data, word.bypass
        for k in range(1 + self.again):
            m.submodules[f"block{k}"] = block = Relayout(params=self.params)
            m.d.comb += [block.i.data.eq(data), block.bypass.eq(bypass)]
            m.d.comb += block.en.eq(valid[k * self.params.stages] & advance)
            data = block.o.data
            if self.params.stages:
                later = Signal(name=f"bypass{k}")
                with m.If(block.en):
                    m.d.sync += later.eq(bypass)
                bypass = later
        m.d.comb += self.o.payload.data.eq(data)
        return m


def operands_for(params: RelayoutParams, count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (count, params.chips * params.dq_beats))
    return {"data": data, "bypass": rng.integers(0, 2, count)}


def expected_of(operands, params: RelayoutParams) -> np.ndarray:
    return np.where(operands["bypass"][:, None] == 1, operands["data"], transposed(operands["data"], params))


def name_of(params: RelayoutParams) -> str:
    return f"{params.chips}x{params.dq_beats}-{params.stages}"


def test_elements_end_up_whole_on_one_chip():
    """A 64-byte line: chip 2j holds 16-bit elements 8i + j, chip 2j + 1 elements 8i + 4 + j, low byte first."""
    params = RelayoutParams()
    elements = np.arange(32) + 0x4100
    line = np.stack([elements & 255, elements >> 8], axis=1).reshape(1, 64)
    at_chips = transposed(line, params).reshape(8, 8)  # (beat, chip)
    for chip in range(8):
        pairs = at_chips[:, chip].reshape(4, 2)
        got = pairs[:, 0] + 256 * pairs[:, 1]
        i = np.arange(4)
        np.testing.assert_array_equal(got, 0x4100 + 8 * i + chip // 2 + 4 * (chip % 2))


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("params", ALL_PARAMS, ids=name_of)
def test_pysim(params, stalls, count_vectors):
    idle, refuse = STALLS[stalls]
    top, operands = Streamed(params), operands_for(params, 50, 1)
    run = run_pysim(top, top, operands, 50, idle=idle, refuse=refuse, seed=1)
    np.testing.assert_array_equal(run.results["data"], expected_of(operands, params))
    count_vectors("RTL relayout in pysim, clocks", 50)


@pytest.mark.parametrize(
    "params",
    [pytest.param(p, marks=[] if p.dq_beats == 8 else pytest.mark.slow) for p in ALL_PARAMS],
    ids=[name_of(p) for p in ALL_PARAMS],
)
def test_verilated(params, count_vectors):
    """Streams without and with stalls; the stages it states; twice is the identity."""
    for again in (False, True):
        top = Streamed(params, again=again)
        text = component_verilog(top, "relayout_streamed")
        with VerilatedUnit(verilog=text, top="relayout_streamed", inputs=top.inputs, outputs=top.outputs) as unit:
            for seed, (idle, refuse) in enumerate(STALLS.values()):
                operands = operands_for(params, 5000, seed)
                run = unit.run(operands, idle=idle, refuse=refuse, seed=seed)
                expected = operands["data"] if again else expected_of(operands, params)
                np.testing.assert_array_equal(run.results["data"], expected)
                if seed == 0:
                    np.testing.assert_array_equal(np.diff(run.accepted_at), 1)
                    np.testing.assert_array_equal(run.delivered_at - run.accepted_at, top.latency_cycles)
                count_vectors("RTL relayout (Verilator), clocks", 5000)


@pytest.mark.parametrize("params", ALL_PARAMS, ids=name_of)
def test_lint_is_silent(params, tmp_path):
    source = tmp_path / "relayout.v"
    source.write_text(component_verilog(Relayout(params=params), "relayout"))
    assert lint_warnings(source, "relayout") == []


def test_parameters_are_checked():
    for wrong in ({"chips": 3}, {"chips": 0}, {"dq_beats": 1}, {"dq_beats": 32}, {"stages": 2}):
        with pytest.raises(ParameterError):
            RelayoutParams(**wrong)
