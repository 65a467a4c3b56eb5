"""Command energies: against the currents that they were taken from, and against arithmetic by hand."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from pimspec.dram import energy
from pimspec.dram.commands import Command
from pimspec.dram.energy import COLUMN_PATH, DRAM_CURRENTS, RankEnergy, command_energy, rank_energy
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError, UnknownNameError

PART = "ddr4-3200-x8-8gb"


def test_energies_equal_a_count_by_hand():
    """1.2 V, CK of 0.625 ns: (57*74 - 52*52 - 37*22), (168 - 52) * 4, (150 - 52) * 4 and (250 - 37) * 560 mA CK."""
    e = command_energy(PART)
    assert e.row_pj == pytest.approx(700 * 1.2 * 0.625)
    assert e.read_pj == pytest.approx(348)
    assert e.write_pj == pytest.approx(294)
    assert e.refresh_pj == pytest.approx(89_460)
    assert (e.active_mw, e.precharged_mw) == (pytest.approx(62.4), pytest.approx(44.4))
    assert e.mac_pj == pytest.approx(348 * 0.44 / 2.68)
    assert e.result_pj == pytest.approx(348 * 2.24 / 2.68)
    assert e.operand_pj == pytest.approx(294 * (1.23 + 16 * 1.01) / 2.68)
    assert command_energy(PART, banks=4).operand_pj == pytest.approx(294 * (1.23 + 4 * 1.01) / 2.68)


def test_the_patterns_of_the_data_sheet_take_its_currents():
    """The IDD patterns' energies, by command, equal their currents: nothing is counted twice."""
    e, i, timing = command_energy(PART), DRAM_CURRENTS[PART], dram_preset(PART).timing
    ns = float(timing.clock_period_ps) / 1000

    def current(pj, clocks):
        return pj / (clocks * ns) / i.vdd_v

    row_cycle = e.row_pj + e.active_mw * timing.nRAS * ns + e.precharged_mw * (timing.nRC - timing.nRAS) * ns
    assert current(row_cycle, timing.nRC) == pytest.approx(i.idd0_ma)
    for pj, expected in ((e.read_pj, i.idd4r_ma), (e.write_pj, i.idd4w_ma)):
        assert current(pj + e.active_mw * timing.nBL * ns, timing.nBL) == pytest.approx(expected)
    refresh = e.refresh_pj + e.precharged_mw * timing.nRFC * ns
    assert current(refresh, timing.nRFC) == pytest.approx(i.idd5b_ma)


def test_shares_of_the_column_path():
    path, e = COLUMN_PATH, command_energy(PART)
    assert path.cell_share + path.bank_share + path.chip_share == pytest.approx(1)
    assert e.mac_pj + e.result_pj == pytest.approx(e.read_pj), "cells, and the way from there"
    assert e.mac_pj / 64 == pytest.approx(0.893, abs=5e-4), "pJ/bit at the bank"
    assert e.read_pj / 64 == pytest.approx(5.44, abs=5e-3), "pJ/bit at the pads"


def test_a_rank_is_the_sum_of_its_parts():
    counts = {Command.ACT: 3, Command.PREpb: 2, Command.PREab: 1, Command.RD: 5, Command.WR: 7, Command.REFab: 11}
    counts |= {Command.PIM_MAC: 2, Command.PIM_WR_SB: 13, Command.PIM_RD_RB: 17}
    e = command_energy(PART)
    rank = rank_energy(e, counts, chips=8, mac_accesses=100, active_ns=1000, precharged_ns=500)
    expected = {
        "rows": 3 * e.row_pj,
        "mac": 100 * e.mac_pj,
        "operands": 13 * e.operand_pj,
        "results": 17 * e.result_pj,
        "host_reads": 5 * e.read_pj,
        "host_writes": 7 * e.write_pj,
        "refresh": 11 * e.refresh_pj,
        "standby": 1000 * 62.4 + 500 * 44.4,
    }
    assert rank.parts == {part: pytest.approx(8 * pj / 1000) for part, pj in expected.items()}
    assert rank.total_nj == pytest.approx(8 * sum(expected.values()) / 1000)
    assert set(asdict(rank)) == {f"{part}_nj" for part in rank.parts}


def test_no_commands_take_no_energy():
    rank = rank_energy(command_energy(PART), {}, chips=8, mac_accesses=0, active_ns=0, precharged_ns=0)
    assert rank == RankEnergy(**dict.fromkeys(asdict(rank), 0))


def test_unknown_parts_and_commands_are_refused():
    with pytest.raises(UnknownNameError, match=r"documented supply currents 'ddr4-3200-x8-16gb'.*ddr4-3200-x8-8gb"):
        command_energy("ddr4-3200-x8-16gb")
    with pytest.raises(ParameterError, match="banks must be 1 or more, not 0"):
        command_energy(PART, banks=0)
    with pytest.raises(ParameterError, match=r"command must be one of ACT, .*, not 'PIM_LD_SB'"):
        rank_energy(command_energy(PART), {Command.PIM_LD_SB: 1}, chips=1, mac_accesses=0, active_ns=0, precharged_ns=0)
    with pytest.raises(ParameterError, match="idd0_ma must be positive"):
        replace(DRAM_CURRENTS[PART], idd0_ma=0)


@pytest.mark.parametrize("part", sorted(DRAM_CURRENTS))
def test_every_constant_has_a_source_and_no_energy_is_negative(part):
    assert DRAM_CURRENTS[part].source
    assert COLUMN_PATH.source
    assert all(value > 0 for value in asdict(command_energy(part)).values())
    assert energy.NOT_COUNTED
