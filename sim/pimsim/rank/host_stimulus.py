"""Random host of a rank: every DDR4 command in every state, legal or not, in any CK, beside its scoreboard."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimspec.dram.commands import Command
from pimspec.hostif.port import RankPort
from pimspec.hostif.window import ControlOp, Refusal, Window
from pimspec.params.pim_rank import PimRankParams

from .host_scoreboard import (
    ACTIVE,
    COLUMN,
    DDR4,
    NEED_CLOSED,
    POWER_DOWN,
    READS,
    SELF_REFRESH,
    WRITES,
    HostScoreboard,
    Slot,
)

__all__ = ["HostTimes", "RandomHost"]

_ZQ_CK = {Command.ZQCS: 128, Command.ZQCL: 512}
_LOW_CK, _EXIT_CK = 16, 32
"""Least CK with CKE low, and from its rise to a command (tXP, tXPDLL)."""


class HostTimes:
    """First CK for each command that a host may give, by JEDEC's rules for one rank."""

    def __init__(self, params: PimRankParams) -> None:
        self._t, banks = params.timing, params.num_banks
        self.act, self.column, self.precharge = [0] * banks, [0] * banks, [0] * banks
        self._acts: deque[int] = deque([-(1 << 30)] * 4, maxlen=4)
        self._any_act = self._any_read = self._any_write = self._other = self._data_end = 0

    def first(self, code: int, bank: int) -> int:
        """First CK for a command that the state of rows permits."""
        if code == Command.ACT:
            return max(self.act[bank], self._any_act, self._acts[0] + self._t.nFAW, self._other)
        if code in READS:
            return max(self.column[bank], self._any_read, self._other)
        if code in WRITES:
            return max(self.column[bank], self._any_write, self._other)
        if code == Command.PREpb:
            return max(self.precharge[bank], self._other)
        if code == Command.PREab:
            return max(*self.precharge, self._other)
        return max(*self.act, *self.precharge, self._data_end, self._other)

    def note(self, code: int, bank: int, ck: int) -> None:
        """A command has been given."""
        t = self._t
        if code == Command.ACT:
            self.column[bank] = ck + max(t.nRCD, t.nRCD_WR)
            self.precharge[bank], self.act[bank] = ck + t.nRAS, ck + t.nRC
            self._any_act = ck + t.nRRD_L
            self._acts.append(ck)
        elif code in READS:
            self._any_read = ck + t.nCCD_L
            self._any_write = max(self._any_write, ck + t.nRTW)
            self._data_end = max(self._data_end, ck + t.nCL + t.nBL)
            self._close_after(code, bank, ck + t.nRTP)
        elif code in WRITES:
            self._any_write = ck + max(t.nCCD_L, t.nCCD_L_WR)
            self._any_read = max(self._any_read, ck + t.nCWL + t.nBL + t.nWTR_L)
            self._data_end = max(self._data_end, ck + t.nCWL + t.nBL + t.nWR)
            self._close_after(code, bank, ck + t.nCWL + t.nBL + t.nWR)
        elif code in (Command.PREpb, Command.PREab):
            for b in [bank] if code == Command.PREpb else range(len(self.act)):
                self.act[b] = max(self.act[b], ck + t.nRP)
        elif code == Command.NOP:
            pass
        else:
            after = {
                Command.REFab: t.nRFC, Command.SRX: t.nRFC + 16, Command.MRS: max(t.nMRD, t.nMOD),
                Command.PDX: _EXIT_CK, Command.SRE: _LOW_CK, Command.PDE: _LOW_CK, **_ZQ_CK,
            }  # fmt: skip
            self._other = max(self._other, ck + after[Command(code)])

    def _close_after(self, code: int, bank: int, ck: int) -> None:
        ready = self.precharge[bank] = max(self.precharge[bank], ck)
        if code in (Command.RDA, Command.WRA):
            self.act[bank] = max(self.act[bank], ready + self._t.nRP)

    def pause(self, ck: int) -> None:
        """Others had the DRAM: nothing is legal before that CK."""
        self._other = max(self._other, ck)


class RandomHost:
    """Host that gives random commands, at legal times where the state of rows permits them, and checks what comes back.

    Parameters
    ----------
    port : RankPort
        A rank that has just been reset. Nothing else may drive it.
    rng : numpy.random.Generator
    data_rows : sequence of int
        Rows that the host uses as memory.

    Attributes
    ----------
    board : HostScoreboard
    count : int
        Random commands given.
    state : str
        Name of the state of the owner, for the counts of the scoreboard.
    """

    def __init__(self, port: RankPort, rng: np.random.Generator, data_rows: tuple[int, ...]) -> None:
        self.port, self.rng = port, rng
        p = self.params = port.params
        self.window: Window = p.window
        self.rows = (*data_rows, *range(self.window.first_row, p.organization.rows))
        self.board, self.times = HostScoreboard(params=p), HostTimes(p)
        self.count, self.state, self.no_data_rows = 0, "host owns", False
        self._clock = port.clock  # first one without commands
        self._last = port.clock - 1  # of the last command handed over
        self._ops: list[tuple[int, Slot]] = []
        self._slots_per_clock = p.ck_per_clock

    # Commands at random.

    def _random_slot(self, phase: int) -> Slot:
        """Any command, with those more often that lead on from the present state."""
        rng, board = self.rng, self.board
        bank = int(rng.integers(self.params.num_banks))
        if board.cke != ACTIVE and rng.random() < 0.25:
            code = int(Command.PDX if board.cke == POWER_DOWN else Command.SRX)
        elif rng.random() < 0.6:
            code = int(rng.choice(COLUMN if bank in board.rows else (Command.ACT,)))
        else:
            code = int(rng.choice(DDR4)) if rng.random() < 0.9 else int(rng.integers(1, 32))
        if code in NEED_CLOSED and board.rows and rng.random() < 0.7:
            code = int(Command.PREab)
        if rng.random() < 0.02:
            bank = int(rng.integers(1 << self.params.host_command.places["bank"].width))
        if code == Command.MRS:
            return Slot(
                phase=phase, code=code, bank=int(rng.integers(8)), row=int(rng.integers(self.params.organization.rows))
            )
        row, column = int(rng.choice(self.rows)), int(rng.integers(self.params.organization.column_accesses_per_row))
        return self._with_line(Slot(phase=phase, code=code, bank=bank, row=row, column=column))

    def _with_line(self, slot: Slot) -> Slot:
        if slot.code not in WRITES:
            return slot
        rng, size = self.rng, self.params.line_bytes
        row = self.board.rows.get(slot.bank)
        mask = int.from_bytes(rng.bytes(size // 8), "little") if rng.random() < 0.3 else 0
        data = rng.bytes(size)
        if row is not None and self.board.in_window(row.number):
            region, line = self.board.region_of(slot, row.number)
            if region == "control" and line == 1:
                data = bytes(size)
            elif region == "control":
                op = int(rng.choice([0, ControlOp.REFRESH, 11, 15]))
                values = {"op": op, "rate": int(rng.integers(2))}
                data = self.window.control.pack_int(**values).to_bytes(size, "little")
        return Slot(
            phase=slot.phase, code=slot.code, bank=slot.bank, row=slot.row, column=slot.column, data=data, mask=mask
        )

    def _unwanted(self, slot: Slot) -> bool:
        """The command would leave what this host keeps to: posted writes that fit the queue; rows closed for TAKE."""
        row = self.board.rows.get(slot.bank)
        posts = slot.code in WRITES and self.board.owned and (row is None or not self.board.in_window(row.number))
        if posts and self.board.posted + sum(s.code in WRITES for s in self._now) >= self.params.host_queue:
            return True
        lowers = slot.code in (Command.PDE, Command.SRE)
        opens = slot.code == Command.ACT and not self.board.in_window(slot.row)
        return self.no_data_rows and (lowers or opens)

    def clock(self, *, latest: int | None = None) -> bool:
        """Give the commands of one clock, often one; False if the first would come after clock `latest`."""
        self._now: list[Slot] = []
        phase = int(self.rng.integers(self._slots_per_clock))
        slot = self._random_slot(phase)
        while self._unwanted(slot):
            slot = self._random_slot(phase)
        clock = self._clock + int(self.rng.integers(3))
        if self.board.legal(slot):
            clock = max(clock, -(-(self.times.first(slot.code, slot.bank) - phase) // self._slots_per_clock))
        if latest is not None and clock > latest:
            return False
        self._add(slot, clock)
        for later in range(phase + 1, self._slots_per_clock):
            if self.rng.random() > 0.15:
                continue
            other, ck = self._random_slot(later), clock * self._slots_per_clock + later
            early = self._goes(other) and self.times.first(other.code, other.bank) > ck
            if not early and not self._unwanted(other):
                self._add(other, clock)
        self._give(clock, self._now)
        self.count += len(self._now)
        return True

    def _goes(self, slot: Slot) -> bool:
        """The command would be legal after those of the same clock."""
        return self.board.reason(slot, self._now) is Refusal.NONE and self.board.legal(slot)

    def _add(self, slot: Slot, clock: int) -> None:
        """A further command of a clock."""
        if self._goes(slot):
            self.times.note(slot.code, slot.bank, clock * self._slots_per_clock + slot.phase)
        self._now.append(slot)

    # Commands by choice.

    def directed(self, code: Command, bank: int = 0, row: int = 0, column: int = 0, data: bytes = b"") -> int:
        """Give one legal command as soon as it may come; returns its clock."""
        slot = Slot(phase=0, code=int(code), bank=bank, row=row, column=column, data=data)
        assert self.board.legal(slot), f"{code.name} is not legal"
        clock = max(self._clock, -(-self.times.first(code, bank) // self._slots_per_clock))
        self._now = []
        self._add(slot, clock)
        self._give(clock, self._now)
        return clock

    def window_access(self, line: int, data: bytes | None = None, pause: int = 1) -> None:
        """Read or write a line of the window; the next command comes `pause` clocks later, or more."""
        row, bank, column = self.window.address(line)
        if bank in self.board.rows:
            self.directed(Command.PREpb, bank)
        self.directed(Command.ACT, bank, row)
        clock = self.directed(Command.RD if data is None else Command.WR, bank, row, column, data or b"")
        self._clock = clock + pause

    def control(self, op: ControlOp) -> None:
        """Write a control word, and let it take effect."""
        data = self.window.control.pack_int(op=int(op)).to_bytes(self.params.line_bytes, "little")
        self.window_access(0, data, pause=self.params.chip.write_clocks + 1)

    def raise_cke(self) -> None:
        """Leave power-down or self refresh."""
        if self.board.cke != ACTIVE:
            self.directed(Command.SRX if self.board.cke == SELF_REFRESH else Command.PDX)

    # The bus.

    def _give(self, clock: int, slots: list[Slot]) -> None:
        state = self.state if self.board.cke == ACTIVE else self.board.cke
        self.board.clock(clock, slots, state)
        self._ops += [(clock, slot) for slot in slots]
        self._clock = clock + 1

    def _host_ops(self) -> NDArray[Any]:
        ops = np.zeros(len(self._ops), self.port.host_op_dtype)
        before = self._last if self.port.host_ops_left else self.port.clock - 1
        ops["wait"] = np.diff([clock for clock, _ in self._ops], prepend=before)
        for name in ("code", "bank", "row", "column", "phase"):
            ops[name] = [getattr(slot, name) for _, slot in self._ops]
        size = ops["mask"].shape[1]
        for n, (_, slot) in enumerate(self._ops):
            if slot.data:
                ops["data"][n] = np.frombuffer(slot.data, np.uint8)
                ops["mask"][n] = np.frombuffer(slot.mask.to_bytes(size, "little"), np.uint8)
        return ops

    def flush(self) -> None:
        """Run until all that was given is out."""
        if self._ops:
            self.port.enqueue(self._host_ops())
            self._last = self._ops[-1][0]
            self._ops = []
        self.port.run_host()
        self._clock = max(self._clock, self.port.clock)

    def settle(self) -> list[bytes]:
        """The lines that have come until all is out and done; they are compared with the scoreboard."""
        self.flush()
        self.port.run(self.params.chip.read_clocks + self.params.chip.write_clocks + 4)
        self._clock = max(self._clock, self.port.clock)
        got, want = self.port.lines_read(), self.board.lines
        assert len(got) == len(want), f"{len(got)} lines came, not {len(want)}, before clock {self.port.clock}"
        for n, (line, expected) in enumerate(zip(got, want, strict=True)):
            assert expected in (None, line), f"line {n} of {len(got)} before clock {self.port.clock}"
        self.board.lines = []
        return got

    def status(self) -> dict[str, int]:
        """The status line."""
        self.window_access(0)
        return self.window.status.unpack_int(int.from_bytes(self.settle()[-1], "little"))
