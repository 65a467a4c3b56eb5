"""Rank under cocotb (one Verilog top) as a :class:`~pimspec.hostif.port.RankPort` for blocking host code."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from cocotb.task import resume
from cocotb.triggers import ValueChange
from numpy.typing import NDArray

from pimspec.dram.commands import Command
from pimspec.errors import RankError
from pimspec.hostif.port import TRACE
from pimspec.params.pim_rank import PimRankParams

from .bench_top import OPS_HELD
from .build import host_op_type

__all__ = ["CocotbRank"]

_LOG = Path("rank_bus.log")  # in the folder of the simulation
_NEVER = (1 << 32) - 1
_MOST_CLOCKS = 1 << 48


class CocotbRank:
    """Host's end of :func:`pimsim.rank.bench_top.bench_top`.

    Its methods are called in a thread that :func:`cocotb.task.bridge` has started. Python wakes when the clocks of a
    :meth:`run` are over, or commands run short: until then the bench has all it needs.

    Parameters
    ----------
    dut : handle
        Handle of the top.
    params : PimRankParams
    """

    def __init__(self, dut: Any, params: PimRankParams) -> None:
        self.params = params
        self.host_op_dtype: np.dtype[Any] = np.dtype(host_op_type(params))
        self._driver = dut.driver
        self._command = params.host_command
        self._waiting: deque[int] = deque()  # commands that the bench has not been given yet
        self._given = self._taken = 0
        self._lines_due = False
        self._clock = self._num_finished = 0
        self._finished: list[int] = []
        self._lines: list[bytes] = []
        self._records: list[tuple[str, int, int]] = []
        self._log: TextIO | None = None

    async def reset(self) -> None:
        """Wait until the rank can be used."""
        wake = self._driver.wake
        while wake.value != 1:
            await ValueChange(wake)
        self._log = _LOG.open()

    @property
    def clock(self) -> int:
        return self._clock

    @property
    def num_finished(self) -> int:
        return self._num_finished

    @property
    def finished(self) -> list[int]:
        self._read_log()
        return list(self._finished)

    @property
    def host_ops_left(self) -> int:
        return len(self._waiting) + self._given - self._taken

    def enqueue(self, ops: NDArray[Any]) -> None:
        data_bytes, mask_bytes = ops.dtype["data"].itemsize, ops.dtype["mask"].itemsize
        for op in ops:
            command = self._command.pack_int(**{name: int(op[name]) for name in self._command.places})
            word = int.from_bytes(op["mask"].tobytes()[:mask_bytes], "little") << (8 * data_bytes)
            word |= int.from_bytes(op["data"].tobytes(), "little")
            head = int(op["wait"]) | int(op["phase"]) << 32 | command << 40
            self._waiting.append(head | word << (40 + self._command.width))

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        before = self._clock
        resume(self._advance)(before + clocks, _NEVER if until_finished < 0 else until_finished, False)
        return self._clock - before

    def run_host(self, *, limit: int = 1 << 40) -> None:
        resume(self._advance)(self._clock + limit, _NEVER, True)

    def lines_read(self) -> list[bytes]:
        self._read_log()
        lines, self._lines = self._lines, []
        return lines

    def trace(self) -> NDArray[np.void]:
        self._read_log()
        events, self._records = self._records, []
        records = np.zeros(len(events), TRACE)
        records["clock"] = [clock for _, clock, _ in events]
        chip = self.params.chip
        late = [(f"D{k}", chip.late, k) for k in range(1, self.params.ck_per_clock)]
        for kind, table, phase in (("C", chip.command, 0), ("B", chip.bus, self.params.engine.bus_phase_ck), *late):
            chosen = np.array([k == kind for k, _, _ in events], bool)
            size = 4 * table.num_words
            words = b"".join(word.to_bytes(size, "little") for k, _, word in events if k == kind)
            fields = table.unpack(np.frombuffer(words, "<u4").reshape(-1, table.num_words))
            records["phase"][chosen] = phase
            if kind == "B":
                codes = (int(Command.PIM_WR_SB), int(Command.PIM_RD_RB))
                records["code"][chosen] = np.where(fields["read"] != 0, codes[1], codes[0])
                bank = np.where(fields["read"] != 0, fields["bank"], 0)
                places = np.divmod(bank, self.params.organization.banks_per_group)
                records["bank_group"][chosen], records["bank"][chosen] = places
                continue
            if phase:
                records["count"][chosen] = 1
            for name in ("code", "bank_group", "bank", "row", "column", "count", "mode"):
                if name in fields:
                    records[name][chosen] = fields[name]
        return records

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    async def _advance(self, clock: int, finished: int, host_done: bool) -> None:
        """Let clocks pass until one of the limits is reached; see ``rank_harness.cpp``."""
        driver = self._driver
        driver.wake_at_clock.value = min(clock, _MOST_CLOCKS)
        driver.wake_at_finished.value = finished
        while True:
            if self._num_finished >= finished or self._clock >= clock:
                return
            if host_done and not self.host_ops_left and not self._lines_due:
                return
            self._refill()
            driver.wake_at_host_done.value = int(host_done and not self._waiting)
            driver.wake_at_level.value = OPS_HELD // 4 if self._waiting else 0
            await ValueChange(driver.wake)
            self._clock, self._num_finished = int(driver.clocks.value), int(driver.finished.value)
            self._taken += (int(driver.taken.value) - self._taken) % (2 * OPS_HELD)
            self._lines_due = bool(driver.lines_due.value)
            if driver.no_room.value:
                raise RankError("the bench has no place for so many rows")

    def _refill(self) -> None:
        """Give the bench as many commands as it has room for."""
        before = self._given
        while self._waiting and self._given - self._taken < OPS_HELD:
            self._driver.ops[self._given % OPS_HELD].value = self._waiting.popleft()
            self._given += 1
        if self._given != before:
            self._driver.given.value = self._given % (2 * OPS_HELD)

    def _read_log(self) -> None:
        if self._log is None:
            return
        for line in self._log:
            kind, clock, word = line.split()
            if kind == "F":
                self._finished.append(int(clock))
            elif kind != "L":  # fields that a command has no use for may be undefined
                self._records.append((kind, int(clock), int(word.lower().translate(_UNDEFINED), 16)))
            elif set(word.lower()) & set("xz"):
                raise RankError(f"a line read in clock {clock} is undefined: {word}")
            else:
                self._lines.append(int(word, 16).to_bytes(self.params.line_bytes, "little"))


_UNDEFINED = str.maketrans("xz", "00")
