"""Rank port: calls of host code on a simulated rank, on the fast harness."""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank
from pimsim.rank.bus_commands import BusCommands
from pimspec.dram.commands import Command
from pimspec.errors import ParameterError
from pimspec.hostif.window import Refusal
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


def ck_of(trace):
    """Commands of a trace with their CK."""
    return [(int(r["clock"]) * TINY.ck_per_clock + int(r["phase"]), Command(int(r["code"]))) for r in trace]


def test_commands_keep_their_ck_on_the_way_to_the_chips():
    """Rows of all banks are opened in different CK, two of them in one clock; data are those of their columns."""
    last = TINY.ck_per_clock - 1
    lines = [bytes([k] * TINY.line_bytes) for k in range(1, TINY.num_banks + 1)]
    with open_rank(TINY) as sim:
        bus = BusCommands(sim.port)
        for bank, line in enumerate(lines):
            clock = bus.give(Command.ACT, 20, bank=bank, row=7, phase=bank % TINY.ck_per_clock)
            sim.settle()
            before = sim.trace()
            assert not (before["code"] == Command.ACT).any()
            sim.run(1)
            assert ck_of(sim.trace()) == [((clock + 1) * TINY.ck_per_clock + bank % TINY.ck_per_clock, Command.ACT)]
            bus.give(Command.WR, 20, bank=bank, column=3, phase=last, data=line)
        bus.give(Command.PREpb, 40, bank=0, phase=1)
        bus.give(Command.RD, 0, bank=1, column=3, phase=2)
        bus.give(Command.PREpb, 0, bank=3, phase=3)
        bus.give(Command.ACT, 10, bank=3, row=7, phase=1)
        bus.give(Command.RD, 0, bank=2, column=3, phase=3)
        bus.give(Command.ACT, 20, bank=0, row=7, phase=2)
        for bank in (3, 0):
            bus.give(Command.RD, 20, bank=bank, column=3, phase=bank)
        sim.settle()
        sim.run(40)
        assert sim.port.lines_read() == [lines[bank] for bank in (1, 2, 3, 0)]
        commands = [(ck % TINY.ck_per_clock, code) for ck, code in ck_of(sim.trace())]
        assert commands[:6] == [
            (3, Command.WR),
            (1, Command.PREpb), (2, Command.RD), (3, Command.PREpb), (1, Command.ACT), (3, Command.RD)
        ]  # fmt: skip
        bus.give(Command.PREab, 40)
        sim.settle()
        assert sim.status().refused == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((Command.RD, 0), (Command.RD, 1)),
        ((Command.RD, 0), (Command.WR, 1)),
        ((Command.WR, 0), (Command.WR, 1)),
        ((Command.PREpb, 0), (Command.ACT, 0)),
        ((Command.RD, 1), (Command.PREpb, 1)),
        ((Command.RD, 1), (Command.PREab, 0)),
    ],
)
def test_a_second_command_that_cannot_be_is_refused(first, second):
    """It is counted, has no effect, and does not reach the chips; nor does the line of a second write."""
    lines = [bytes([k] * TINY.line_bytes) for k in (1, 2, 3)]
    with open_rank(TINY) as sim:
        bus = BusCommands(sim.port)
        for bank in (0, 1):
            bus.give(Command.ACT, 40, bank=bank, row=7)
            bus.give(Command.WR, 40, bank=bank, column=3, data=lines[bank])
        sim.settle()
        sim.run(40)
        sim.trace()
        for wait, phase, (code, bank) in ((20, 1, first), (0, 2, second)):
            bus.give(code, wait, bank=bank, row=8, column=3, phase=phase, data=lines[2] if bank else lines[0])
        sim.settle()
        sim.run(40)
        assert [code for _, code in ck_of(sim.trace())] == [first[0]]
        assert sim.port.lines_read() == [lines[first[1]]] * (first[0] is Command.RD)
        for bank in (0, 1):
            if (first[0], bank) != (Command.PREpb, first[1]):
                bus.give(Command.RD, 40, bank=bank, column=3)
        sim.settle()
        sim.run(40)
        kept = [lines[bank] for bank in (0, 1) if (first[0], bank) != (Command.PREpb, first[1])]
        assert sim.port.lines_read() == kept
        bus.give(Command.PREab, 40)
        sim.settle()
        status = sim.status()
        assert (status.refused, status.refusal, status.chip) == (1, Refusal.CONFLICT, 0)


def test_impossible_phases_are_refused():
    with open_rank(TINY) as sim:
        ops = np.zeros(2, sim.port.host_op_dtype)
        ops["code"], ops["wait"], ops["phase"] = Command.REFab, (1, 0), (2, 2)
        with pytest.raises(ParameterError, match=r"phase in the clock of the command before must be a later one"):
            sim.port.enqueue(ops)
        ops["phase"] = 0, TINY.ck_per_clock
        with pytest.raises(ParameterError, match=r"phase must be 0\.\.3, not \[4\]"):
            sim.port.enqueue(ops)
