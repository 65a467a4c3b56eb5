"""cocotb bench of a whole rank with the shipped host code in front of it.

Environment variables: ``DIMMPIM_WORK`` (a pickled :class:`dimmpim.studies.cosimulation.DeviceWork`), ``DIMMPIM_DONE``
(path for the result).
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from cocotb.task import bridge

import cocotb
from dimmpim.studies.cosimulation import on_rank
from pimhost.driver.rank_host import RankHost
from pimsim.rank.cocotb import CocotbRank


@cocotb.test()
async def host_code(dut: Any) -> None:
    """The device does its work; the caller compares the result."""
    work = pickle.loads(Path(os.environ["DIMMPIM_WORK"]).read_bytes())
    rank = CocotbRank(dut, work.rank)
    await rank.reset()
    done = await bridge(on_rank)(RankHost(rank), work)
    Path(os.environ["DIMMPIM_DONE"]).write_bytes(pickle.dumps(done))
    dut._log.info("%d clocks, %d commands to the chips", done.clocks, len(done.commands))
