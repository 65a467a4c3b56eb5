"""Timing model of a rank: the clocks and the commands of the RTL, without data."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from pimspec.dram.commands import COMMAND_BITS, Command
from pimspec.errors import RankError, require
from pimspec.hostif.port import CommandCounts
from pimspec.params.pim_rank import PimRankParams

from ..build_cache import build_in, build_root, content_key
from ..rank.library import LibraryRank
from ..tools import cxx, run_tool, toolchain
from .config import rank_config
from .contract import HEADER, contract_header

__all__ = ["TimingSimulator"]

SOURCES = Path(__file__).parent
FLAGS = ["-std=gnu++17", "-O3", "-fPIC", "-shared"]

_COUNTS = (1 << COMMAND_BITS) + 2


def timing_library() -> Path:
    """Shared library of the model, compiled and cached; one serves all ranks."""
    texts = {path.name: path.read_text() for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cpp")}
    texts[HEADER.name] = contract_header()

    def make(into: Path) -> None:
        for name, text in texts.items():
            (into / name).write_text(text)
        run_tool([*cxx(), *FLAGS, "rank_timing.cpp", "-o", "timing.so"], cwd=into)

    key = content_key(*texts, *texts.values(), toolchain(with_verilator=False), *FLAGS)
    return build_in(build_root() / "timing" / key, "timing.so", make)


class TimingSimulator(LibraryRank):
    """Timing model of a rank, in place of :class:`~pimsim.rank.verilated.RankSimulator` where only time matters.

    It follows the units of the RTL clock by clock (a header in ``timing`` for each group of them), with all that
    determines time and nothing else. Clocks in which nothing can happen are skipped. Commands to the chips, ends of
    kv_heads, refusals and status lines are those of the RTL. Lines of results are zeros, and cells do not exist.
    ``tests/system`` compares it with the RTL in every test that runs one.

    Parameters
    ----------
    params : PimRankParams

    Raises
    ------
    ParameterError
        If the rank is larger than the model has room for.
    """

    def __init__(self, params: PimRankParams) -> None:
        config = rank_config(params)

        def create(library: ctypes.CDLL) -> int:
            size = library.rank_config_bytes()
            require(size == ctypes.sizeof(config), "bytes of the configuration", ctypes.sizeof(config), str(size))
            return int(library.rank_new(ctypes.byref(config)))

        super().__init__(params, timing_library(), create)
        self._tracing = True
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._library.rank_counts.argtypes = (pointer, number, pointer, number)
        self._library.rank_counts.restype = number

    @property
    def tracing(self) -> bool:
        """True if commands are kept for :meth:`trace`, the default; false is faster. Clocks do not change."""
        return self._tracing

    @tracing.setter
    def tracing(self, on: bool) -> None:
        self._tracing = on
        self._library.rank_tracing(self._handle, int(on))

    def counts(self, finished: int | None = None) -> CommandCounts:
        """Counts of all clocks before this one, or of those up to the end of a descriptor, by its number from 0 on."""
        into = np.zeros(_COUNTS, np.int64)
        number = -1 if finished is None else finished
        if self._library.rank_counts(self._handle, number, into.ctypes.data, _COUNTS) != _COUNTS:
            raise RankError(f"descriptor {finished} has not finished")
        *codes, accesses, open_clocks = into.tolist()
        commands = {Command(code): count for code, count in enumerate(codes) if count}
        return CommandCounts(commands=commands, mac_accesses=accesses, open_clocks=open_clocks)

    def watch_everything(self) -> None:
        """Look at every unit in every clock from now on: the same result, slowly, to prove that nothing is missed."""
        self._library.rank_watchful(ctypes.c_void_p(self._handle), 1)
