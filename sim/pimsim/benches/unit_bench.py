"""cocotb bench of any arithmetic unit: seeded operand sets against the golden model, with and without stalls.

Environment variables: ``DIMMPIM_SIDECAR`` (the unit's JSON), ``DIMMPIM_VECTORS``, ``DIMMPIM_SEED``.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

import cocotb
from pimsim.cocotb_stream import StreamDriver, StreamMonitor
from pimsim.stimulus import stimulus
from pimsim.verify import compare, expected_results
from pimspec.sidecar import params_from_sidecar


def _to_ints(words: np.ndarray) -> list[int]:
    return [int.from_bytes(np.ascontiguousarray(row, dtype="<u4").tobytes(), "little") for row in words]


def _to_words(beats: list[int], num_words: int) -> np.ndarray:
    raw = b"".join(b.to_bytes(4 * num_words, "little") for b in beats)
    return np.frombuffer(raw, dtype="<u4").reshape(-1, num_words)


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.3], refuse=[0.0, 0.3])
async def matches_golden(dut: Any, idle: float, refuse: float) -> None:
    """Every result equals the golden model's, and the output stream keeps the rules."""
    params = params_from_sidecar(json.loads(Path(os.environ["DIMMPIM_SIDECAR"]).read_text()))
    count, seed = int(os.environ["DIMMPIM_VECTORS"]), int(os.environ["DIMMPIM_SEED"])
    operands = stimulus(params, count, seed)
    expected = expected_results(params, operands)
    num_results = len(next(iter(expected.values())))

    driver = StreamDriver(dut, "i", idle=idle, rng=random.Random(seed))
    monitor = StreamMonitor(dut, "o", refuse=refuse, rng=random.Random(seed + 1))
    dut.rst.value = 1
    Clock(dut.clk, 2, unit="ns").start()
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)

    sending = cocotb.start_soon(driver.send(_to_ints(params.inputs.pack(operands))))
    beats = await monitor.collect(num_results)
    await sending
    got = params.outputs.unpack(_to_words(beats, params.outputs.num_words))
    mismatches, message = compare(got, expected, operands=operands, seed=seed)
    assert mismatches == 0, message
    dut._log.info("%d results from %d operand sets, all equal to the golden model", num_results, count)
