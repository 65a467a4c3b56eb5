"""RTL of a rank in simulation: models of its chips, compiled by Verilator and joined in C++."""

from __future__ import annotations

from collections.abc import Mapping

from pimspec.errors import require
from pimspec.params.pim_rank import PimRankParams

from .build import build_rank_library
from .library import LibraryRank

__all__ = ["RankSimulator"]


class RankSimulator(LibraryRank):
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
        path = build_rank_library(params, modules)
        super().__init__(params, path, lambda library: int(library.rank_new(threads)))
