"""A memory controller of a host in front of a simulated rank: open rows, banks side by side, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.placement import BurstWrites, relayout_line
from pimspec.dram.commands import Command
from pimspec.errors import RankError, require
from pimspec.hostif.port import RankPort
from pimspec.hostif.window import ControlOp
from pimspec.hostif.window_lines import RankStatus
from pimspec.params.dpa import ConfigOperation

__all__ = ["HostController", "Lines", "Places", "in_turns"]

Lines = NDArray[np.uint8]
"""Lines as a host sees them, shape (n, line bytes)."""

Places = NDArray[np.int64]
"""`(bank, row, column access)` of lines, shape (n, 3)."""

_NEVER = -(1 << 40)
_REFRESH_MARGIN = 160
"""Clocks kept free before a refresh is due: a row that is under way, and the precharge."""
_POLL = 32
_LONGEST_PAUSE = 1024
"""Clocks between two looks at the status, at first and at last."""


@dataclass(kw_only=True)
class _Bank:
    """The row that the host has open, and the clocks from which commands are legal."""

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


class HostController:
    """Plain DDR4 at its earliest legal clock, one command a controller clock.

    Rows stay open until another one of the bank is wanted. Within a batch, lines of one bank go in order, those of
    different banks side by side; the columns of a batch come after those of the one before. It refreshes while the host
    owns the DRAM. While PIM owns it, writes of data rows are posted, as many as the access queue has room for.

    Parameters
    ----------
    sim : RankPort
        Owned by the host; nothing else drives it from now on.

    Attributes
    ----------
    lines : int
        That have crossed the bus, in either direction.
    issued : list of tuple or None
        `(clock, command, flat bank, row, column access)`, after :meth:`record`.
    """

    def __init__(self, sim: RankPort) -> None:
        self.sim, self.lines = sim, 0
        self.issued: list[tuple[int, Command, int, int, int]] | None = None
        p = self._params = sim.params
        self._banks = [_Bank() for _ in range(p.num_banks)]
        groups = [_Group() for _ in range(p.organization.bank_groups)]
        self._group_of = [groups[b // p.organization.banks_per_group] for b in range(p.num_banks)]
        self._rank = _Group()
        self._four_acts: deque[int] = deque([_NEVER] * 4, maxlen=4)
        self._last = self._given = sim.clock - 1  # the clock of the last command, and of the last one handed over
        self._refreshed = sim.clock
        self._pim_owns = False
        t, clocks = p.timing, self._clocks
        self._tRCD, self._tRAS, self._tRC, self._tRP = map(clocks, (max(t.nRCD, t.nRCD_WR), t.nRAS, t.nRC, t.nRP))
        self._tRRD_S, self._tRRD_L, self._tFAW, self._tRFC = map(clocks, (t.nRRD_S, t.nRRD_L, t.nFAW, t.nRFC))
        self._tCCD_S, self._tCCD_L, self._tCCD_L_WR = map(clocks, (t.nCCD_S, t.nCCD_L, t.nCCD_L_WR))
        self._tRTP, self._tRTW, self._tWR = map(clocks, (t.nRTP, t.nRTW, t.nCWL + t.nBL + t.nWR))
        self._tWTR_S, self._tWTR_L = (clocks(t.nCWL + t.nBL + n) for n in (t.nWTR_S, t.nWTR_L))
        self._interval = t.nREFI // p.ck_per_clock - _REFRESH_MARGIN

    def record(self) -> None:
        """Keep account of the commands from now on; all rows are closed."""
        self._close_all()
        self.issued = []

    def _clocks(self, ck: int) -> int:
        return -(-ck // self._params.ck_per_clock)

    @property
    def pim_owns(self) -> bool:
        """Whether PIM owns the DRAM."""
        return self._pim_owns

    # Lines.

    def write(self, places: Places, lines: Lines, keep: Lines | None = None) -> None:
        """Write lines; bits set in `keep`, shape (n, line bytes / 8), keep bytes as they are."""
        self._batch(Command.WR, places, lines, keep)

    def read(self, places: Places) -> Lines:
        """Read lines; waits for them."""
        self.settle()
        self.sim.lines_read()
        order = self._batch(Command.RD, places, None, None)
        self.settle()
        self.sim.run(self._params.chip.read_clocks + 4)
        got = self.sim.lines_read()
        if len(got) != len(places):
            raise RankError(f"{len(got)} lines came for {len(places)} reads")
        lines = np.empty((len(got), self._params.line_bytes), np.uint8)
        lines[order] = np.frombuffer(b"".join(got), np.uint8).reshape(lines.shape)
        return lines

    def settle(self) -> None:
        """Run until all commands are out, and the lines that they write."""
        self.sim.run_host()

    def window(self, first_line: int, count: int = 1) -> Places:
        """Places of successive lines of the window."""
        places = (self.sim.window.address(line) for line in range(first_line, first_line + count))
        return np.array([(bank, row, column) for row, bank, column in places], np.int64).reshape(-1, 3)

    def post(self, writes: BurstWrites) -> None:
        """Write bursts of data rows, lines of different banks in turns; paced by the access queue if PIM owns the DRAM.

        A posted write is in the cells once :meth:`drain` has returned; others lie there for any later command.
        """
        places, lines, keep = self._bus_lines(writes)
        if not self._pim_owns:
            self.write(places, lines, keep)
            return
        order, begin, most = in_turns(places[:, 0]), 0, self._params.host_queue
        while begin < len(order):
            room = most - self.status().queued
            if not room:
                self._wait_for(lambda: self.status().queued < most, "there is room for writes of the host", 100_000)
                continue
            part = order[begin : begin + room]
            self.write(places[part], lines[part], keep[part])
            begin += room
            self.sim.run_host()

    def _bus_lines(self, writes: BurstWrites) -> tuple[Places, Lines, Lines]:
        """Places of bursts, their lines on the host's bus, and the bytes to keep."""
        org, chips = self._params.organization, self._params.num_chips
        bank = writes.bank_group * org.banks_per_group + writes.bank
        places = np.stack([bank, writes.row, writes.column // org.burst_length], axis=1)
        data = relayout_line(np.ascontiguousarray(np.asarray(writes.data).transpose(0, 2, 1)).tobytes(), chips)
        skip = ~(writes.chip_mask[:, None] >> np.arange(chips)) & 1
        kept = np.repeat(skip[:, None, :], org.burst_length, axis=1).astype(np.uint8)
        bits = np.frombuffer(relayout_line(kept.tobytes(), chips), np.uint8).reshape(len(bank), -1)
        lines = np.frombuffer(data, np.uint8).reshape(len(bank), -1)
        return places, lines, np.packbits(bits, axis=1, bitorder="little")

    # The window.

    def write_words(self, line: int, words: Sequence[bytes]) -> None:
        """Write a line of the window several times over."""
        size = self._params.line_bytes
        lines = np.frombuffer(b"".join(word.ljust(size, b"\0") for word in words), np.uint8).reshape(-1, size)
        self.write(np.repeat(self.window(line), len(words), axis=0), lines)

    def status(self) -> RankStatus:
        """Read the status line."""
        return self.sim.codec.status(self.read(self.window(0))[0].tobytes())

    def dpa_state(self) -> dict[str, int]:
        """Read the state of the DPA controller."""
        return self.sim.codec.dpa_state(self.read(self.window(2))[0].tobytes())

    def drain(self, *, limit: int = 100_000) -> None:
        """Wait until no posted write is queued."""
        self._wait_for(lambda: not self.status().queued, "writes of the host are done", limit)

    def take(self) -> None:
        """PIM takes the DRAM over."""
        require(not self._pim_owns, "owner", "PIM", "the host")
        self._refresh_if_due(2 * self._tRFC)
        self._close_all()
        self.write_words(0, [self.sim.codec.control(ControlOp.TAKE)])
        self.settle()
        self._pim_owns = True

    def release(self, *, limit: int = 100_000) -> None:
        """PIM gives the DRAM back; waits for it."""
        require(self._pim_owns, "owner", "the host", "PIM")
        self._close_all()
        self.write_words(0, [self.sim.codec.control(ControlOp.RELEASE)])
        self._wait_for(lambda: not self.status().owner, "the DRAM is given back", limit)
        self._close_all()
        self._pim_owns, self._refreshed = False, _NEVER  # the last refresh was the device's

    def configure(self, operations: Iterable[ConfigOperation], *, limit: int = 1 << 22) -> None:
        """Write configuration operations, and wait until they are done; after reset, tables are cleared before."""
        words, most = [self.sim.codec.config(operation) for operation in operations], self._params.host_queue
        for first in range(0, len(words), most):
            self.write_words(2, words[first : first + most])
            self.settle()
            self._wait_for(lambda: not self.dpa_state()["queued"], "configuration operations are done", limit)

    def _wait_for(self, done: Callable[[], bool], what: str, limit: int) -> None:
        """Look again and again, less and less often."""
        begin, pause = self.sim.clock, _POLL
        while not done():
            if self.sim.clock - begin > limit:
                raise RankError(f"{limit} clocks have passed before {what}")
            if not self._pim_owns:
                self._refresh_if_due(pause)
            self.sim.run(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    # Commands.

    def _batch(self, code: Command, places: Places, lines: Lines | None, keep: Lines | None) -> list[int]:
        """Give the commands of a batch; the numbers of its lines in the order of the bus."""
        order: list[int] = []
        commands: list[tuple[int, int, int, int, int, int]] = []  # clock, code, bank, row, column, line or -1
        banks = self._banks
        for number, (bank, row, column) in enumerate(np.asarray(places).tolist()):
            banks[bank].jobs.append((row, column, number))
        active = [b for b, bank in enumerate(banks) if bank.jobs]
        now = self._next()
        while active:
            if not self._pim_owns and now - self._refreshed > self._interval:
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
        """The first clock for a command."""
        return max(self._last + 1, self.sim.clock)

    def _candidate(self, b: int, code: Command, now: int) -> tuple[int, int, int, Command]:
        """What the first job of a bank needs next: clock, then column commands before ACT before precharge."""
        bank, group, rank = self._banks[b], self._group_of[b], self._rank
        if bank.row == bank.jobs[0][0]:
            ready = max(group.write, rank.write) if code is Command.WR else max(group.read, rank.read)
            return max(now, bank.column, ready), 0, b, code
        if bank.row is None:
            four = self._four_acts[0] + self._tFAW
            return max(now, bank.act, group.act, rank.act, four), 1, b, Command.ACT
        return max(now, bank.precharge), 2, b, Command.PREpb

    def _issue(self, command: Command, clock: int, b: int, row: int) -> None:
        """Keep account of a command."""
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
        """Hand commands to the harness."""
        if not commands:
            return
        table = np.array(commands, np.int64)
        ops = np.zeros(len(table), self.sim.host_op_dtype)
        before = self._given_until()
        ops["wait"] = np.diff(table[:, 0], prepend=before)
        for n, name in enumerate(("code", "bank", "row", "column"), 1):
            ops[name] = table[:, n]
        if lines is not None:
            with_line = table[:, 5] >= 0
            ops["data"][with_line] = lines[table[with_line, 5]]
            if keep is not None:
                ops["mask"][with_line] = keep[table[with_line, 5]]
        self.sim.enqueue(ops)
        self._given = int(table[-1, 0])
        if self.issued is not None:
            self.issued += [(c, Command(code), bank, row, column) for c, code, bank, row, column, _ in commands]

    def _given_until(self) -> int:
        """The clock from which the wait of the next command counts."""
        return self._given if self.sim.host_ops_left else self.sim.clock - 1

    def _close_all(self) -> None:
        """Precharge every bank."""
        clock = max(self._next(), *(bank.precharge for bank in self._banks))
        self._give([(clock, int(Command.PREab), 0, 0, 0, -1)])
        self._last = clock
        for bank in self._banks:
            bank.row, bank.act = None, max(bank.act, clock + self._tRP)

    def _refresh_if_due(self, clocks: int) -> None:
        if self._next() + clocks - self._refreshed > self._interval:
            self._refresh()

    def _refresh(self) -> None:
        """Close all rows, and REFab."""
        self._close_all()
        clock = max(self._next(), *(bank.act for bank in self._banks))
        self._give([(clock, int(Command.REFab), 0, 0, 0, -1)])
        self._last = self._refreshed = clock
        for bank in self._banks:
            bank.act = bank.precharge = clock + self._tRFC


def in_turns(banks: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order in which the lines of each bank follow one another, and banks take turns."""
    turn = np.zeros(len(banks), np.int64)
    for bank in np.unique(banks):
        here = banks == bank
        turn[here] = np.arange(int(here.sum()))
    return np.lexsort((banks, turn))
