"""Port of a simulated rank for host code, whichever simulator runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pimspec.dram.commands import HOST_ONLY_COMMANDS, Command
from pimspec.params.pim_rank import PimRankParams

from ..attention.placement import BurstWrites
from ..dram.command_trace import TracedCommand
from ..errors import require

__all__ = [
    "TRACE",
    "CellPort",
    "CommandCounts",
    "CountingPort",
    "RankPort",
    "mac_accesses",
    "require_phases",
    "traced_commands",
]

_TRACED = ("code", "bank_group", "bank", "row", "column", "count", "mode", "last", "phase")
TRACE = np.dtype([("clock", "<i8"), *((name, "<i4") for name in _TRACED)], align=True)
"""Record of a command that went to the chips: in CK `phase` of controller clock `clock`."""

_COLUMN = (Command.RD, Command.RDA, Command.WR, Command.WRA, Command.PIM_MAC)


class RankPort(Protocol):
    """A rank in simulation, behind its DDR4 bus.

    Clocks pass in :meth:`run` and :meth:`run_host` alone, whatever the host does between them.

    Attributes
    ----------
    params : PimRankParams
    host_op_dtype : dtype
        Type of commands for :meth:`enqueue`: wait, code, bank, row, column, phase, data and mask.
    """

    @property
    def params(self) -> PimRankParams: ...

    @property
    def host_op_dtype(self) -> np.dtype[Any]: ...

    @property
    def clock(self) -> int:
        """Controller clocks since reset."""

    @property
    def num_finished(self) -> int:
        """Number of descriptors, or kv_heads of programs, that have finished."""

    @property
    def finished(self) -> list[int]:
        """Clock in which each of them finished."""

    @property
    def host_ops_left(self) -> int:
        """Number of commands of the host that have not gone out."""

    def enqueue(self, ops: NDArray[Any]) -> None:
        """Queue host commands, each `wait` clocks after the one before it; the first one after now if none waits.

        A command issues in CK `phase` of its clock. One with a wait of 0 and a later phase issues in the same clock as
        the one before it.
        """

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        """Run for `clocks`, or until `until_finished` descriptors have finished in total; returns the clocks run."""

    def run_host(self, *, limit: int = 1 << 40) -> None:
        """Run until every command of the host is out, and every line that it writes."""

    def lines_read(self) -> list[bytes]:
        """Lines that have arrived for the host since the last call, in order."""

    def trace(self) -> NDArray[np.void]:
        """Commands to the chips since the last call, as :data:`TRACE`; `column` is the number of an access."""

    def close(self) -> None:
        """Close the port; no further call may follow."""


@dataclass(frozen=True, kw_only=True)
class CommandCounts:
    """Commands that went to the chips of a rank over some clocks.

    Parameters
    ----------
    commands : mapping of command to int
        Counts of the commands that occurred.
    mac_accesses : int
        Column accesses of all PIM_MAC.
    open_clocks : int
        Clocks in which some bank had an open row.
    """

    commands: Mapping[Command, int]
    mac_accesses: int
    open_clocks: int

    def __sub__(self, before: CommandCounts) -> CommandCounts:
        """Counts since `before`."""
        counts = {code: n - before.commands.get(code, 0) for code, n in self.commands.items()}
        return CommandCounts(
            commands={code: n for code, n in counts.items() if n},
            mac_accesses=self.mac_accesses - before.mac_accesses,
            open_clocks=self.open_clocks - before.open_clocks,
        )


class CellPort(RankPort, Protocol):
    """A rank whose cells can be accessed directly, without the host."""

    def poke(self, writes: BurstWrites) -> None:
        """Put bursts into the cells at once, as if the host had written them."""

    def peek(self, writes: BurstWrites) -> NDArray[np.uint8]:
        """Content of the cells at the addresses of `writes`: shape (n, chips, access bytes)."""


@runtime_checkable
class CountingPort(RankPort, Protocol):
    """A rank that counts its commands, so that they need not be recorded: the timing model."""

    tracing: bool
    """True if commands are kept for :meth:`trace`."""

    def counts(self, finished: int | None = None) -> CommandCounts:
        """Counts of all clocks before this one, or of those up to the end of a descriptor, by its number from 0 on."""


def require_phases(ops: NDArray[Any], ck_per_clock: int) -> None:
    """Raise ParameterError unless host commands have a CK of their clock, and those of one clock rising ones."""
    phase = ops["phase"]
    wrong = (phase < 0) | (phase >= ck_per_clock)
    require(not wrong.any(), "phase", phase[wrong].tolist()[:1], f"0..{ck_per_clock - 1}")
    shared = (ops["wait"][1:] <= 0) & (phase[1:] <= phase[:-1])
    require(not shared.any(), "phase in the clock of the command before", phase[1:][shared].tolist()[:1], "a later one")


def mac_accesses(records: NDArray[np.void]) -> int:
    """Column accesses of all PIM_MAC among records of :meth:`RankPort.trace`."""
    return int(records["count"][records["code"] == int(Command.PIM_MAC)].sum())


def traced_commands(params: PimRankParams, records: NDArray[np.void]) -> list[TracedCommand]:
    """Records of :meth:`RankPort.trace` as commands, in CK; those that no rule times are left out."""
    burst = params.organization.burst_length
    commands = []
    for r in records:
        code = Command(int(r["code"]))
        ck = int(r["clock"]) * params.ck_per_clock + int(r["phase"])
        if code in HOST_ONLY_COMMANDS:
            continue
        if code is Command.PIM_RD_RB:
            commands.append(TracedCommand(ck, code, 0, int(r["bank_group"]), int(r["bank"])))
        elif code not in _COLUMN and code not in (Command.ACT, Command.PREpb):
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
                    int(r["column"]) * burst if code in _COLUMN else None,
                    int(r["count"]) if code is Command.PIM_MAC else 1,
                )
            )
    return commands
