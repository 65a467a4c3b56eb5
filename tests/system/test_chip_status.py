"""Status bits of the chips, provoked in one chip of a rank, and the delivered Verilog ``pim_rank.v`` itself.

Both ways of joining the chips are tested: by the harness, as in all other tests, and by the Verilog of the rank.
"""

from __future__ import annotations

import numpy as np
import pytest

from dimmpim.ranks import open_rank, rank_top_verilog
from pimhost.driver.decode_step import golden_step, run_step
from pimhost.driver.rank_host import RankHost
from pimhost.kv_file import synthetic_step
from pimsim.rank.recording import RankRecording
from pimsim.rank.whole import WholeRankSimulator
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.golden.merge import normalise
from pimspec.hostif.window import ControlOp
from pimspec.params.presets import preset_named

TINY = preset_named("tiny").rank
CHIP, ORG = TINY.chip, TINY.organization
INTERVAL, COLUMNS = CHIP.mac_interval_clocks, CHIP.column_accesses
MOST_SCORES = CHIP.bank_pu.result_words


def open_whole():
    return RankHost(WholeRankSimulator(TINY, rank_top_verilog(TINY)))


OPENED = {"harness": lambda: open_rank(TINY), "pim_rank.v": open_whole}


@pytest.fixture(params=list(OPENED))
def sim(request):
    with OPENED[request.param]() as opened:
        yield opened


def command(code, bank, **fields):
    group, index = divmod(bank, ORG.banks_per_group)
    return {"code": int(code), "bank_group": group, "bank": index, **fields}


def mac(bank, mode, count):
    return command(Command.PIM_MAC, bank, mode=mode, count=count)


def faults(number):
    """Faults by the status bits that they set, each as inputs of a chip by clock; in a bank that changes by `number`.

    No command of a host or of the sequencer does such a thing.
    """
    one, two, three = ((bank + number) % TINY.num_banks for bank in (1, 2, 3))
    too_many = MOST_SCORES // TINY.tokens_per_turn + 1
    gap = COLUMNS * INTERVAL + 4
    return {
        "no_score": {0: {"bus": True, "read": 1, "pop": 1, "bank": one}},
        "closed": {0: command(Command.RD, two)},
        "early": {
            0: command(Command.ACT, three, row=5),
            9: mac(three, MODE_TREE, 4),
            9 + 3 * INTERVAL: command(Command.RD, three),
        },
        "stray early": {
            0: command(Command.ACT, two, row=5),
            9: mac(two, MODE_LANE, 8),
            9 + 7 * INTERVAL: mac(two, MODE_LANE, 8),
        },
        "overflow": {
            0: command(Command.ACT, one, row=5),
            **{9 + k * gap: mac(one, MODE_TREE, COLUMNS) for k in range(too_many)},
        },
    }


def provoke(sim, chip, inputs):
    """Let one chip alone see these inputs."""
    begin = sim.clock + 5
    for clock, fields in inputs.items():
        sim.port.upset(begin + clock, chip, **fields)
    sim.run(max(inputs) + 200)


def bits_of(names):
    return sum(1 << CHIP.status.places[name].offset for name in names.split())


def test_each_status_bit_of_each_chip_is_read_and_cleared(sim):
    seen = set()
    for chip in range(TINY.num_chips):
        for names, inputs in faults(chip).items():
            assert sim.status().chip == 0
            provoke(sim, chip, inputs)
            for _ in range(2):  # it stays until it is cleared
                status = sim.status()
                assert (status.chip, status.refused) == (bits_of(names), 0), f"{names} in chip {chip}"
            sim.control(ControlOp.CLEAR)
            assert sim.status().chip == 0, f"{names} in chip {chip}, after CLEAR"
            seen |= set(names.split())
    assert seen == {field.name for field in CHIP.status.fields}


def test_bits_of_several_chips_are_joined(sim):
    provoke(sim, 0, faults(0)["no_score"])
    provoke(sim, TINY.num_chips - 1, faults(0)["closed"])
    assert sim.status().chip == bits_of("no_score closed")
    sim.control(ControlOp.CLEAR)
    assert sim.status().chip == 0


def test_the_delivered_top_equals_the_joined_models():
    """Attention of two kv_heads, and reads and writes of data rows: results, commands, and lines with their clocks."""
    step = synthetic_step(AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=TINY.head_dim), 37, 5)
    lines, runs = [bytes(range(k, k + TINY.line_bytes)) for k in range(3)], []
    for opened in OPENED.values():
        with opened() as sim:
            sim.port.recording = RankRecording()
            sim.write_columns(1, 900, [0, 5, 7], lines, mask=0b110)
            read = sim.read_columns(1, 900, [0, 5, 7])
            run = run_step(sim, step)
            np.testing.assert_array_equal(run.output, normalise(golden_step(TINY, step), TINY.format))
            sim.status()
            runs.append((read, run.records.tobytes(), sim.finished, sim.clock, sim.port.recording.lines))
    assert runs[0] == runs[1]
    assert len(runs[0][-1]) > 20
