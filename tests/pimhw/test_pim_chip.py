"""PIM chip under Verilator: equal to the golden bank PU, in the clocks that its parameters state.

The file is long because one bench, a script of commands with its scoreboard, serves every test.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from pimhw.bank_pu import BankPu
from pimhw.hierarchy import hierarchical_verilog, instance_of
from pimhw.pim_chip import PimChip, chip_verilog
from pimsim.chip_harness import ChipScript, VerilatedChip
from pimsim.lint import lint_warnings
from pimsim.stimulus import random_numbers
from pimspec.dram.commands import Command
from pimspec.errors import ParameterError
from pimspec.formats import BF16
from pimspec.golden.bank_pu import BankState, Burst, burst, empty_bank, write_operand
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.params.bank_pu import BankPuParams
from pimspec.params.command_engine import CommandEngineParams
from pimspec.params.pim_chip import PimChipParams

STATUS = ("overflow", "stray", "early", "no_score", "closed")


def chip_of(rows: int, banks: int, **more) -> PimChipParams:
    """Parameters of a DDR4-3200 x8 chip with few banks."""
    pu = BankPuParams(queries_at_once=rows, result_words=16)
    whole = PimChipParams.of_engine(CommandEngineParams(), pu)
    groups = max(1, banks // 4)
    return dataclasses.replace(whole, bank_groups=groups, banks_per_group=banks // groups, **more)


DDR5_PU = BankPuParams(
    format=BF16, lanes=8, queries_at_once=1, head_dim=64, dims_per_bank=8, max_columns=64, result_words=16
)
VARIANTS = {
    "rows1": chip_of(1, 4),
    "rows3": chip_of(3, 2),
    "rows2": chip_of(2, 2),
    "rows8": chip_of(8, 2),
    "ddr5": PimChipParams(
        bank_groups=2, banks_per_group=2, column_accesses=64, access_bytes=16, bank_pu=DDR5_PU, mac_interval_clocks=5
    ),
    "tight": PimChipParams(
        bank_groups=1, banks_per_group=2, mac_interval_clocks=1, write_clocks=1, read_clocks=3,
        bank_pu=BankPuParams(head_dim=64, add_depth=1, interval=1, result_words=16),
    ),
}  # fmt: skip
VARIANTS["whole"] = chip_of(1, 16)
EVERYDAY = ("rows1", "rows3")
ALL = [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in VARIANTS]


@functools.lru_cache(maxsize=2)
def modules_of(params: PimChipParams) -> dict[str, str]:
    parts = {"bank_pu": BankPu(params=params.bank_pu), "pim_chip": PimChip(params=params)}
    return {name: hierarchical_verilog(part, name, {}) for name, part in parts.items()}


def chip_for(params: PimChipParams) -> VerilatedChip:
    return VerilatedChip(modules=modules_of(params), params=params)


def bits_of(names: str) -> int:
    return sum(1 << STATUS.index(name) for name in names.split())


@dataclass
class Bench:
    """A chip, a script, and the results expected by the golden model."""

    chip: VerilatedChip
    seed: int = 0
    script: ChipScript = field(init=False)
    banks: list[BankState] = field(init=False)
    scores: list[list[np.ndarray]] = field(init=False)
    rows: dict[int, int] = field(default_factory=dict)
    want: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.p = self.chip.params
        self.pu = self.p.bank_pu
        self.script = ChipScript(self.p)
        self.banks = [empty_bank(self.pu) for _ in range(self.p.num_banks)]
        self.scores = [[] for _ in self.banks]
        self.rng = np.random.default_rng(self.seed)

    def numbers(self, *shape: int) -> np.ndarray:
        format = self.pu.format
        return random_numbers(self.rng, int(np.prod(shape)), format, format.bias - 6, format.bias + 2).reshape(shape)

    def fill(self, bank: int, row: int) -> np.ndarray:
        """Write numbers to every column of a row."""
        elements = self.numbers(self.p.column_accesses, self.pu.lanes)
        self.chip.row(bank, row)[:] = elements.astype("<u2").view(np.uint8)
        return elements

    def free(self, clock: int, what: str = "command") -> int:
        """First clock from `clock` on without a command (or bus access)."""
        while what in self.script.given.get(clock, {}):
            clock += 1
        return clock

    def operands(self, clock: int, first: int = 0, words: int | None = None, keep: np.ndarray | None = None) -> int:
        """Write words of all queries, one line a clock; returns the clock after them."""
        for word in range(first, first + (self.pu.operand_words if words is None else words)):
            kept = np.ones(self.pu.lanes, np.int64) if keep is None else keep[word - first]
            for row in range(self.pu.queries_at_once):
                data = self.numbers(self.pu.lanes)
                here = kept if row == self.pu.queries_at_once - 1 else 1 - kept  # the last write of a word counts
                self.script.operand(clock, word, row, data, int((here << np.arange(self.pu.lanes)).sum()))
                self.banks = [write_operand(bank, word, row, data, here) for bank in self.banks]
                clock += 1
        return clock

    def act(self, clock: int, bank: int, row: int, phase: int = 0) -> None:
        self.script.command(clock, Command.ACT, bank, row=row, phase=phase)
        self.rows[bank] = row

    def mac(self, clock: int, bank: int, command: Burst, column: int = 0) -> int:
        """Give a PIM_MAC; returns the clock from which access k counts, for the last k."""
        self.script.command(clock, Command.PIM_MAC, bank, column=column, **dataclasses.asdict(command))
        cells = self.chip.row(bank, self.rows[bank])[column : column + command.count]
        elements = cells.copy().view("<u2").astype(np.int64)
        scores, self.banks[bank] = burst(elements, command, self.banks[bank], self.pu)
        self.scores[bank] += list(scores)
        return clock + (command.count - 1) * self.p.mac_interval_clocks

    def part(self, values: np.ndarray, index: int) -> bytes:
        """Part `index` of a result as it appears on dq_out."""
        line = np.zeros(self.p.access_bytes // 4, "<u4")
        here = values[index * self.p.queries_per_line : (index + 1) * self.p.queries_per_line]
        line[: len(here)] = here
        return line.tobytes()

    def read(self, clock: int, bank: int, values: np.ndarray, index: int = 0, **fields) -> None:
        """Give a PIM_RD_RB that must deliver part `index` of `values`."""
        self.script.read_result(clock, bank, index, **fields)
        self.want[clock + self.p.read_clocks] = self.part(values, index)

    def read_scores(self, clock: int, bank: int) -> int:
        """Read all waiting scores: their parts from the last to the first; the last one removes the score."""
        for score in self.scores[bank]:
            for index in reversed(range(self.p.read_parts)):
                clock = self.free(clock, "bus")
                self.read(clock, bank, score, index, pop=int(index == 0))
                clock += 1
        self.scores[bank] = []
        return clock

    def read_sums(self, clock: int, bank: int, which: int) -> int:
        """Read all sums of a set as they are in the golden model; returns the clock after the last of them."""
        for dim, values in enumerate(self.banks[bank].by_dim(which)):
            for index in range(self.p.read_parts):
                clock = self.free(clock, "bus")
                self.read(clock, bank, values, index, sum=1, set=which, address=dim)
                clock += 1
        return clock

    def run(self, status: str = "", extra: int = 40) -> None:
        """Run to the end: each line on dq_out in its clock, no others, and the named status bits."""
        result = self.chip.run(self.script, max(self.script.given) + extra + self.p.read_clocks)
        assert result.lines() == self.want
        assert result.status[-1] == bits_of(status), f"status {result.status[-1]:#b}"
        self.script, self.want = ChipScript(self.p), {}


@pytest.mark.parametrize("variant", ALL)
def test_reads_and_writes_with_masks(variant):
    """Random columns of an open row in each bank, most commands a clock after another, in any CK.

    All rows are opened in one clock if it has a CK for each.
    """
    p = VARIANTS[variant]

    def any_ck() -> int:
        return int(rng.integers(p.slots))

    with chip_for(p) as chip:
        bench = Bench(chip, seed=1)
        rng, cells = bench.rng, {}
        clock, written_at = 3, 0
        for _ in range(3):
            for bank in range(p.num_banks):
                later, phase = divmod(bank, p.slots)
                bench.act(clock + later, bank, int(rng.integers(1 << p.row_bits)), phase)
                row = chip.row(bank, bench.rows[bank])
                row[:] = rng.integers(0, 256, row.shape)
                cells[bank] = row.copy()
            clock += p.num_banks
            for _ in range(200):
                bank, column = int(rng.integers(p.num_banks)), int(rng.integers(p.column_accesses))
                data, mask = rng.integers(0, 256, p.access_bytes), int(rng.integers(1 << p.access_bytes))
                clock += int(rng.integers(1, 3))
                if rng.random() < 0.5:
                    bench.script.write(clock, bank, column, data, mask, phase=any_ck())
                    written = mask >> np.arange(p.access_bytes) & 1 == 0
                    cells[bank][column][written] = data[written]
                    written_at = clock + p.write_access_clocks
                else:
                    clock = max(clock, written_at)  # its access is a clock later
                    bench.script.command(clock, Command.RD, bank, column=column, phase=any_ck())
                    bench.want[clock + p.read_clocks] = cells[bank][column].tobytes()
            clock += p.write_clocks + 2
            bench.script.command(clock, Command.PREab, phase=any_ck())
            clock += 1
        rows = dict(bench.rows)
        bench.run()
        for bank, row in rows.items():
            assert np.array_equal(chip.row(bank, row), cells[bank])


@pytest.mark.parametrize("code", [Command.RDA, Command.WRA])
def test_auto_precharge_closes_the_row_after_the_access(code):
    """In any CK; a further access finds the row closed, and another row can be opened."""
    p = VARIANTS["rows1"]
    old, new = np.arange(p.access_bytes), np.arange(p.access_bytes) + 100
    for phase in range(p.slots):
        with chip_for(p) as chip:
            chip.row(2, 5)[3] = chip.row(2, 6)[3] = old
            script = ChipScript(p)
            script.command(3, Command.ACT, 2, row=5)
            script.command(20, code, 2, phase=phase, column=3)
            script.line(20 + p.write_clocks, new)
            script.command(40, Command.ACT, 2, row=6)
            script.command(60, Command.RD, 2, column=3)
            script.command(70, Command.PREpb, 2)
            script.command(80, Command.ACT, 2, row=5)
            script.command(90, code, 2, phase=phase, column=4)
            script.command(92, Command.RD, 2, column=3)
            run = chip.run(script, 120)
            assert run.status[91] == 0
            assert run.status[-1] == bits_of("closed")
            assert run.lines()[60 + p.read_clocks] == old.astype(np.uint8).tobytes()
            if code is Command.RDA:
                assert run.lines()[20 + p.read_clocks] == old.astype(np.uint8).tobytes()
            written = new if code is Command.WRA else old
            assert np.array_equal(chip.row(2, 5)[3], written)
            assert np.array_equal(chip.row(2, 6)[3], old)


@pytest.mark.parametrize("variant", ALL)
def test_banks_stream_at_once(variant):
    """Each bank at its own pace: K rows, a K row cut inside a token, V rows, cut too, with absent tokens.

    Segments of V use the two sets of sums in turn; those of one are read while the next is under way.
    """
    p = VARIANTS[variant]
    pu, columns = p.bank_pu, p.column_accesses
    with chip_for(p) as chip:
        bench = Bench(chip, seed=2)
        rng = bench.rng
        start = bench.operands(0, keep=(rng.random((pu.operand_words, pu.lanes)) < 0.8).astype(np.int64)) + 20

        def row_of(clock: int, bank: int, row_program: Burst, cut: int) -> tuple[int, int]:
            """A row, in two bursts with PRE and ACT between them if it is cut.

            Returns the clocks of the first and the last access.
            """
            row = int(rng.integers(1 << p.row_bits))
            bench.fill(bank, row)
            done, begin = 0, 0
            for count in [columns] if cut == 0 else [cut, columns - cut]:
                clock = bench.free(clock)
                bench.act(clock, bank, row)
                clock = bench.free(clock + 6)
                begin = begin or clock
                resumed = int(done > 0)
                command = dataclasses.replace(row_program, count=count, resume=resumed, set=row_program.set ^ resumed)
                clock = bench.mac(clock, bank, command, done)
                done += count
                clock = bench.free(clock + 3)
                bench.script.command(clock, Command.PREpb, bank)
                clock += 7
            return begin, clock - 10

        def v_row(first: int, which: int) -> Burst:
            return Burst(MODE_LANE, first, pu.accesses_per_k - 2, 0, set=which)

        k_row = Burst(MODE_TREE, 1, 0, 0)
        program = [(k_row, 0), (v_row(1, 0), 0), (dataclasses.replace(k_row, set=1), 37), (v_row(1, 1), 45)]
        program += [(v_row(0, 1), 0), (v_row(1, 0), 37), (v_row(1, 1), 0)]
        programs = [list(program) for _ in range(p.num_banks)]
        clocks = [start + 9 * bank for bank in range(p.num_banks)]
        read_until = {(bank, which): 0 for bank in range(p.num_banks) for which in (0, 1)}
        reads: list[tuple[int, int, int]] = []  # bank, from, to
        meanwhile = 0
        while any(programs):
            bank = min((b for b in range(p.num_banks) if programs[b]), key=lambda b: clocks[b])
            command, cut = programs[bank].pop(0)
            if command.mode == MODE_TREE:
                _, last = row_of(clocks[bank], bank, command, cut)
                end = bench.read_scores(last + 3 + p.score_ready_clocks, bank)
                clocks[bank] = max(last + 12, end)
                continue
            free = read_until[bank, command.set] - 1 + p.sum_free_clocks  # ACT and PIM_MAC are a while apart
            begin, last = row_of(max(clocks[bank], free), bank, command, cut)
            meanwhile += sum(b == bank and first < last and begin < end for b, first, end in reads)
            ready = last + p.sum_ready_clocks + int(rng.integers(100))
            read_until[bank, command.set] = end = bench.read_sums(ready, bank, command.set)
            reads.append((bank, ready, end))
            clocks[bank] = last + 12
        bench.run()
        assert meanwhile > 0


def one_token(bench: Bench, clock: int, bank: int, mode: int = MODE_TREE) -> int:
    """One token in an open row; returns the clock from which its last access counts."""
    count = bench.pu.accesses_per_v if mode == MODE_LANE else bench.pu.accesses_per_k
    return bench.mac(clock, bank, Burst(mode, 1, 0, count))


@pytest.mark.parametrize("variant", ALL)
def test_a_score_is_ready_in_the_stated_clock(variant):
    """A clock before it PIM_RD_RB finds nothing, which is reported."""
    p = VARIANTS[variant]
    with chip_for(p) as chip:
        bench = Bench(chip, seed=3)
        clock = bench.operands(0) + 10
        bench.fill(1, 5)
        bench.act(clock, 1, 5)
        last = one_token(bench, clock + 5, 1)
        bench.read(last + p.score_ready_clocks, 1, bench.scores[1].pop(), pop=1)
        bench.run()
        bench.act(0, 1, 5)
        last = one_token(bench, 5, 1)
        bench.script.read_result(last + p.score_ready_clocks - 1, 1)
        result = chip.run(bench.script, last + 60)
        assert result.status[-1] == bits_of("no_score")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("variant", ALL)
def test_sums_change_in_the_stated_clock(variant, which):
    """PIM_RD_RB at `sum_ready_clocks` sees the new sums, a clock earlier the old ones: `sum_free_clocks`.

    V goes on in the other set, with `first`, and for that set it is the same.
    """
    p = VARIANTS[variant]
    assert p.sum_free_clocks == 1 - p.sum_ready_clocks
    count, dim = p.bank_pu.accesses_per_v, p.bank_pu.dims_per_bank - 1
    long = count * -(-(p.sum_ready_clocks + 2) // (count * p.mac_interval_clocks))
    with chip_for(p) as chip:
        bench = Bench(chip, seed=4)
        clock = bench.operands(0) + 10
        bench.fill(0, 9)
        bench.act(clock, 0, 9)
        clock += 40
        sets = (which, 1 - which)
        mine, others = (
            Burst(MODE_LANE, 1, k, n, set=one) for k, (one, n) in enumerate(zip(sets, (count, long), strict=True))
        )
        last_token = Burst(MODE_LANE, 0, 0, count, resume=1, set=which)
        states, lasts = [], []
        for k, command in enumerate((mine, others, mine, others, last_token)):
            states.append(bench.banks[0])
            lasts.append(bench.mac(clock, 0, command, 9 * k))
            clock = lasts[-1] + p.mac_interval_clocks
        for k, one in ((2, which), (4, 1 - which)):
            old, new = (state.by_dim(one)[dim] for state in (states[k], bench.banks[0]))
            assert not np.array_equal(old, new)
            bench.read(lasts[k] - p.sum_free_clocks, 0, old, sum=1, set=one, address=dim)
            bench.read(lasts[k] + p.sum_ready_clocks, 0, new, sum=1, set=one, address=dim)
        for one in (0, 1):
            clock = bench.read_sums(clock + 20, 0, one)
        bench.run()


@pytest.mark.parametrize("variant", ALL)
def test_operands_are_used_from_the_stated_clock(variant):
    """Words 0 (of the first access) and the last one of K are written at the limits, and a clock beyond them."""
    p = VARIANTS[variant]
    pu = p.bank_pu
    lead = 60  # operand_free_clocks may be negative
    seen = {}
    for name, shift in (("ready", 0), ("ready", -1), ("free", 0), ("free", -1)):
        with chip_for(p) as chip:
            bench = Bench(chip, seed=5)
            clock = bench.operands(0) + lead
            bench.fill(0, 2)
            bench.act(clock - 10, 0, 2)
            before = list(bench.banks)
            word, span = (0, 0) if name == "ready" else (pu.accesses_per_k - 1, pu.accesses_per_k - 1)
            at = clock - p.operand_ready_clocks - shift
            if name == "free":
                at = clock + span * p.mac_interval_clocks + p.operand_free_clocks + shift
            for row in range(pu.queries_at_once - 1, pu.queries_at_once):  # one line: that of the last query
                data = bench.numbers(pu.lanes)
                bench.script.operand(at, word, row, data)
                after = [write_operand(bank, word, row, data) for bank in before]
            used = after if (name, shift) in (("ready", 0), ("free", -1)) else before
            bench.banks = used
            last = one_token(bench, clock, 0)
            index = p.read_parts - 1
            bench.read(last + p.score_ready_clocks, 0, bench.scores[0][0], index, pop=1)
            seen[name, shift] = bench.scores[0][0].tolist()
            bench.run()
    assert seen["ready", 0] != seen["ready", -1]
    assert seen["free", 0] != seen["free", -1]


def test_bursts_follow_one_another_without_a_gap():
    """PIM_MAC every count * interval clocks: no access is early, and every score is right."""
    p = VARIANTS["rows1"]
    with chip_for(p) as chip:
        bench = Bench(chip, seed=6)
        clock = bench.operands(0) + 10
        bench.fill(3, 1)
        bench.act(clock, 3, 1)
        clock += 6
        for count in (32, 1, 31, 5, 59, 0, 3):
            last = bench.mac(clock, 3, Burst(MODE_TREE, 0, 0, count, int(count not in (32, 0))))
            clock = max(last + p.mac_interval_clocks, clock + 1)
        bench.read_scores(clock + 20, 3)
        bench.run()


def test_each_error_sets_its_status_bit():
    """Each bit by itself; `status_clear` clears all, in the bank PUs too."""
    p = VARIANTS["rows1"]
    burst_of = functools.partial(Burst, MODE_TREE, 0, 0)

    def overflow(script: ChipScript) -> None:
        script.command(10, Command.ACT, 2, row=1)
        for k in range(5):
            script.command(20 + 256 * k, Command.PIM_MAC, 2, **dataclasses.asdict(burst_of(128)))

    def busy(script: ChipScript) -> None:
        script.command(10, Command.ACT, 2, row=1)
        script.command(20, Command.PIM_MAC, 2, **dataclasses.asdict(burst_of(4)))
        script.command(20 + 3 * p.mac_interval_clocks, Command.RD, 2)

    def collision(script: ChipScript) -> None:
        script.command(10, Command.ACT, 2, row=1)
        script.write(20, 2, 0, np.zeros(8))
        script.command(20 + p.write_clocks, Command.RD, 2)

    def closed(script: ChipScript, code: Command, precharge: Command = Command.PREpb) -> None:
        script.command(10, Command.ACT, 2, row=1)
        script.command(11, Command.ACT, 1, row=1)
        script.command(15, precharge, 2)
        script.command(20, code, 2, count=3)
        script.command(40, Command.RD, 2)

    def no_score(script: ChipScript) -> None:
        script.read_result(10, 1, pop=1)

    def none(script: ChipScript) -> None:
        closed(script, Command.REFab)
        del script.given[40]
        script.command(41, Command.RD, 1)
        script.read_result(10, 1, sum=1)
        script.read_result(12, 1, sum=1, set=1)

    cases = [(none, ""), (overflow, "overflow"), (no_score, "no_score"), (collision, "early")]
    cases += [(busy, "early")]
    cases += [(functools.partial(closed, code=code), "closed") for code in (Command.RD, Command.WR, Command.PIM_MAC)]
    cases += [(functools.partial(closed, code=Command.DES, precharge=Command.PREab), "closed")]
    for make, names in cases:
        with chip_for(p) as chip:
            script = ChipScript(p)
            make(script)
            end = max(script.given) + 300
            script.clear_status(end - 2)
            script.command(end - 10, Command.PREab)
            status = chip.run(script, end).status
            assert status[end - 3] == bits_of(names), f"{names}: {status[end - 3]:#b}"
            assert status[end - 1] == 0


def test_an_early_burst_is_reported():
    """A burst a clock before the interval allows has an early first access.

    Before the last access of the previous burst, it is lost to the bank PU, whose columns are then stray.
    """
    p = VARIANTS["rows1"]
    for gap, names in ((2, ""), (1, "early"), (0, "early stray")):
        with chip_for(p) as chip:
            bench = Bench(chip, seed=7)
            bench.act(10, 0, 0)
            last = bench.mac(20, 0, Burst(MODE_LANE, 1, 0, 8))
            bench.script.command(last + gap, Command.PIM_MAC, 0, mode=MODE_LANE, count=8)
            bench.script.clear_status(last + 60)
            assert chip.run(bench.script, last + 70).status[last + 60] == bits_of(names)


@pytest.mark.parametrize("variant", [*EVERYDAY, pytest.param("ddr5", marks=pytest.mark.slow)])
def test_verilog_is_clean_and_the_same_each_time(variant, tmp_path):
    """One bank PU module, no path of a source file, no warning."""
    p = VARIANTS[variant]
    text = chip_verilog(p)
    source = tmp_path / "pim_chip.v"
    source.write_text(text)
    assert lint_warnings(source, "pim_chip") == []
    assert chip_verilog(p) == text
    assert text == "\n".join(modules_of(p).values())  # what is simulated
    assert "src =" not in text
    assert text.count("module bank_pu(") == 1
    assert len(re.findall(r"^  bank_pu bank\d+ \($", text, re.MULTILINE)) == p.num_banks
    assert len(re.findall(r"^module", text, re.MULTILINE)) == 6  # chip, bank PU, results, row, adder, multiplier


def test_equal_submodules_are_one_module():
    """Multipliers and adders of a bank PU; its ports are those that its instances name."""
    p = BankPuParams(queries_at_once=2)
    text = hierarchical_verilog(BankPu(params=p), "bank_pu", {})
    assert len(re.findall(r"^module \\bank_pu\.row0\.(add0|mul0) ", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^module", text, re.MULTILINE)) == 5
    header = re.search(r"^module bank_pu\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    instance = instance_of(BankPu(params=p), "bank_pu")
    assert {name.strip() for name in header[1].split(",")} == set(instance.ports)


def test_parameters_of_the_presets():
    p = PimChipParams.of_engine(CommandEngineParams(), BankPuParams())
    assert (p.num_banks, p.row_bits, p.column_accesses, p.access_bytes) == (16, 16, 128, 8)
    assert (p.mac_interval_clocks, p.write_clocks, p.read_clocks) == (2, 6, 7)
    constants = (p.score_ready_clocks, p.sum_ready_clocks, p.sum_free_clocks, p.operand_ready_clocks)
    assert (*constants, p.operand_free_clocks) == (10, 6, -5, 6, -5)
    engine = CommandEngineParams(preset="ddr5-4800-x8-16gb", bank_groups=2, banks_per_group=2)
    p = PimChipParams.of_engine(engine, DDR5_PU)
    assert (p.num_banks, p.column_accesses, p.access_bytes, p.queries_per_line) == (4, 64, 16, 1)
    assert {rows: (chip_of(rows, 2).queries_per_line, chip_of(rows, 2).read_parts) for rows in (1, 2, 3, 8)} == {
        1: (1, 1), 2: (2, 1), 3: (2, 2), 8: (2, 4),
    }  # fmt: skip
    assert PimChip(params=p).cells[3].row.shape().width == p.row_bits


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"bank_groups": 3}, "bank_groups must be a power of two"),
        ({"access_bytes": 16}, r"access_bytes must be 2 \* lanes = 8"),
        ({"column_accesses": 256}, "bank_pu.max_columns must be at least column_accesses = 256"),
        ({"mac_interval_clocks": 1}, "mac_interval_clocks must be bank_pu.interval..16 = 2..16"),
        ({"write_clocks": 0}, "write_clocks must be 1..64"),
        ({"read_clocks": 2}, "read_clocks must be 3..64"),
        ({"row_bits": 0}, "row_bits must be 1..18"),
    ],
)
def test_parameters_are_checked(given, text):
    with pytest.raises(ParameterError, match=text):
        PimChipParams(**given)


@pytest.mark.slow
def test_speed():
    """Clocks a second of a whole chip whose banks all stream; printed, and not far below the need of a rank."""
    p = VARIANTS["whole"]
    with chip_for(p) as chip:
        bench = Bench(chip, seed=8)
        start = bench.operands(0) + 20
        clocks = 50_000
        for bank in range(p.num_banks):
            bench.fill(bank, 0)
            bench.script.command(bench.free(start), Command.ACT, bank, row=0)
            for clock in range(start + 20 + 17 * bank, clocks - 300, 272):
                mode = (clock // 272) % 2
                bench.script.command(clock, Command.PIM_MAC, bank, count=128, mode=mode, first=1)
        began = time.process_time()
        chip.run(bench.script, clocks)
        speed = clocks / (time.process_time() - began)
    print(f"{speed:,.0f} clocks a second")
    assert speed > 50_000
