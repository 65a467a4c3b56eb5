"""Speed bins: every number against the printed nCK, the rounding rules, and the cross-checks."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest

from pimspec.dram.organization import DRAM_PRESETS, dram_preset
from pimspec.dram.speed_bins import REFRESH_ROWS, SPEED_BINS, refresh_rows, speed_bin_named
from pimspec.dram.timing import (
    ControllerDelay,
    DramStandard,
    DramTiming,
    RoundingRule,
    SpeedBin,
    TimingSpec,
    controller_delay,
)
from pimspec.errors import ParameterError, UnknownNameError

# Typed a second time from the published tables, in other words: name -> value in nCK.
PRINTED = {
    "ddr4-2400-x8-8gb": "CL 16 RCD 16 RP 16 RAS 39 RC 55 CWL 12 CCD_S 4 CCD_L 6 RRD_S 4 RRD_L 6 FAW 26 WR 18 RTP 9 "
    "WTR_S 3 WTR_L 9",
    "ddr4-3200-x8-8gb": "CL 22 RCD 22 RP 22 RAS 52 RC 74 CWL 16 CCD_S 4 CCD_L 8 RRD_S 4 RRD_L 8 FAW 34 WR 24 RTP 12 "
    "WTR_S 4 WTR_L 12 RFC 560 RFC_2x 416 RFC_4x 256 REFI 12480",
    "ddr4-3200-x8-16gb": "CL 22 RCD 22 RP 22 RAS 52 RC 74 CWL 16 CCD_S 4 CCD_L 8 RRD_S 4 RRD_L 8 FAW 34 WR 24 RTP 12 "
    "WTR_S 4 WTR_L 12 RFC 880 RFC_2x 560 RFC_4x 416 REFI 12480",
    "ddr5-4800-x8-16gb": "CL 40 RCD 39 RP 39 RAS 77 RC 116 CWL 38 CCD_S 8 CCD_L 12 CCD_L_WR 48 RRD_S 8 RRD_L 12 FAW 32 "
    "WR 72 RTP 18 PPD 2 WTR_S 6 WTR_L 24",
    "ddr5-4800an-x8-16gb": "CL 34 RCD 34 RP 34 RAS 77 RC 111 CWL 32 CCD_S 8 CCD_L 12 CCD_L_WR 48 RRD_S 8 RRD_L 12 "
    "FAW 32 WR 72 RTP 18 PPD 2",
    "ddr5-6400an-x8-16gb": "CL 46 RCD 46 RP 46 RAS 103 RC 149 CWL 44 CCD_S 8 CCD_L 16 CCD_L_WR 64 RRD_S 8 RRD_L 16 "
    "FAW 32 WR 96 RTP 24 PPD 2 WTR_S 8",
    "ddr5-6400-x8-16gb": "CL 52 RCD 52 RP 52 RAS 103 RC 155 CWL 50 CCD_S 8 CCD_L 16 CCD_L_WR 64 RRD_S 8 RRD_L 16 "
    "FAW 32 WR 96 RTP 24 PPD 2",
    "hbm3-5200": "BL 2 CL 19 RCD 19 RP 19 RAS 45 RC 64 WR 21 CCD_S 2 CCD_L 4 CCD_MAC 6 RRD_S 2 RRD_L 4 FAW 39 RTP 8 "
    "CWL 6 WTR_S 8 WTR_L 11 RFC 456 RFCsb 260 RREFD 11 REFI 5070",
    "hbm3-5200-npc": "BL 2 CL 19 RCD 19 RP 19 RAS 45 RC 64 CCD_S 2 CCD_L 4 CCD_MAC 4 REFI 5070",
    "gddr6-aim": "RCD 36 RCD_MAC 56 RCD_WR 28 RP 32 RAS 54 WR 33 RTP 12 CL 50 CCD_S 2 CCD_L 2 RRD_S 11 RRD_L 11 FAW 42 "
    "RC 89 CWL 6 BL 2 WTR_S 9 WTR_L 11 RFC 210 RFCsb 105 RREFD 21 REFI 3333",
}
# The same for values printed as a time, in picoseconds.
PRINTED_PS = {
    ("ddr4-2400-x8-8gb", "nRFC"): 350_000,
    ("ddr4-2400-x8-8gb", "nREFI"): 7_800_000,
    ("ddr4-3200-x8-8gb", "nRFC"): 350_000,
    ("ddr4-3200-x8-8gb", "nRFC_2x"): 260_000,
    ("ddr4-3200-x8-8gb", "nRFC_4x"): 160_000,
    ("ddr4-3200-x8-16gb", "nRFC"): 550_000,
    ("ddr4-3200-x8-16gb", "nRFC_2x"): 350_000,
    ("ddr4-3200-x8-16gb", "nRFC_4x"): 260_000,
    ("ddr5-4800-x8-16gb", "nFAW"): 13_333,
    ("ddr5-6400an-x8-16gb", "nFAW"): 10_000,
    ("ddr5-4800-x8-16gb", "nRFC"): 295_000,
    ("ddr5-4800-x8-16gb", "nRFC_2x"): 160_000,
    ("ddr5-4800-x8-16gb", "nRFCsb"): 130_000,
    ("ddr5-4800-x8-16gb", "nREFI"): 3_900_000,
}


@pytest.mark.parametrize("preset", PRINTED)
def test_cycles_equal_the_printed_tables(preset):
    words = PRINTED[preset].split()
    timing = dram_preset(preset).timing
    for name, value in zip(words[::2], map(int, words[1::2]), strict=True):
        assert getattr(timing, f"n{name}") == value, f"{preset} n{name}"


def test_every_preset_is_in_the_printed_tables():
    assert set(PRINTED) == set(DRAM_PRESETS)


@pytest.mark.parametrize(("preset", "row"), PRINTED_PS)
def test_times_equal_the_printed_times(preset, row):
    assert dram_preset(preset).timing.specs[row].ps == PRINTED_PS[preset, row]


@pytest.mark.parametrize(
    ("preset", "period_ps"),
    [
        ("ddr4-2400-x8-8gb", 833),
        ("ddr4-3200-x8-8gb", 625),
        ("ddr5-4800-x8-16gb", 416),
        ("ddr5-6400an-x8-16gb", 312),
        ("hbm3-5200", 769),
        ("gddr6-aim", 500),
    ],
)
def test_clock_period(preset, period_ps):
    timing = dram_preset(preset).timing
    assert timing.tCK_ps == period_ps
    assert 0 <= timing.clock_period_ps - period_ps < 1
    assert timing.time_ps(3) == 3 * timing.clock_period_ps
    assert dram_preset("ddr5-4800-x8-16gb").timing.clock_period_ps == Fraction(1250, 3)


def test_derived_turn_around():
    """RL + BL/2 + 2 - WL at DDR4; DDR5 adds its longer write preamble."""
    assert dram_preset("ddr4-3200-x8-8gb").timing.nRTW == 22 + 4 + 2 - 16
    assert dram_preset("ddr4-2400-x8-8gb").timing.nRTW == 16 + 4 + 2 - 12
    assert dram_preset("ddr5-4800-x8-16gb").timing.nRTW == 40 + 8 + 2 - 38 + 2
    assert dram_preset("hbm3-5200").timing.nRTW == 19 + 2 + 2 - 6
    assert dram_preset("gddr6-aim").timing.nRTW == 50 + 2 + 2 - 6


def test_refresh_interval_is_rounded_down_and_recovery_up():
    for preset in DRAM_PRESETS.values():
        timing, rows = preset.timing, preset.timing.specs
        if rows["nREFI"].ps:
            assert timing.time_ps(timing.nREFI) <= rows["nREFI"].ps < timing.time_ps(timing.nREFI + 1)
        for name, row in rows.items():
            if row.ps and not row.maximum:
                kept = timing.time_ps(getattr(timing, name))
                assert kept >= row.ps * Fraction(997, 1000) - timing.clock_period_ps / 40, name


def test_defaults_and_absent_rules():
    ddr4, ddr5 = dram_preset("ddr4-3200-x8-8gb").timing, dram_preset("ddr5-4800-x8-16gb").timing
    for timing in (ddr4, ddr5):
        assert (timing.nRCD_WR, timing.nRCD_MAC, timing.nCCD_MAC) == (timing.nRCD, timing.nRCD, timing.nCCD_L)
    assert ddr4.nCCD_L_WR == ddr4.nCCD_L
    assert (ddr4.nPPD, ddr4.nRFCsb, ddr4.nRREFD) == (0, 0, 0)
    assert (ddr5.nRFC_4x, ddr5.nRREFD) == (0, 72)


@pytest.mark.parametrize(
    ("preset", "some"),
    [
        ("ddr4-3200-x8-8gb", {"nRTRS", "nMRD", "nMOD"}),
        ("ddr5-4800-x8-16gb", {"nRTRS", "nMRD", "nMOD", "nRREFD", "nWTR_S", "nWTR_L"}),
        ("ddr5-6400-x8-16gb", {"nCL", "nRCD", "nRP", "nRC", "nCWL"}),
        ("hbm3-5200", {"nRCD", "nRFC", "nFAW"}),
        ("gddr6-aim", {"nRC", "nFAW", "nRRD_S", "nRFC", "nREFI", "nRTW"}),
    ],
)
def test_doubtful_numbers_are_marked(preset, some):
    unverified = set(dram_preset(preset).timing.unverified)
    assert some <= unverified
    assert unverified <= set(DramTiming.delay_names())
    if preset.startswith("ddr4"):
        assert unverified == some


def test_every_row_has_a_source():
    for speed_bin in SPEED_BINS.values():
        assert all(len(row.source) >= 3 for row in speed_bin.specs.values())
    assert set(REFRESH_ROWS) == {(DramStandard.DDR4, 8), (DramStandard.DDR4, 16), (DramStandard.DDR5, 16)}


@pytest.mark.parametrize(
    ("rule", "time_ps", "period_ps", "cycles"),
    [
        (RoundingRule.JEDEC_974, 0, 625, 0),
        (RoundingRule.JEDEC_974, 2_500, 625, 4),  # exact
        (RoundingRule.JEDEC_974, 2_501, 625, 4),  # 4.0016 clocks: inside the guard band
        (RoundingRule.JEDEC_974, 2_516, 625, 4),  # 4.025(6) clocks truncates to 4025 thousandths
        (RoundingRule.JEDEC_974, 2_517, 625, 5),  # 4.027
        (RoundingRule.JEDEC_974, 15_000, 833, 18),  # 18.007, the reason for the guard band
        (RoundingRule.JEDEC_974, 21_000, 833, 26),
        (RoundingRule.JEDEC_997, 0, 416, 0),
        (RoundingRule.JEDEC_997, 5_000, 416, 12),  # 12.02 clocks without the 0.3 %
        (RoundingRule.JEDEC_997, 13_333, 416, 32),
        (RoundingRule.JEDEC_997, 295_000, 416, 708),
        (RoundingRule.JEDEC_997, 417, 416, 1),
        (RoundingRule.JEDEC_997, 418, 416, 2),
    ],
)
def test_rounding_rules(rule, time_ps, period_ps, cycles):
    assert rule.cycles(time_ps, period_ps) == cycles


def test_pair_takes_the_larger():
    def cycles(**row):
        return TimingSpec(source="test", **row).cycles(RoundingRule.JEDEC_974, 625, Fraction(625))

    assert cycles(ck=4, ps=2_500) == 4
    assert cycles(ck=4, ps=7_500) == 12
    assert cycles(ck=24, ps=7_500) == 24
    assert cycles(ps=1_250, maximum=True) == 2
    assert cycles(ps=1_249, maximum=True) == 1
    assert cycles(ck=7, maximum=True) == 7


@pytest.mark.parametrize(
    ("delay", "ratio", "clocks", "lost"), [(22, 4, 6, 2), (24, 4, 6, 0), (0, 4, 0, 0), (1, 8, 1, 7)]
)
def test_controller_delay(delay, ratio, clocks, lost):
    assert (controller_delay(delay, ratio).clocks, controller_delay(delay, ratio).lost_ck) == (clocks, lost)


def test_controller_delays_of_a_timing():
    timing = dram_preset("ddr4-3200-x8-8gb").timing
    delays = timing.controller_delays(4)
    assert "nREFI" not in delays
    assert set(delays) == set(timing.delay_names()) - {"nREFI"}
    assert delays["nRC"] == ControllerDelay(delay_ck=74, ck_per_clock=4)
    assert (delays["nRC"].clocks, delays["nRC"].lost_ck) == (19, 2)
    assert all(not d.lost_ck for d in timing.controller_delays(1).values())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"nCCD_S": 9}, "nCCD_S must be at most nCCD_L (8), not 9"),
        ({"nBL": 5}, "nBL must be at most nCCD_S (4), not 5"),
        ({"nRCD": 0}, "nRCD must be an integer of 1 or more, not 0"),
        ({"nPPD": -1}, "nPPD must be an integer of 0 or more, not -1"),
        ({"nRP": 2.5}, "nRP must be an integer of 1 or more, not 2.5"),
        ({"nRAS": 53}, "nRC must be at least nRAS + nRP (53 + 22 = 75), not 74"),
        ({"nRC": 73}, "nRC must be at least nRAS + nRP (52 + 22 = 74), not 73"),
        ({"nREFI": 500}, "nRFC must be at most nREFI (500), not 560"),
        ({"data_rate_mt_per_s": 0}, "data_rate_mt_per_s must be positive, not 0"),
        ({"beats_per_ck": 3}, "beats_per_ck must be 2, 4 or 8, not 3"),
    ],
)
def test_contradictions_are_refused(change, text):
    timing = dram_preset("ddr4-3200-x8-8gb").timing
    with pytest.raises(ParameterError) as caught:
        dataclasses.replace(timing, **change)
    assert str(caught.value) == text


def test_a_row_cycle_holds_its_row_and_its_precharge():
    """HBM3's source has 63 for 45 + 19; the others are as their tables print them."""
    for preset in DRAM_PRESETS.values():
        assert preset.timing.nRC >= preset.timing.nRAS + preset.timing.nRP, preset.name
    row = dram_preset("hbm3-5200").timing.specs["nRC"]
    assert (row.ck, row.verified) == (64, False)
    assert "63" in row.source


def test_four_activations_of_ddr5_have_a_clock_and_a_time_part():
    """Max(32 CK, 13.333 ns) at DDR5-4800: neither part alone would do at a CK a little longer or shorter."""
    row = dram_preset("ddr5-4800-x8-16gb").timing.specs["nFAW"]
    assert (row.ck, row.ps) == (32, 13_333)
    assert [row.cycles(RoundingRule.JEDEC_997, period, Fraction(period)) for period in (500, 416, 400)] == [32, 32, 34]


@pytest.mark.parametrize("row", [{"ck": -1}, {"ps": -1}, {"ck": 1, "source": " "}, {"ck": 1, "ps": 1, "maximum": True}])
def test_bad_rows_are_refused(row):
    with pytest.raises(ParameterError, match="must be"):
        TimingSpec(**{"source": "test", **row})


def test_bad_lookups_and_calls():
    with pytest.raises(UnknownNameError, match="did you mean 'ddr4-3200aa'"):
        speed_bin_named("ddr4-3200a")
    with pytest.raises(ParameterError, match=r"density_gbit of ddr4 must be one of \[8, 16\], not 4"):
        refresh_rows(DramStandard.DDR4, 4)
    assert refresh_rows(DramStandard.HBM3, 2) == {}
    with pytest.raises(ParameterError, match="ck_per_clock must be 1 or more, not 0"):
        controller_delay(4, 0)
    with pytest.raises(ParameterError, match="tCK_ps must be positive"):
        RoundingRule.JEDEC_974.cycles(1, 0)
    bad = {"name": "x", "standard": DramStandard.DDR4, "data_rate_mt_per_s": 3200, "beats_per_ck": 2}
    with pytest.raises(ParameterError, match="timing row must be a delay"):
        SpeedBin(**bad, rounding=RoundingRule.JEDEC_974, specs={"nRTW": TimingSpec(ck=1, source="test")})
    with pytest.raises(ParameterError, match="complete with nRTW_gap"):
        SpeedBin(**bad, rounding=RoundingRule.JEDEC_974, specs={}).timing()
