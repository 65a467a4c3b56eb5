"""What host code may ask of a simulated rank, whichever simulator runs it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pimspec.dram.commands import Command
from pimspec.hostif.window import Window
from pimspec.params.pim_rank import PimRankParams

from ..dram.command_trace import TracedCommand
from .window_lines import WindowLines

__all__ = ["TRACE", "RankPort", "traced_commands"]

TRACE = np.dtype(
    [("clock", "<i8"), *((n, "<i4") for n in ("code", "bank_group", "bank", "row", "column", "count", "mode", "last"))]
)
"""A command that went to the chips."""

_BANKED = (Command.ACT, Command.PREpb, Command.RD, Command.WR, Command.PIM_MAC)


class RankPort(Protocol):
    """A rank in simulation, behind its DDR4 bus.

    Clocks pass in :meth:`run` and :meth:`run_host` alone, whatever the host does between them.

    Attributes
    ----------
    params : PimRankParams
    window : Window
    codec : WindowLines
    host_op_dtype : dtype
        Of commands for :meth:`enqueue`: wait, code, bank, row, column, data and mask.
    """

    @property
    def params(self) -> PimRankParams: ...

    @property
    def window(self) -> Window: ...

    @property
    def codec(self) -> WindowLines: ...

    @property
    def host_op_dtype(self) -> np.dtype[Any]: ...

    @property
    def clock(self) -> int:
        """Controller clocks since reset."""

    @property
    def num_finished(self) -> int:
        """Descriptors, or kv_heads of programs, that have finished."""

    @property
    def finished(self) -> list[int]:
        """The clock in which each of them finished."""

    @property
    def host_ops_left(self) -> int:
        """Commands of the host that have not gone out."""

    def enqueue(self, ops: NDArray[Any]) -> None:
        """Commands of the host, each `wait` clocks after the one before it; the first one after now if none waits."""

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        """Run for `clocks`, or until so many descriptors have finished in all; the clocks that passed."""

    def run_host(self, *, limit: int = 1 << 40) -> None:
        """Run until every command of the host is out, and every line that it writes."""

    def lines_read(self) -> list[bytes]:
        """Lines that have come for the host since the last call, in order."""

    def trace(self) -> NDArray[np.void]:
        """Commands to the chips since the last call, as :data:`TRACE`; `column` is the number of an access."""

    def close(self) -> None:
        """Nothing more will be asked of it."""


def traced_commands(params: PimRankParams, records: NDArray[np.void]) -> list[TracedCommand]:
    """Records of :meth:`RankPort.trace` as commands, in CK; bus commands issue half a clock later."""
    burst, late = params.organization.burst_length, params.engine.bus_phase_ck
    commands = []
    for r in records:
        code = Command(int(r["code"]))
        ck = int(r["clock"]) * params.ck_per_clock
        if code in (Command.PIM_WR_SB, Command.PIM_RD_RB):
            commands.append(TracedCommand(ck + late, code))
        elif code not in _BANKED:
            commands.append(TracedCommand(ck, code))
        else:
            commands.append(
                TracedCommand(
                    ck,
                    code,
                    0,
                    int(r["bank_group"]),
                    int(r["bank"]),
                    int(r["row"]) if code is Command.ACT else None,
                    None if code in (Command.ACT, Command.PREpb) else int(r["column"]) * burst,
                    int(r["count"]) if code is Command.PIM_MAC else 1,
                )
            )
    return commands
