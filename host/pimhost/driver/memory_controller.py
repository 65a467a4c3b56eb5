"""Host memory controller for a rank: plain DDR4 with open rows and parallel banks, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimspec.dram.commands import Command
from pimspec.errors import RankError
from pimspec.hostif.port import RankPort

__all__ = ["Lines", "MemoryController", "Places"]

Lines = NDArray[np.uint8]
"""Lines as a host sees them, shape (n, line bytes)."""

Places = NDArray[np.int64]
"""`(bank, row, column access)` of lines, shape (n, 3)."""

_NEVER = -(1 << 40)
_REFRESH_MARGIN = 160
"""Clocks kept free before a refresh is due: the rest of an open row, and the precharge."""


@dataclass(kw_only=True)
class _Bank:
    """Open row of a bank, and the clocks from which commands are legal."""

    row: int | None = None
    act: int = _NEVER
    column: int = _NEVER
    precharge: int = _NEVER
    jobs: deque[tuple[int, int, int]] = field(default_factory=deque)  # row, column, number of the line


@dataclass(kw_only=True)
class _Group:
    act: int = _NEVER
    read: int = _NEVER
    write: int = _NEVER


class MemoryController:
    """Memory controller that issues DDR4 commands at their earliest legal clock, one a controller clock.

    Rows stay open until another row of the bank is needed. Within a batch, lines of one bank go in order and banks go
    in parallel; the columns of a batch follow those of the batch before. The controller refreshes while the host owns
    the DRAM. Nothing else may drive the port.

    Parameters
    ----------
    port : RankPort
        A rank whose DRAM the host owns.

    Attributes
    ----------
    lines : int
        Lines that have crossed the bus, in either direction.
    issued : list of tuple or None
        `(clock, command, flat bank, row, column access)`, after :meth:`record`.
    refreshing : bool
        True while the controller refreshes the DRAM; clear it while PIM does.
    """

    def __init__(self, port: RankPort) -> None:
        self.port, self.lines, self.refreshing = port, 0, True
        self.issued: list[tuple[int, Command, int, int, int]] | None = None
        p = self._params = port.params
        self._banks = [_Bank() for _ in range(p.num_banks)]
        groups = [_Group() for _ in range(p.organization.bank_groups)]
        self._group_of = [groups[b // p.organization.banks_per_group] for b in range(p.num_banks)]
        self._rank = _Group()
        self._four_acts: deque[int] = deque([_NEVER] * 4, maxlen=4)
        self._last = self._given = port.clock - 1  # clock of the last command, and of the last one handed over
        self._refreshed = port.clock
        t, clocks = p.timing, self._clocks
        self._tRCD, self._tRAS, self._tRC, self._tRP = map(clocks, (max(t.nRCD, t.nRCD_WR), t.nRAS, t.nRC, t.nRP))
        self._tRRD_S, self._tRRD_L, self._tFAW, self._tRFC = map(clocks, (t.nRRD_S, t.nRRD_L, t.nFAW, t.nRFC))
        self._tCCD_S, self._tCCD_L, self._tCCD_L_WR = map(clocks, (t.nCCD_S, t.nCCD_L, t.nCCD_L_WR))
        self._tRTP, self._tRTW, self._tWR = map(clocks, (t.nRTP, t.nRTW, t.nCWL + t.nBL + t.nWR))
        self._tWTR_S, self._tWTR_L = (clocks(t.nCWL + t.nBL + n) for n in (t.nWTR_S, t.nWTR_L))
        self._interval = t.nREFI // p.ck_per_clock - _REFRESH_MARGIN

    def record(self) -> None:
        """Record the commands from now on; all rows are closed."""
        self.close_all()
        self.issued = []

    def _clocks(self, ck: int) -> int:
        return -(-ck // self._params.ck_per_clock)

    # Lines.

    def write(self, places: Places, lines: Lines, keep: Lines | None = None) -> None:
        """Write lines; bits set in `keep`, shape (n, line bytes / 8), keep bytes as they are."""
        self._batch(Command.WR, places, lines, keep)

    def read(self, places: Places) -> Lines:
        """Lines at `places`, in that order; returns when they have arrived."""
        self.settle()
        self.port.lines_read()
        order = self._batch(Command.RD, places, None, None)
        self.settle()
        self.port.run(self._params.chip.read_clocks + 4)
        got = self.port.lines_read()
        if len(got) != len(places):
            raise RankError(f"{len(got)} lines came for {len(places)} reads")
        lines = np.empty((len(got), self._params.line_bytes), np.uint8)
        lines[order] = np.frombuffer(b"".join(got), np.uint8).reshape(lines.shape)
        return lines

    def settle(self) -> None:
        """Run until all commands are out, and the lines that they write."""
        self.port.run_host()

    def wait(self, clocks: int) -> None:
        """Let clocks pass, with a refresh if one is due."""
        if self.refreshing:
            self.refresh_if_due(clocks)
        self.port.run(clocks)

    def refresh_if_due(self, clocks: int) -> None:
        """Issue a REFab, unless at least `clocks` clocks are left before one must come."""
        if self._next() + clocks - self._refreshed > self._interval:
            self._refresh()

    def close_all(self) -> None:
        """Precharge every bank, unless no bank has an open row."""
        if all(bank.row is None for bank in self._banks):
            return
        clock = max(self._next(), *(bank.precharge for bank in self._banks))
        self._give([(clock, int(Command.PREab), 0, 0, 0, -1)])
        self._last = clock
        for bank in self._banks:
            bank.row, bank.act = None, max(bank.act, clock + self._tRP)

    def prepare_hand_over(self) -> None:
        """Close all rows, with no refresh due for a while."""
        self.refresh_if_due(2 * self._tRFC)
        self.close_all()

    def take_back(self) -> None:
        """Return the DRAM to the host; the time of the last refresh is unknown, so one is due."""
        self.close_all()
        self.refreshing, self._refreshed = True, _NEVER

    # Commands.

    def _batch(self, code: Command, places: Places, lines: Lines | None, keep: Lines | None) -> list[int]:
        """Give the commands of a batch; returns the indices of its lines in the order of the bus."""
        order: list[int] = []
        commands: list[tuple[int, int, int, int, int, int]] = []  # clock, code, bank, row, column, line or -1
        banks = self._banks
        for number, (bank, row, column) in enumerate(np.asarray(places).tolist()):
            banks[bank].jobs.append((row, column, number))
        active = [b for b, bank in enumerate(banks) if bank.jobs]
        now = self._next()
        while active:
            if self.refreshing and now - self._refreshed > self._interval:
                self._give(commands, lines, keep)
                commands = []
                self._refresh()
                now = self._next()
            clock, _, b, command = min([self._candidate(b, code, now) for b in active])
            now = clock + 1
            bank = banks[b]
            row, column, number = bank.jobs[0]
            self._issue(command, clock, b, row)
            if command is code:
                bank.jobs.popleft()
                order.append(number)
                commands.append((clock, int(code), b, 0, column, number))
                if not bank.jobs:
                    active.remove(b)
            else:
                commands.append((clock, int(command), b, row if command is Command.ACT else 0, 0, -1))
        self._give(commands, lines, keep)
        self.lines += len(order)
        return order

    def _next(self) -> int:
        """First clock for a command."""
        return max(self._last + 1, self.port.clock)

    def _candidate(self, b: int, code: Command, now: int) -> tuple[int, int, int, Command]:
        """Next command of a bank's first job: its clock, then column commands before ACT before precharge."""
        bank, group, rank = self._banks[b], self._group_of[b], self._rank
        if bank.row == bank.jobs[0][0]:
            ready = max(group.write, rank.write) if code is Command.WR else max(group.read, rank.read)
            return max(now, bank.column, ready), 0, b, code
        if bank.row is None:
            four = self._four_acts[0] + self._tFAW
            return max(now, bank.act, group.act, rank.act, four), 1, b, Command.ACT
        return max(now, bank.precharge), 2, b, Command.PREpb

    def _issue(self, command: Command, clock: int, b: int, row: int) -> None:
        """Record a command's effects on later ones."""
        bank, group, rank = self._banks[b], self._group_of[b], self._rank
        self._last = clock
        if command is Command.ACT:
            bank.row, bank.column = row, clock + self._tRCD
            bank.precharge, bank.act = clock + self._tRAS, clock + self._tRC
            group.act, rank.act = clock + self._tRRD_L, clock + self._tRRD_S
            self._four_acts.append(clock)
        elif command is Command.PREpb:
            bank.row, bank.act = None, max(bank.act, clock + self._tRP)
        elif command is Command.RD:
            group.read, rank.read = clock + self._tCCD_L, clock + self._tCCD_S
            rank.write = max(rank.write, clock + self._tRTW)
            bank.precharge = max(bank.precharge, clock + self._tRTP)
        else:
            group.write, rank.write = clock + self._tCCD_L_WR, clock + self._tCCD_S
            group.read = max(group.read, clock + self._tWTR_L)
            rank.read = max(rank.read, clock + self._tWTR_S)
            bank.precharge = max(bank.precharge, clock + self._tWR)

    def _give(
        self,
        commands: Sequence[tuple[int, int, int, int, int, int]],
        lines: Lines | None = None,
        keep: Lines | None = None,
    ) -> None:
        """Hand commands to the port."""
        if not commands:
            return
        table = np.array(commands, np.int64)
        ops = np.zeros(len(table), self.port.host_op_dtype)
        before = self._given_until()
        ops["wait"] = np.diff(table[:, 0], prepend=before)
        for n, name in enumerate(("code", "bank", "row", "column"), 1):
            ops[name] = table[:, n]
        if lines is not None:
            with_line = table[:, 5] >= 0
            ops["data"][with_line] = lines[table[with_line, 5]]
            if keep is not None:
                ops["mask"][with_line] = keep[table[with_line, 5]]
        self.port.enqueue(ops)
        self._given = int(table[-1, 0])
        if self.issued is not None:
            self.issued += [(c, Command(code), bank, row, column) for c, code, bank, row, column, _ in commands]

    def _given_until(self) -> int:
        """Clock from which the wait of the next command counts."""
        return self._given if self.port.host_ops_left else self.port.clock - 1

    def _refresh(self) -> None:
        """Close all rows, and issue a REFab."""
        self.close_all()
        clock = max(self._next(), *(bank.act for bank in self._banks))
        self._give([(clock, int(Command.REFab), 0, 0, 0, -1)])
        self._last = self._refreshed = clock
        for bank in self._banks:
            bank.act = bank.precharge = clock + self._tRFC
