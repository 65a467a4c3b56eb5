"""The timing model of a rank: the clocks and the commands of the RTL, without data."""

from __future__ import annotations

import ctypes
from pathlib import Path

from pimspec.dpa_params import DpaParams
from pimspec.errors import require
from pimspec.system import PimRankParams

from .rank_simulator import HostedRank
from .timing_config import rank_config
from .tools import build_root, content_key, run_tool
from .verilated import CXX, build_in

__all__ = ["TimingSimulator"]

SOURCES = Path(__file__).with_name("timing")
FLAGS = ["-std=gnu++17", "-O3", "-fPIC", "-shared"]


def timing_library() -> Path:
    """Compile the model; one library serves all ranks. Cached."""
    texts = {path.name: path.read_text() for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cpp")}

    def make(into: Path) -> None:
        for name, text in texts.items():
            (into / name).write_text(text)
        run_tool([CXX, *FLAGS, "rank_timing.cpp", "-o", "timing.so"], cwd=into)

    key = content_key(*texts, *texts.values(), CXX, *FLAGS)
    return build_in(build_root() / "timing" / key, "timing.so", make)


class TimingSimulator(HostedRank):
    """Stands for :class:`~.rank_simulator.RankSimulator` where only time matters.

    It follows the units of the RTL clock by clock (a header in ``timing`` for each group of them), with all that
    decides when something happens and nothing else; clocks in which nothing can happen are passed over. Commands to
    the chips, ends of kv_heads, refusals and status lines are those of the RTL; lines of results are zeros, and cells
    do not exist. ``tests/system`` holds it against the RTL in every test that runs one.

    Parameters
    ----------
    params : PimRankParams
    dpa : DpaParams, optional
        Of the rank's DPA controller, if it has one.

    Raises
    ------
    ParameterError
        If the rank is larger than the model has room for.
    """

    def __init__(self, params: PimRankParams, dpa: DpaParams | None = None) -> None:
        config = rank_config(params, dpa)

        def create(library: ctypes.CDLL) -> int:
            size = library.rank_config_bytes()
            require(size == ctypes.sizeof(config), "bytes of the configuration", ctypes.sizeof(config), str(size))
            return int(library.rank_new(ctypes.byref(config)))

        super().__init__(params, dpa, timing_library(), create)

    def watch_everything(self) -> None:
        """From now on look at every unit in every clock: the same result, slowly, to prove that nothing is missed."""
        self._library.rank_watchful(ctypes.c_void_p(self._handle), 1)
