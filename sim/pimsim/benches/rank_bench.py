"""cocotb bench of a whole rank: repeats a recorded host run, and must see the same lines, clock for clock.

Reads from the environment: ``DIMMPIM_RECORDING`` (JSON of :class:`pimsim.rank.verilated.RankRecording`),
``DIMMPIM_CHIPS``, ``DIMMPIM_BANKS``, ``DIMMPIM_SLOTS``, ``DIMMPIM_WRITE_CLOCKS``, ``DIMMPIM_HOST_WIDTHS`` (JSON: bits
of each field of :attr:`~pimspec.params.pim_rank.PimRankParams.host_command`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

import cocotb
from pimspec.dram.commands import Command
from pimspec.fields import Field, FieldTable


class CellArrays:
    """Cells of all chips; a cell that was never written reads as ones."""

    def __init__(self, dut: Any, chips: int, banks: int, access_bytes: int, cells: list[list[int]]) -> None:
        self._ones = (1 << (8 * access_bytes)) - 1
        self._bytes = access_bytes
        self._cells = {tuple(cell[:4]): cell[4] for cell in cells}
        self._ports = [
            (c, b, {name: getattr(dut, f"cells{c}__{b}__{name}") for name in
                    ("en", "write", "row", "column", "data", "mask", "read_data")})
            for c in range(chips) for b in range(banks)
        ]  # fmt: skip
        self._due: list[tuple[Any, int]] = []

    def clock(self) -> None:
        """Show the data requested in the last clock, and take the requests of this one."""
        for port, value in self._due:
            port.value = value
        self._due = []
        for chip, bank, port in self._ports:
            if not int(port["en"].value):
                continue
            key = (chip, bank, int(port["row"].value), int(port["column"].value))
            held = self._cells.get(key, self._ones)
            if int(port["write"].value):
                mask = int(port["mask"].value)
                keep = sum(0xFF << 8 * k for k in range(self._bytes) if mask >> k & 1)
                self._cells[key] = (held & keep) | (int(port["data"].value) & ~keep & self._ones)
            else:
                self._due.append((port["read_data"], held))


@cocotb.test()
async def same_as_recorded(dut: Any) -> None:
    """Every line that the host reads is the recorded one, in the recorded clock."""
    document = json.loads(Path(os.environ["DIMMPIM_RECORDING"]).read_text())
    chips, banks = int(os.environ["DIMMPIM_CHIPS"]), int(os.environ["DIMMPIM_BANKS"])
    write_clocks = int(os.environ["DIMMPIM_WRITE_CLOCKS"])
    widths = json.loads(os.environ["DIMMPIM_HOST_WIDTHS"])
    command = FieldTable(*(Field(name=name, width=width) for name, width in widths.items()))
    cells = CellArrays(dut, chips, banks, document["access_bytes"], document["cells"])
    slots = range(int(os.environ["DIMMPIM_SLOTS"]))
    ops = {(op[0], op[5]): op for op in document["ops"]}
    data: dict[int, Any] = {}
    for clock, code, *_, line, mask in document["ops"]:
        if code in (Command.WR, Command.WRA):
            data.setdefault(clock + write_clocks, (line, mask))  # the data bus carries a line a clock
    expected, seen = dict(document["lines"]), {}

    valid, payload = ([getattr(dut, f"host__{k}__{what}") for k in slots] for what in ("valid", "payload"))
    for port in (*valid, *payload, dut.host_data, dut.host_mask):
        port.value = 0
    for chip in range(chips):
        for bank in range(banks):
            getattr(dut, f"cells{chip}__{bank}__read_data").value = 0
    dut.rst.value = 1
    await Timer(1, unit="ns")  # so that no input is undefined at the first edge
    Clock(dut.clk, 2, unit="ns").start()
    for _ in range(4):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    for clock in range(-1, document["clocks"]):
        await FallingEdge(dut.clk)
        if clock < 0:
            continue
        cells.clock()
        for k in slots:
            op = ops.get((clock, k))
            valid[k].value = op is not None
            if op:
                payload[k].value = command.pack_int(**dict(zip(command.places, op[1:5], strict=True)))
        if line := data.get(clock):
            dut.host_data.value, dut.host_mask.value = (int.from_bytes(bytes.fromhex(t), "little") for t in line)
        if int(dut.host_out_valid.value):
            size = len(next(iter(expected.values()))) // 2
            seen[clock] = int(dut.host_out_data.value).to_bytes(size, "little").hex()
    clocks = sorted(seen.keys() | expected.keys())
    differing = [
        (clock, seen.get(clock), expected.get(clock)) for clock in clocks if seen.get(clock) != expected.get(clock)
    ]
    assert not differing, f"{len(differing)} of {len(clocks)} lines differ (clock, seen, recorded): {differing[:5]}"
    dut._log.info("%d lines, all as recorded, in %d clocks", len(seen), document["clocks"])
