"""Energy of a decode step: commands made by hand, and the timing model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dimmpim.cli import main
from dimmpim.ranks import open_timing
from dimmpim.studies.rank_energy import open_clocks, step_energy
from pimhost.driver.decode_step import RankTime, time_step
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.dram.energy import command_energy
from pimspec.hostif.port import TRACE
from pimspec.params.presets import preset_named

FULL = "ddr4-3200-x8-8gb"
PARTS = ("rows", "mac", "operands", "results", "host_reads", "host_writes", "refresh", "standby")


def records(*commands):
    """Trace records of (clock, command, bank_group, bank, count)."""
    made = np.zeros(len(commands), TRACE)
    for row, (clock, command, *rest) in zip(made, commands, strict=True):
        group, bank, count = (*rest, 0, 0, 1)[:3] if rest else (0, 0, 1)
        row["clock"], row["code"] = clock, int(command)
        row["bank_group"], row["bank"], row["count"] = group, bank, count
    return made


def timed(tokens, kv_heads=1):
    shape = AttentionShape(num_q_heads=kv_heads, num_kv_heads=kv_heads, head_dim=128)
    with open_timing(preset_named(FULL).rank.for_shape(shape)) as sim:
        run = time_step(sim, shape, tokens)
        return step_energy(run, sim.finished[-1])


def test_clocks_with_a_bank_open():
    rows = records(
        (5, Command.PREpb, 0, 0),  # closed already
        (10, Command.ACT, 0, 0),
        (20, Command.ACT, 1, 0),
        (30, Command.PREpb, 0, 0),
        (40, Command.PREpb, 1, 0),
        (60, Command.ACT, 0, 1),
        (61, Command.ACT, 1, 1),
        (70, Command.PREab),
        (90, Command.ACT, 0, 0),
    )
    assert open_clocks(rows, 0, 100) == 30 + 10 + 10
    assert open_clocks(rows, 15, 65) == 25 + 5, "clipped at both ends"
    assert open_clocks(rows, 41, 59) == 0
    assert open_clocks(rows, 95, 100) == 5
    assert open_clocks(rows[:0], 0, 100) == 0


def test_the_energy_of_a_step_equals_a_count_by_hand():
    """Commands before and after the clocks of the step are not its own."""
    params = preset_named(FULL).rank
    rows = records(
        (90, Command.REFab),
        (100, Command.PIM_WR_SB),
        (110, Command.ACT, 2, 3),
        (120, Command.PIM_MAC, 2, 3, 128),
        (400, Command.PREpb, 2, 3),
        (480, Command.PIM_RD_RB),
        (500, Command.REFab),
        (501, Command.PIM_RD_RB),
    )
    run = RankTime(params=params, clocks=400, streamed_bytes=0, utilization_of_peak=0.5, records=rows, refused=0)
    energy, e = step_energy(run, 500), command_energy(FULL)
    assert energy.rows_nj == pytest.approx(8 * 0.525)
    assert energy.mac_nj == pytest.approx(8 * 128 * e.mac_pj / 1000)
    assert energy.operands_nj == pytest.approx(8 * e.operand_pj / 1000)
    assert energy.results_nj == pytest.approx(8 * e.result_pj / 1000)
    assert energy.refresh_nj == pytest.approx(8 * 89.46)
    assert energy.standby_nj == pytest.approx(8 * 2.5 * (290 * 62.4 + 110 * 44.4) / 1000)
    assert (energy.host_reads_nj, energy.host_writes_nj) == (0, 0)


def test_energy_grows_with_tokens_and_kv_heads():
    """A column access for each 8 bytes of K and V, a row for each 1,024; the rest in proportion, but for the ends."""
    one, two, heads = timed(4096), timed(8192), timed(4096, kv_heads=2)
    e = command_energy(FULL)
    assert one.mac_nj == pytest.approx(4096 * 128 * 2 * 2 / 8 * e.mac_pj / 1000)
    assert one.rows_nj >= 4096 * 128 * 2 * 2 / 1024 * e.row_pj / 1000
    for twice in (two, heads):
        assert twice.mac_nj == pytest.approx(2 * one.mac_nj)
        assert twice.total_nj == pytest.approx(2 * one.total_nj, rel=0.05)


def test_in_the_bank_is_cheaper_than_over_the_bus():
    """Without standby, a bit of K and V costs a third or less of what one RD costs."""
    energy = timed(8192)
    dynamic = (energy.total_nj - energy.standby_nj) * 1000 / (8192 * 128 * 2 * 2 * 8)
    assert dynamic < command_energy(FULL).read_pj / 64 / 3


def test_the_command_reports_it(tmp_path):
    """The same from the commands of RTL and of the timing model."""
    documents = {}
    for backend in ("timing", "rtl"):
        out = tmp_path / f"{backend}.json"
        main(["attention", "--preset", "tiny", "--shape", "6,3,16,150", "--backend", backend, "--json", str(out)])
        documents[backend] = json.loads(out.read_text())
    document = documents["timing"]
    parts = document["energy_parts_nj"]
    assert tuple(parts) == PARTS
    assert parts == documents["rtl"]["energy_parts_nj"]
    assert document["energy_nj"] == pytest.approx(sum(parts.values()))
    assert document["energy_pj_per_bit"] == pytest.approx(document["energy_nj"] * 1000 / (150 * 3 * 16 * 2 * 16))
    assert parts["mac"] == pytest.approx(1800 * 2 * command_energy(FULL).mac_pj / 1000), "150 tokens, 3 heads, K and V"
    assert "arithmetic of the bank PUs" in document["energy_not_counted"]


def test_a_part_without_currents_has_no_energy(tmp_path):
    out = tmp_path / "out.json"
    main(
        [
            "attention",
            "--preset",
            "ddr4-3200-x8-16gb",
            "--shape",
            "1,1,128,64",
            "--backend",
            "timing",
            "--json",
            str(out),
        ]
    )
    document = json.loads(out.read_text())
    assert document["cycles"] > 0
    assert document["energy_nj"] is document["energy_pj_per_bit"] is document["energy_parts_nj"] is None
