"""Every DDR4 command of a host in every state of the owner and of CKE, against a scoreboard that knows no RTL.

No data are lost, a refused command has no effect and is counted with its reason, and the chips see legal streams only.
"""

from __future__ import annotations

import numpy as np

from dimmpim.ranks import open_rank
from pimsim.rank.host_scoreboard import ACTIVE, COLUMN, DDR4, POWER_DOWN, SELF_REFRESH
from pimsim.rank.host_stimulus import RandomHost
from pimsim.rule_checker import RuleChecker
from pimspec.dram.commands import Command
from pimspec.hostif.port import traced_commands
from pimspec.hostif.window import ControlOp, Refusal
from pimspec.hostif.window_lines import WindowLines
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
ORG = TINY.organization
HOST_ROWS = (1000, 1001, 70_000)
TOKENS = 6000
K_ROW, V_ROW = 0, 400
OWNER_STATES = ("host owns", "taking over", "PIM owns", "giving back")
MARGIN_CLOCKS = 60
"""Clocks before the command engine may begin, in which the looks at the status of a take-over have time."""
REASONS = {"ROW_OPEN", "ROW_CLOSED", "OWNED", "POWER", "CONFLICT", "UNKNOWN"}
REASONS |= {"DATA_READ", "MASKED", "OUTSIDE", "BAD_OP", "BAD_TOKENS"}


class Session:
    """A rank that changes hands again and again, and the checks after each piece of the way."""

    def __init__(self, sim, seed):
        self.port, self.rng = sim.port, np.random.default_rng(seed)
        self.host = RandomHost(sim.port, self.rng, HOST_ROWS)
        self.codec, self.text = WindowLines(TINY), f"seed {seed}"
        self.checker = RuleChecker((TINY.timing, ORG), TINY.engine.constraints, max_postponed=None)
        self.single, self.heads = {}, 0

    @property
    def board(self):
        return self.host.board

    def commands(self, count):
        """Random commands, with a look at the status now and then."""
        end = self.host.count + count
        while self.host.count < end:
            for _ in range(int(self.rng.choice([1, 2, 5, 20, 40]))):
                self.host.clock()
            if self.board.posted > TINY.host_queue // 2:
                self.drain()
            if self.board.cke == ACTIVE:
                self.check_status()

    def check_status(self):
        """Refusals since the last look: their number, and the reason of the last; often the only one."""
        self.host.settle()
        refusals, last = list(self.board.refusals), self.board.last_refusal
        status = self.host.status()
        expected = {"refused": len(refusals), "refusal": last, "chip": 0, "refresh_2x": self.board.rate}
        got = {name: status[name] for name in expected}
        assert got == expected, f"before clock {self.port.clock}: {refusals}, {self.text}"
        if len(refusals) == 1:
            self.single[last] = self.single.get(last, 0) + 1
        if refusals:
            self.host.control(ControlOp.CLEAR)
            self.host.settle()
            self.board.clear()
        self.check_trace()
        return status

    def check_trace(self):
        """The chips have seen the host's commands in the right clock and CK, and none that breaks a rule."""
        records = self.port.trace()
        for command in traced_commands(TINY, records):
            self.checker.issue(command)
        chips, self.board.chips = self.board.chips, []
        if not self.board.owned and self.host.state == "host owns":
            group = ORG.banks_per_group
            got = [(int(r["clock"]), int(r["phase"]), int(r["code"]), int(r["bank_group"]) * group + int(r["bank"]),
                    int(r["row"]), int(r["column"])) for r in records]  # fmt: skip
            meant = [(g[:3], *used(g)) for g in got]
            assert meant == [(c[:3], *used(c)) for c in chips], f"before clock {self.port.clock}, {self.text}"

    def drain(self):
        """Wait until the posted writes are in the cells."""
        begin = self.port.clock
        while self.host.status()["queued"]:
            assert self.port.clock - begin < 100_000, "posted writes do not end"
        self.board.posted = 0

    def take(self):
        self.host.raise_cke()
        self.host.directed(Command.PREab)
        self.check_status()
        self.host.control(ControlOp.TAKE)
        self.board.owned, self.host.state = True, "taking over"
        self.host.flush()
        end = self.port.clock + TINY.quiet_clocks - MARGIN_CLOCKS
        while self.host.clock(latest=end):
            pass
        self.check_status()
        self.host.state = "PIM owns"

    def give_back(self, count):
        """RELEASE while attention runs, so that PIM certainly owns the DRAM for the commands that follow."""
        self.attend()
        self.drain()
        self.host.control(ControlOp.RELEASE)
        self.host.state = "giving back"
        self.commands(count)
        self.drain()
        last = self.port.clock
        begin = self.port.clock
        while self.host.status()["owner"]:
            assert self.port.clock - begin < 200_000, "the DRAM is not given back"
            self.port.run(50)
        assert self.port.finished[self.heads - 1] > last, "PIM may have given the DRAM back too early for this test"
        self.check_trace()
        self.board.owned, self.host.state = False, "host owns"
        self.host.times.pause(self.port.clock * TINY.ck_per_clock + TINY.timing.nRFC)

    def attend(self):
        """Work for PIM: a descriptor that takes a while."""
        line = self.codec.packed(TINY.window.descriptor, {
            "k_row": K_ROW, "v_row": V_ROW, "tokens": TOKENS, "last_query": 1, "scale": 0x3EB8AA3B, "normalise": 1,
        })  # fmt: skip
        self.host.window_access(1, line)
        self.heads += 1


def used(command):
    """Bank, row and column as far as a command has them."""
    code, bank, row, column = command[2:]
    return (
        bank if code in (Command.ACT, Command.PREpb, *COLUMN) else 0,
        row if code == Command.ACT else 0,
        column if code in COLUMN else 0,
    )


def run_session(seed, episodes, commands):
    with open_rank(TINY) as sim:
        sim.port.all_reads_answered = False
        session = Session(sim, seed)
        for _ in range(episodes):
            session.commands(commands)
            session.take()
            session.commands(commands // 2)
            session.give_back(commands // 8)
        session.host.raise_cke()
        session.check_status()
        check_memory(session)
    return session


def check_memory(session):
    """All data rows of the host, read over its bus."""
    host, board = session.host, session.board
    host.directed(Command.PREab)
    for bank, row, column in sorted(board.memory):
        open_row = board.rows.get(bank)
        if open_row is None or open_row.number != row:
            if open_row is not None:
                host.directed(Command.PREpb, bank)
            host.directed(Command.ACT, bank, row)
        host.directed(Command.RD, bank, column=column)
    assert len(host.settle()) == len(board.memory)


def test_random_commands_in_every_state():
    """Each command in each state, more than once in each way that it can end; each reason to refuse one, alone too."""
    session = run_session(seed=1, episodes=40, commands=1600)
    seen = session.board.seen
    assert session.host.count >= 100_000
    ways = ("passed on", "done", *Refusal.__members__)
    for state in (*OWNER_STATES, POWER_DOWN, SELF_REFRESH):
        for code in DDR4:
            assert sum(seen[state, int(code), way] for way in ways) > 1, f"{Command(code).name} while {state}"
    reasons = {way for _, _, way in seen} - {"passed on", "done"}
    assert reasons == REASONS
    assert {Refusal[name] for name in reasons} == set(session.single)
