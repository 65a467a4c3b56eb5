"""cocotb bench of a whole rank with the shipped host code in front of it.

Reads from the environment: ``DIMMPIM_WORK`` (a pickled :class:`dimmpim.studies.cosimulation.DeviceWork`),
``DIMMPIM_DONE`` (where what came of it goes).
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
    """The device does its work; what came of it is for the caller to compare."""
    work = pickle.loads(Path(os.environ["DIMMPIM_WORK"]).read_bytes())
    rank = CocotbRank(dut, work.rank)
    await rank.reset()
    done = await bridge(on_rank)(RankHost(rank), work)
    Path(os.environ["DIMMPIM_DONE"]).write_bytes(pickle.dumps(done))
    dut._log.info("%d clocks, %d commands to the chips", done.clocks, len(done.commands))
