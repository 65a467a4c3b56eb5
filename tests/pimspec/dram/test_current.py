"""Supply current: patterns of the data sheet, a stream by hand, and the bound by the banks that stream."""

from __future__ import annotations

import numpy as np
import pytest

from pimspec.dram.commands import Command
from pimspec.dram.current import banks_within, bound_ma, chip_current
from pimspec.dram.energy import DRAM_CURRENTS, command_energy
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError, UnknownNameError

NAME = "ddr4-3200-x8-8gb"
PART = (NAME, dram_preset(NAME).timing, dram_preset(NAME).organization)
CURRENTS, ENERGY = DRAM_CURRENTS[NAME], command_energy(NAME)
NONE = np.zeros((0, 2), np.int64)
WINDOW = {"peak_100ns": 160, "peak_1us": 1600}
"""CK of 0.625 ns."""


def current(length, *, counts=(), opened=NONE, **starts):
    """Current of commands by name, each given by its CKs."""
    return chip_current(
        *PART,
        length_ck=length,
        starts_ck={Command[name]: np.asarray(cks, np.int64) for name, cks in starts.items()},
        open_ck=np.asarray(opened, np.int64).reshape(-1, 2),
        mac_interval_ck=8,
        mac_counts=np.asarray(counts, np.int64),
    )


def test_standby():
    assert current(5000).figures == pytest.approx(dict.fromkeys(("mean", "peak_100ns", "peak_1us"), CURRENTS.idd2n_ma))
    half = current(4000, opened=[(1000, 3000)])
    assert half.mean_ma == pytest.approx((CURRENTS.idd2n_ma + CURRENTS.idd3n_ma) / 2)
    assert half.peaks_ma["peak_1us"] == pytest.approx(CURRENTS.idd3n_ma)


@pytest.mark.parametrize(
    ("command", "every", "expected"),
    [("RD", 4, CURRENTS.idd4r_ma), ("WR", 4, CURRENTS.idd4w_ma), ("ACT", 74, CURRENTS.idd0_ma + 22 / 74 * 15)],
)
def test_patterns_of_the_data_sheet(command, every, expected):
    """RD and WR without a pause; a row each tRC, with the chip open all the time instead of tRAS of it."""
    found = current(7400, opened=[(0, 7400)], **{command: range(0, 7400, every)})
    assert found.figures == pytest.approx(dict.fromkeys(("mean", "peak_100ns", "peak_1us"), expected))


def test_refreshes_without_a_pause():
    found = current(5600, REFab=range(0, 5600, 560))
    assert found.figures == pytest.approx(dict.fromkeys(("mean", "peak_100ns", "peak_1us"), CURRENTS.idd5b_ma))


def test_streaming_banks_draw_as_much_as_was_estimated():
    """16 banks 152 mA; PIM_WR_SB every 4 CK 636 mA; both as the analysis that asked for a limit has them."""
    macs = current(16_000, opened=[(0, 16_000)], PIM_MAC=[0] * 16, counts=[2000] * 16)
    assert macs.mean_ma - CURRENTS.idd3n_ma == pytest.approx(152, abs=0.5)
    writes = current(1600, PIM_WR_SB=range(0, 1600, 4))
    assert writes.mean_ma - CURRENTS.idd2n_ma == pytest.approx(636, abs=0.5)


def test_peaks_by_hand():
    """Ten PIM_WR_SB, 8 CK apart: 76 CK. All lie in one window of 160 CK, and a fraction of the whole time."""
    found = current(3000, PIM_WR_SB=range(2000, 2080, 8))
    charge = 10 * ENERGY.operand_pj / CURRENTS.vdd_v
    for name, window in WINDOW.items():
        assert found.peaks_ma[name] - CURRENTS.idd2n_ma == pytest.approx(charge / (window * 0.625))
    assert found.mean_ma - CURRENTS.idd2n_ma == pytest.approx(charge / (3000 * 0.625))


def test_a_time_shorter_than_the_window():
    found = current(100, PIM_RD_RB=[0])
    assert found.peaks_ma["peak_1us"] == found.peaks_ma["peak_100ns"] == pytest.approx(found.mean_ma)


def test_commands_at_the_ends_are_clipped():
    """A refresh that began before draws its rest; a burst that goes on after the end its part."""
    rest = current(160, REFab=[-400])
    whole = current(160, REFab=[0])
    assert rest.mean_ma == pytest.approx(whole.mean_ma)
    assert current(80, PIM_MAC=[40], counts=[100]).mean_ma - CURRENTS.idd2n_ma == pytest.approx(152 / 16 / 2, abs=0.02)


def test_the_bound_is_never_exceeded_by_its_own_commands():
    """All kinds at their least distances for long: the mean is the bound."""
    n = 34 * 800
    found = current(
        n,
        opened=[(0, n)],
        PIM_MAC=[0] * 9,
        counts=[n // 8] * 9,
        PIM_WR_SB=range(0, n, 8),
        ACT=[k + 4 * i for k in range(-136, n, 34) for i in range(4)],
    )
    assert found.mean_ma == pytest.approx(bound_ma(*PART, banks=9), rel=0.005)


@pytest.mark.parametrize("bus_tccd", ["long", "short"])
def test_a_limit_is_the_most_banks_within_it(bus_tccd):
    for banks in (1, 2, 9, 15):
        bound = bound_ma(*PART, banks=banks, bus_tccd=bus_tccd)
        assert banks_within(*PART, max_current_ma=bound, bus_tccd=bus_tccd) == banks
        assert banks_within(*PART, max_current_ma=bound + 9, bus_tccd=bus_tccd) == banks
    assert banks_within(*PART, max_current_ma=1e4, bus_tccd=bus_tccd) == 16
    least = bound_ma(*PART, banks=1, bus_tccd=bus_tccd)
    with pytest.raises(ParameterError, match="max_current_ma must be at least"):
        banks_within(*PART, max_current_ma=least - 0.1, bus_tccd=bus_tccd)


def test_a_part_without_currents_has_no_bound():
    part = dram_preset("ddr4-3200-x8-16gb")
    with pytest.raises(UnknownNameError):
        bound_ma(part.name, part.timing, part.organization, banks=1)
