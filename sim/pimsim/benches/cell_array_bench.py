"""cocotb bench of the module ``cell_array`` in ``rank_bench.v``: random accesses against a dictionary.

Environment variables: ``DIMMPIM_SEED``, ``DIMMPIM_ROWS_HELD``. Parameters are those that the Verilog defaults to.
"""

from __future__ import annotations

import os
import random
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

import cocotb


@cocotb.test()
async def remembers(dut: Any) -> None:
    """Reads come one clock later, the mask keeps bytes, and a row too many is reported and changes nothing."""
    rng, rows_held = random.Random(int(os.environ["DIMMPIM_SEED"])), int(os.environ["DIMMPIM_ROWS_HELD"])
    num_bytes, columns = len(dut.mask), 1 << len(dut.column)
    rows = rng.sample(range(1 << len(dut.row)), rows_held)
    held: dict[tuple[int, int], int] = {}
    ones = (1 << 8 * num_bytes) - 1
    for name in ("en", "write", "row", "column", "data", "mask"):
        getattr(dut, name).value = 0
    Clock(dut.clk, 2, unit="ns").start()
    await FallingEdge(dut.clk)
    expected = None

    async def access(row: int, column: int, write: bool, data: int, mask: int) -> None:
        nonlocal expected
        dut.en.value, dut.write.value = 1, write
        dut.row.value, dut.column.value, dut.data.value, dut.mask.value = row, column, data, mask
        await FallingEdge(dut.clk)
        dut.en.value = 0
        if write:
            keep = sum(0xFF << 8 * k for k in range(num_bytes) if mask >> k & 1)
            held[row, column] = held.get((row, column), ones) & keep | data & ~keep
        else:
            expected = held.get((row, column), ones)
        if expected is not None:
            assert int(dut.read_data.value) == expected, f"row {row}, column {column}, {write=}"

    for _ in range(2000):
        place = rng.choice(rows), rng.randrange(columns)
        await access(*place, rng.random() < 0.5, rng.getrandbits(8 * num_bytes), rng.getrandbits(num_bytes))
        for _ in range(rng.randrange(2)):
            await FallingEdge(dut.clk)  # the data read stay
    for row in rows:  # all of them have a place now
        await access(row, 0, True, rng.getrandbits(8 * num_bytes), 0)
    assert dut.full.value == 0
    other = next(row for row in range(1 << len(dut.row)) if row not in rows)
    await access(other, 0, False, 0, 0)
    assert dut.full.value == 0
    before = dict(held)
    await access(other, 0, True, 0, 0)
    held = before
    assert dut.full.value == 1
    for row in (*rows, other):
        for column in range(columns):
            await access(row, column, False, 0, 0)
