"""PIM chip behind CA pins: in lockstep with a chip that has the port itself, on random commands and in whole ranks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal

from dimmpim.ranks import rank_verilog_modules
from pimhost.driver.decode_step import golden_step, run_step
from pimhost.driver.rank_host import RankHost
from pimhost.kv_file import synthetic_step
from pimhw.bank_pu import BankPu
from pimhw.dram.ca_encoder import CaEncoder
from pimhw.hierarchy import expose, hierarchical_verilog
from pimhw.pim_chip import PimChip
from pimhw.pim_chip_pins import PimChipPins, chip_pins_verilog
from pimhw.pipeline import slots_follow
from pimsim.chip_harness import ChipScript, VerilatedChip
from pimsim.lint import lint_warnings
from pimsim.rank.host_scoreboard import ACTIVE
from pimsim.rank.host_stimulus import RandomHost
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.dram.timing import DramStandard
from pimspec.formats import BF16
from pimspec.golden.merge import normalise
from pimspec.params.bank_pu import BankPuParams
from pimspec.params.ca_port import CaPortParams
from pimspec.params.pim_chip import PimChipParams
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import preset_named

DIFFERS = 0b11111
"""Status of a :class:`LockstepChip` whose chips have differed: bits that no test below provokes together."""


class LockstepChip(PimChip):
    """A chip, and beside it one that gets the same commands over pins, ``params.delay_clocks`` clocks later.

    Its port is the chip's. All status bits are set, and stay so, if the two differ in an access to their cells, in a
    line or in their status, or if a command is refused or a word unknown.
    """

    def __init__(self, *, params: CaPortParams) -> None:
        super().__init__(params=params.chip)
        self.port = params

    def elaborate(self, platform):
        m, p = Module(), self.port
        chip, pinned = PimChip(params=p.chip), PimChipPins(params=p)
        m.submodules.chip, m.submodules.pinned = chip, pinned
        m.submodules.encoder = encoder = CaEncoder(params=p)
        for target in (chip, encoder):
            m.d.comb += [
                *slots_follow([target.command], [self.command]),
                *slots_follow(target.late, self.late),
                *slots_follow([target.bus], [self.bus]),
            ]
        m.d.comb += [mine.eq(its) for mine, its in zip(pinned.pins, encoder.pins, strict=True)]

        def late(value, name):
            for k in range(p.delay_clocks):
                register = Signal(value.shape(), name=f"{name}_{k}")
                m.d.sync += register.eq(value)
                value = register
            return value

        for name in ("dq_in", "status_clear"):
            for mine, its in zip(*(self._signals(port, name) for port in (pinned, chip)), strict=True):
                m.d.comb += mine.eq(late(its, f"{its.name}_late"))
        m.d.comb += [
            mine.eq(its) for mine, its in zip(self._signals(chip, "dq_in"), self._signals(self, "dq_in"), strict=True)
        ]
        m.d.comb += [chip.status_clear.eq(self.status_clear), self.dq_out.valid.eq(chip.dq_out.valid)]
        m.d.comb += self.dq_out.data.eq(chip.dq_out.data)
        unlike = [encoder.refused, pinned.unknown]
        unlike.append(late(chip.status.as_value(), "status") != pinned.status.as_value())
        unlike.append(late(chip.dq_out.valid, "valid") != pinned.dq_out.valid)
        unlike.append(pinned.dq_out.valid & (late(chip.dq_out.data, "line") != pinned.dq_out.data))
        for b, (cells, its) in enumerate(zip(chip.cells, pinned.cells, strict=True)):
            expose(m, self.cells[b], cells, cells.signature.members)
            m.d.comb += its.read_data.eq(late(self.cells[b].read_data, f"read_data{b}"))
            here, there = (Cat(c.write, c.row, c.column) for c in (cells, its))
            unlike.append(late(cells.en, f"en{b}") != its.en)
            unlike.append(its.en & (late(here, f"where{b}") != there))
            here, there = (Cat(c.data, c.mask) for c in (cells, its))
            unlike.append(its.en & its.write & (late(here, f"what{b}") != there))
        differed = Signal()
        m.d.sync += differed.eq(differed | Cat(*unlike).any())
        m.d.comb += self.status.eq(chip.status.as_value() | differed.replicate(len(self.status.as_value())))
        return m

    @staticmethod
    def _signals(chip, name):
        port = getattr(chip, name)
        return [port] if name == "status_clear" else [port.data, port.mask]


DDR5_PU = BankPuParams(
    format=BF16, lanes=8, queries_at_once=1, head_dim=64, dims_per_bank=8, max_columns=64, result_words=16
)
TINY = preset_named("tiny").rank
DDR5_RANK = PimRankParams(
    dram="ddr5-4800-x8-16gb", ck_per_clock=6, chips=2, bank_groups=2, banks_per_group=2, columns=256, head_dim=64,
    segment_tokens=128, queries=16, queries_at_once=2, line_queue=16,
)  # fmt: skip
CHIPS = {
    "ddr4": CaPortParams.of_rank(TINY),
    "ddr5": CaPortParams(
        standard=DramStandard.DDR5,
        chip=PimChipParams(
            bank_groups=2, banks_per_group=2, column_accesses=64, access_bytes=16, bank_pu=DDR5_PU,
            mac_interval_clocks=3, slots=6,
        ),
    ),
}  # fmt: skip
RANKS = {"ddr4": TINY, "ddr5": DDR5_RANK}


@functools.lru_cache(maxsize=2)
def modules_of(params):
    parts = {"bank_pu": BankPu(params=params.chip.bank_pu), "pim_chip": LockstepChip(params=params)}
    return {name: hierarchical_verilog(part, name, {}) for name, part in parts.items()}


class RandomScript:
    """Commands that keep what a chip needs for clean results: rows open, bursts apart, operands and sums written."""

    def __init__(self, params, seed, clocks):
        self.port, self.p, self.rng = params, params.chip, np.random.default_rng(seed)
        self.script, self.counts = ChipScript(self.p), {}
        rng, p = self.rng, self.p
        start = self._operands()
        self.free = [start + 5 * b for b in range(p.num_banks)]  # first clock in which a bank takes a command
        self.row_open, self.resumable = [False] * p.num_banks, [False] * p.num_banks
        self.fresh = [[True, True] for _ in range(p.num_banks)]  # sets of sums that are not written yet
        self.lines, self.read_at = set(), -9
        for clock in range(start, clocks - 200):
            bank = int(rng.integers(p.num_banks))
            if self.free[bank] <= clock and rng.random() < 0.8:
                self._command(clock, bank)
            if rng.random() < 0.4:
                self._bus(clock)

    def _operands(self):
        """Write every operand word of every query."""
        clock, p = 10, self.p
        for word in range(p.bank_pu.operand_words):
            for row in range(p.bank_pu.queries_at_once):
                self.script.operand(clock, word, row, self.rng.integers(0, 1 << 15, p.bank_pu.lanes))
                clock += 1
        return clock + 20

    def _note(self, command):
        self.counts[command] = self.counts.get(command, 0) + 1

    def _command(self, clock, bank):
        """A command to a bank: in the first slot, or one of JEDEC in the next, which no bus command needs."""
        p, rng = self.p, self.rng
        phase = int(rng.integers(2))
        if not self.row_open[bank]:
            self.script.command(clock, Command.ACT, bank, row=int(rng.integers(4)), phase=phase)
            self.row_open[bank], self.free[bank] = True, clock + 4
            self._note(Command.ACT)
            return
        kinds = [Command.RD, Command.RDA, Command.WR, Command.WRA, Command.PREpb] + [Command.PIM_MAC] * 6
        kind = kinds[rng.integers(len(kinds))]
        column = int(rng.integers(p.column_accesses))
        if kind is Command.PIM_MAC:
            self.free[bank] = clock + self._mac(clock, bank, column)
        elif kind is Command.PREpb:
            self.script.command(clock, kind, bank, phase=phase)
            self.row_open[bank], self.free[bank] = False, clock + 4
        else:
            offset = p.read_clocks if kind in (Command.RD, Command.RDA) else p.write_clocks
            at = ("out" if kind in (Command.RD, Command.RDA) else "in", clock + offset)
            if at in self.lines:
                return
            self.lines.add(at)
            self.script.command(clock, kind, bank, column=column, phase=phase)
            if at[0] == "in":
                self.script.line(at[1], rng.integers(0, 256, p.access_bytes), int(rng.integers(1 << p.access_bytes)))
            self.row_open[bank] = kind in (Command.RD, Command.WR)
            self.free[bank] = clock + p.write_clocks + 6
        self._note(kind)

    def _mac(self, clock, bank, column):
        """A burst of whole tokens; of V with `first` while its sums have not been written. Returns clocks to wait."""
        p, pu, rng = self.p, self.p.bank_pu, self.rng
        mode, which = int(rng.integers(2)), int(rng.integers(2))
        token = pu.accesses_per_v if mode else pu.accesses_per_k
        count = token * int(rng.integers(1, max(2, 16 // token)))
        resume = int(self.resumable[bank] and rng.random() < 0.3)
        if resume:
            count, fields = self.resumable[bank], {"resume": 1}
        else:
            column = 0 if self.port.standard is DramStandard.DDR5 else column
            first = int(mode and (self.fresh[bank][which] or rng.random() < 0.3))
            fields = {"mode": mode, "first": first, "set": which, "start": int(rng.integers(pu.operand_words))}
            if mode:
                self.fresh[bank][which] = False
        self.resumable[bank] = token if not resume and token > 1 else 0
        self.script.command(clock, Command.PIM_MAC, bank, column=column, count=count, **fields)
        return count * p.mac_interval_clocks + pu.latency_cycles + 8

    def _bus(self, clock):
        p, pu, rng = self.p, self.p.bank_pu, self.rng
        if rng.random() < 0.5 and ("in", clock + p.write_clocks) not in self.lines:
            self.lines.add(("in", clock + p.write_clocks))
            word, row = int(rng.integers(pu.operand_words)), int(rng.integers(pu.queries_at_once))
            self.script.operand(clock, word, row, rng.integers(0, 1 << 15, pu.lanes), int(rng.integers(1 << pu.lanes)))
            self._note(Command.PIM_WR_SB)
        elif ("out", clock + p.read_clocks) not in self.lines:
            self.lines.add(("out", clock + p.read_clocks))
            bank, index = int(rng.integers(p.num_banks)), int(rng.integers(p.read_parts))
            fields = {"pop": int(rng.integers(2))}
            if not any(self.fresh[bank]) and rng.random() < 0.5:
                fields = {"sum": 1, "set": int(rng.integers(2)), "address": int(rng.integers(pu.dims_per_bank))}
            self.script.read_result(clock, bank, index, **fields)
            self._note(Command.PIM_RD_RB)


@pytest.mark.parametrize("name", CHIPS)
def test_the_chip_behind_pins_does_what_the_chip_does(name):
    """Every access, line and status bit, on thousands of random commands in all slots."""
    params, clocks = CHIPS[name], 12_000
    random = RandomScript(params, 1, clocks)
    wanted = {Command.ACT, Command.RD, Command.RDA, Command.WR, Command.WRA, Command.PREpb, Command.PIM_MAC}
    assert set(random.counts) == wanted | {Command.PIM_WR_SB, Command.PIM_RD_RB}
    assert min(random.counts.values()) > 50, random.counts
    with VerilatedChip(modules=modules_of(params), params=params.chip) as chip:
        for bank in range(params.chip.num_banks):
            for row in range(4):
                cells = chip.row(bank, row)
                cells[:] = random.rng.integers(0, 60, cells.shape)
        run = chip.run(random.script, clocks)
    assert not np.any(run.status == DIFFERS), f"differ from clock {np.argmax(run.status == DIFFERS)}"
    assert run.valid.sum() > 1000


@pytest.mark.parametrize("name", CHIPS)
def test_a_command_that_is_not_on_the_pins_makes_a_difference(name):
    """The comparison can fail: a PREab where the PIM_MAC has its other cycle, and a code that the pins lack."""
    params = CHIPS[name]
    clock, slot = (20, 1) if params.delay_clocks == 0 else (19, params.chip.slots - 1)
    for given in ([(20, Command.PIM_MAC, 0), (clock, Command.PREab, slot)], [(20, Command.PIM_WR_R, 0)]):
        with VerilatedChip(modules=modules_of(params), params=params.chip) as chip:
            script = ChipScript(params.chip)
            for clock, command, phase in given:
                script.command(clock, command, phase=phase)
            status = chip.run(script, 40).status
        assert status[19] != DIFFERS
        assert np.all(status[22:] == DIFFERS)


@pytest.mark.parametrize("name", [pytest.param("ddr4"), pytest.param("ddr5", marks=pytest.mark.slow)])
def test_attention_over_pins(name):
    """In a rank: everything that the sequencer, the command engine and the host send is carried by the pins."""
    rank = RANKS[name]
    modules = rank_verilog_modules(rank)
    lockstep = modules_of(CaPortParams.of_rank(rank))["pim_chip"]
    step = synthetic_step(AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=rank.head_dim), 300, 5)
    runs = []
    for chip in (modules["pim_chip"], lockstep):
        with RankHost(RankSimulator(rank, modules | {"pim_chip": chip})) as host:
            runs.append(run_step(host, step))
            assert host.status().chip == 0
    golden = golden_step(rank, step)
    np.testing.assert_array_equal(runs[1].output, normalise(golden, rank.format))
    assert runs[0].clocks == runs[1].clocks
    assert [str(c) for c in runs[0].commands] == [str(c) for c in runs[1].commands]
    counts = {command: sum(c.command is command for c in runs[1].commands) for command in Command}
    assert all(counts[c] > 20 for c in (Command.PIM_MAC, Command.PIM_WR_SB, Command.PIM_RD_RB))


def test_a_host_over_pins():
    """Every DDR4 command of a host in any CK, power-down and self refresh among them, and data that come back."""
    modules = rank_verilog_modules(TINY)
    lockstep = modules_of(CaPortParams.of_rank(TINY))["pim_chip"]
    with RankHost(RankSimulator(TINY, modules | {"pim_chip": lockstep})) as sim:
        host = RandomHost(sim.port, np.random.default_rng(6), (1000, 1001, 70_000))
        while host.count < 4000:
            for _ in range(50):
                host.clock()
            host.settle()
            if host.board.cke == ACTIVE:
                assert host.status()["chip"] == 0, f"before clock {sim.port.clock}"
        codes = {int(code) for code in sim.trace()["code"]}
    assert set(CHIPS["ddr4"].late_commands) - {Command.NOP} <= codes  # a NOP ends in the host port


@pytest.mark.parametrize("name", CHIPS)
def test_lint_is_silent(name, tmp_path):
    source = tmp_path / "pim_chip_pins.v"
    source.write_text(chip_pins_verilog(CHIPS[name]))
    assert lint_warnings(source, "pim_chip_pins") == []
