"""Single commands on the host's bus of a rank, legal or not, in the clocks that the caller chooses."""

from __future__ import annotations

import numpy as np

from pimspec.dram.commands import Command
from pimspec.hostif.port import RankPort

__all__ = ["BusCommands"]


class BusCommands:
    """Host without a memory controller, for tests of a rank with any command.

    Parameters
    ----------
    port : RankPort
        Port without other waiting commands when a command is given.
    """

    def __init__(self, port: RankPort) -> None:
        self.port, self._last = port, port.clock - 1

    @property
    def clock(self) -> int:
        """Clock of the last command given, or the present one if all have gone out."""
        return self._last if self.port.host_ops_left else max(self._last, self.port.clock)

    def give(
        self,
        code: Command,
        wait: int = 1,
        *,
        bank: int = 0,
        row: int = 0,
        column: int = 0,
        phase: int = 0,
        data: bytes = b"",
        mask: int = 0,
    ) -> int:
        """Give a command `wait` clocks after :attr:`clock`; returns the clock in which it goes out.

        Parameters
        ----------
        code : Command
        wait : int
            0: in the same clock as the command before it, which has not gone out, in a later CK.
        bank, row, column : int
            Flat bank, row, number of the column access.
        phase : int
            CK in the clock.
        data : bytes
            Line as a host sees it, for WR and WRA.
        mask : int
            DM: a 1 keeps the byte.
        """
        at = self.clock + wait
        before = self._last if self.port.host_ops_left else self.port.clock - 1
        ops = np.zeros(1, self.port.host_op_dtype)
        ops["wait"], ops["code"], ops["bank"], ops["row"], ops["column"] = at - before, int(code), bank, row, column
        ops["phase"] = phase
        if data:
            ops["data"][0] = np.frombuffer(data, np.uint8)
        ops["mask"][0] = np.frombuffer(mask.to_bytes(ops["mask"].shape[1], "little"), np.uint8)
        self.port.enqueue(ops)
        self._last = at
        return at
