"""Rank port: calls of host code on a simulated rank, on the fast harness."""

from __future__ import annotations

import numpy as np

from dimmpim.ranks import open_rank
from pimspec.dram.commands import Command
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank


def test_earlier_lines_are_not_those_of_a_read():
    """Another controller has read a line that was not fetched."""
    lines = [bytes([k] * TINY.line_bytes) for k in (1, 2)]
    with open_rank(TINY) as sim:
        sim.write_columns(0, 7, [0, 1], lines)
        sim.memory.close_all()
        sim.finish_writes()
        ops = np.zeros(3, sim.port.host_op_dtype)
        ops["code"] = Command.ACT, Command.RD, Command.PREab
        ops["row"], ops["wait"] = (7, 0, 0), 40
        sim.port.enqueue(ops)
        sim.port.run_host()
        sim.run(100)
        assert sim.read_columns(0, 7, [1]) == lines[1:]


def test_clocks_pass_in_runs_alone():
    """A run ends at its first limit, and one whose limit has already come takes no clock."""
    with open_rank(TINY) as sim:
        ops = np.zeros(2, sim.port.host_op_dtype)
        ops["code"], ops["wait"] = Command.REFab, (5, 200)
        sim.port.enqueue(ops)
        assert (sim.clock, sim.port.host_ops_left, sim.run(0), sim.run(100, until_finished=0)) == (0, 2, 0, 0)
        assert (sim.run(4), sim.port.host_ops_left) == (4, 2)
        assert (sim.run(1), sim.port.host_ops_left) == (1, 1)
        sim.port.run_host(limit=50)
        assert (sim.clock, sim.port.host_ops_left) == (55, 1)
        sim.port.run_host()
        assert (sim.clock, sim.port.host_ops_left, sim.port.issued) == (205, 0, [4, 204])
        sim.port.run_host()
        assert sim.clock == 205
        sim.run(10)
        assert sim.trace()[["clock", "code"]].tolist() == [(5, Command.REFab), (205, Command.REFab)]
