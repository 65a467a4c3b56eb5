"""RTL of a rank in simulation: models of its chips, compiled by Verilator and joined in C++."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

from pimspec.errors import require
from pimspec.params.pim_rank import PimRankParams

from .build import build_rank_library
from .library import LibraryRank

__all__ = ["RankSimulator", "VerilatedRank"]


class VerilatedRank(LibraryRank):
    """RTL of a rank in the harness ``rank_harness.cpp``.

    Parameters
    ----------
    params : PimRankParams
    path : Path
        Library of the models and the harness.
    threads : int
    """

    def __init__(self, params: PimRankParams, path: Path, threads: int) -> None:
        super().__init__(params, path, lambda library: int(library.rank_new(threads)))
        self.upsets: list[int] = []
        """Clocks of all calls of :meth:`upset`."""

    def upset(self, clock: int, chip: int, *, bus: bool = False, **fields: int) -> None:
        """Put a command on the inputs of one chip alone, in a clock to come: a fault that its status must show.

        Parameters
        ----------
        clock, chip : int
            One upset a clock, by rising clock.
        bus : bool
            True for a bus access.
        **fields : int
            Fields as in :attr:`~pimspec.params.pim_chip.PimChipParams.command`, or ``bus``.
        """
        first = max(self.clock, *(before + 1 for before in self.upsets[-1:]), 0)
        require(clock >= first, "clock", clock, f"{first} or later")
        require(0 <= chip < self.params.num_chips, "chip", chip, f"0..{self.params.num_chips - 1}")
        p = self.params.chip
        table, size = p.bus if bus else p.command, 4 * max(p.command.num_words, p.bus.num_words)
        words = table.pack_int(**fields).to_bytes(size, "little")
        self._library.rank_upset(
            ctypes.c_void_p(self._handle), ctypes.c_int64(clock), chip, int(bus), ctypes.c_char_p(words)
        )
        self.upsets.append(clock)


class RankSimulator(VerilatedRank):
    """RTL of a rank as a :class:`~pimspec.hostif.port.RankPort`.

    Parameters
    ----------
    params : PimRankParams
    modules : mapping of module name to Verilog text
        Modules from ``pimhw.pim_rank.rank_modules``.
    threads : int
        1, or 2 to simulate half the DRAM chips in a second thread.
    """

    def __init__(self, params: PimRankParams, modules: Mapping[str, str], *, threads: int = 1) -> None:
        require(threads in (1, 2), "threads", threads, "1 or 2")
        super().__init__(params, build_rank_library(params, modules), threads)
