"""Memory controller of :class:`pimhost.driver.rank_host.RankHost`, by LiteDRAM's user port alone."""

from __future__ import annotations

import numpy as np

from pimhost.driver.rank_host import RankHost
from pimsim.rank.controlled import ControlledRank, UserOpKind
from pimspec.errors import RankError


class UserPortMemory:
    """Reads and writes of lines by their addresses; rows, banks, timing and refresh are LiteDRAM's.

    It has the methods of :class:`pimhost.driver.memory_controller.MemoryController`.
    """

    def __init__(self, port: ControlledRank, refresh_clocks: int) -> None:
        self.port, self.params, self.lines, self.refreshing = port, port.params, 0, True
        self._refresh_clocks = refresh_clocks

    def addresses(self, places):
        """Line numbers of `(bank, row, column access)`: LiteDRAM's ROW_BANK_COL."""
        bank, row, column = np.asarray(places, np.int64).T
        p = self.params
        return (row * p.num_banks + bank) * p.organization.column_accesses_per_row + column

    def ops(self, kind, count):
        ops = np.zeros(count, self.port.user_op_dtype)
        ops["kind"] = int(kind)
        return ops

    def write(self, places, lines, keep=None):
        ops = self.ops(UserOpKind.WRITE, len(places))
        ops["address"], ops["data"] = self.addresses(places), lines
        if keep is not None:
            ops["mask"] = keep
        self.port.user(ops)
        self.lines += len(ops)

    def read(self, places):
        self.settle()
        self.port.lines_read()
        ops = self.ops(UserOpKind.READ, len(places))
        ops["address"] = self.addresses(places)
        self.port.user(ops)
        self.settle()
        self.port.run(1)
        got = self.port.lines_read()
        if len(got) != len(ops):
            raise RankError(f"{len(got)} lines came for {len(ops)} reads")
        self.lines += len(ops)
        return np.frombuffer(b"".join(got), np.uint8).reshape(len(ops), -1)

    def registers(self, writes):
        """Write registers, each followed by clocks without an operation."""
        for address, value, wait in writes:
            ops = self.ops(UserOpKind.CSR, 2)
            ops["kind"][1] = int(UserOpKind.WAIT)
            ops["address"], ops["value"] = (address, 0), (value, wait)
            self.port.user(ops)
        self.settle()

    def settle(self):
        self.port.run_host(limit=1_000_000)

    def wait(self, clocks):
        self.port.run(clocks)

    def pass_a_refresh(self):
        """Let so much time pass that LiteDRAM refreshes, and so closes all rows."""
        self.settle()
        self.port.run(2 * self._refresh_clocks)

    def close_all(self):
        """Nothing: LiteDRAM closes rows when it likes."""

    def prepare_hand_over(self):
        self.pass_a_refresh()

    def take_back(self):
        self.refreshing = True
        self.pass_a_refresh()


def start(port: ControlledRank, core, refresh_clocks: int) -> RankHost:
    """Host of a rank behind LiteDRAM, after LiteDRAM's start sequence."""
    host = RankHost(port)
    host.memory = UserPortMemory(port, refresh_clocks)
    host.memory.registers(core.start)
    return host
