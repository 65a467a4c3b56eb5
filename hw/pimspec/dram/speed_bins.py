"""Speed bins: the published rows of each part, as data with citations (read by :mod:`pimspec.dram.timing`)."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UnknownNameError, require
from .timing import RTW_GAP, DramStandard, RoundingRule, SpeedBin, TimingSpec

__all__ = ["REFRESH_ROWS", "SPEED_BINS", "refresh_rows", "speed_bin_named"]


def _ck(ck: int, source: str, *, verified: bool = True) -> TimingSpec:
    return TimingSpec(ck=ck, source=source, verified=verified)


def _cks(source: str, rows: Mapping[str, int], *, verified: bool = True) -> dict[str, TimingSpec]:
    return {key: _ck(ck, source, verified=verified) for key, ck in rows.items()}


def _ns(ck: int, ps: int, source: str, *, verified: bool = True) -> TimingSpec:
    return TimingSpec(ck=ck, ps=ps, source=source, verified=verified)


_D4, _D5 = "JESD79-4, core timing", "JESD79-5, core timing"
# fmt: off
_BOARD = TimingSpec(ck=2, source="no standard states it; ramulator2.1 nCS = 2 (DRAMsim3: 1)", verified=False)

# DDR4, x8 (1 KB page). x4 (512 B page) and x16 (2 KB) have other tRRD and tFAW: tFAW 16 and 48 nCK at 3200 MT/s.
_DDR4_ROWS = {
    "nRAS": _ns(0, 32_000, _D4), "nBL": _ck(4, "BL8"), "nCCD_S": _ck(4, _D4), "nCCD_L": _ns(5, 5_000, _D4),
    "nRRD_L": _ns(4, 4_900, _D4 + ", 1 KB page"), "nFAW": _ns(20, 21_000, _D4 + ", 1 KB page"),
    "nRTP": _ns(4, 7_500, _D4), "nWR": _ns(0, 15_000, _D4), "nWTR_S": _ns(2, 2_500, _D4), "nWTR_L": _ns(4, 7_500, _D4),
    RTW_GAP: _ck(2, "JESD79-4, read to write with a write preamble of 1 nCK: RL + BL/2 + 2 nCK - WL"), "nRTRS": _BOARD,
    "nREFI": TimingSpec(ps=7_800_000, maximum=True, source="JESD79-4, tREFI up to 85 degC"),
    "nMRD": _ck(8, "JESD79-4, tMRD; recalled", verified=False),
    "nMOD": _ns(24, 15_000, "JESD79-4, tMOD; recalled", verified=False),
}

# DDR5, x8 (1 KB page). tCCD_L_WR is that of a write that needs a read-modify-write in the on-die ECC, the longer one.
_DDR5_ROWS = {
    "nRAS": _ns(0, 32_000, _D5), "nBL": _ck(8, "BL16"), "nCCD_S": _ck(8, _D5), "nCCD_L": _ns(8, 5_000, _D5),
    "nCCD_L_WR": _ns(32, 20_000, _D5), "nRRD_S": _ck(8, _D5), "nRRD_L": _ns(8, 5_000, _D5),
    "nRTP": _ns(12, 7_500, _D5), "nWR": _ns(0, 30_000, _D5),
    "nWTR_S": _ns(4, 2_500, _D5 + "; one source only: ramulator2.1 at 4800 MT/s", verified=False),
    "nWTR_L": _ns(16, 10_000, _D5 + "; one source only: ramulator2.1", verified=False),
    "nPPD": _ck(2, _D5), "nRTRS": _BOARD,
    RTW_GAP: _ck(4, "JESD79-5: 2 nCK + tRPST 0.5 nCK - 0.5 nCK + tWPRE 2 nCK, read DQS offset 0"),
    "nREFI": TimingSpec(ps=3_900_000, maximum=True, source="JESD79-5, tREFI1 up to 85 degC"),
    "nMRD": _ns(8, 5_000, "JESD79-5, tMRW; recalled", verified=False),
    "nMOD": _ns(16, 14_000, "JESD79-5, tMRD; recalled", verified=False),
}

# fmt: on


def _latencies(
    source: str, *, cl: int, rcd: int, rp: int, rc: int, cwl: int, verified: bool = True
) -> dict[str, TimingSpec]:
    """Rows that distinguish the bins of one data rate, in nCK as the tables print them."""
    return _cks(source, {"nCL": cl, "nRCD": rcd, "nRP": rp, "nRC": rc, "nCWL": cwl}, verified=verified)


def _ddr5_bin(speed: str, rate: int, faw_ps: int, rows: dict[str, TimingSpec], note: str = "") -> SpeedBin:
    faw = {"nFAW": _ns(32, faw_ps, f"{_D5}, 1 KB page; ramulator2.1 uses 20 ns, which is pessimistic")}
    return SpeedBin(
        name=f"ddr5-{speed}",
        standard=DramStandard.DDR5,
        data_rate_mt_per_s=rate,
        beats_per_ck=2,
        note=note,
        rounding=RoundingRule.JEDEC_997,
        specs={**_DDR5_ROWS, **faw, **rows},
    )


_B4800 = "JESD79-5 bin DDR5-4800B (ramulator2.1 4800BN says CL 36, C says 38; the standard 40 and 42)"
_ATTACC = "AttAcc HBM3-PIM.cpp, HBM3_5.2Gbps"
_ATTACC_HBM2 = _ATTACC + "; its authors took the time from an HBM2 model of DRAMsim3"
_AIM = "aim_simulator GDDR6.cpp, GDDR6_AiM_timing, measured on or stated for AiM"
_AIM_BASE = "aim_simulator GDDR6.cpp, kept from a plain GDDR6 model with another tCK; AiM's own value is not published"

# fmt: off
_HBM3_ROWS = {
    **_cks(_ATTACC, {"nBL": 2, "nCCD_S": 2, "nCCD_L": 4, "nRRD_S": 2, "nRRD_L": 4}),
    **_cks(_ATTACC_HBM2, {
        "nCL": 19, "nCWL": 6, "nRCD": 19, "nRP": 19, "nRAS": 45, "nWR": 21, "nRTP": 8, "nWTR_S": 8,
        "nWTR_L": 11, "nFAW": 39, "nRFCsb": 260, "nRREFD": 11}, verified=False),
    "nRC": _ck(64, "nRAS + nRP; " + _ATTACC + " has 63, less than its own nRAS 45 and nRP 19", verified=False),
    "nCCD_MAC": _ck(6, _ATTACC + ", nCCDAB: spread out so that all-bank MACs stay inside the power budget"),
    RTW_GAP: _ck(2, "AttAcc's constraint nCL + nBL + 2 - nCWL; its row nRTW = 3 is unused"), "nRTRS": _BOARD,
    "nRFC": _ns(0, 350_000, _ATTACC + ": its density table, 8 Gb per channel, overrides the row", verified=False),
    "nREFI": TimingSpec(ps=3_900_000, maximum=True, source=_ATTACC + ", 5,070 nCK"),
}

_AIM_ROWS = {
    **_cks(_AIM, {
        "nBL": 2, "nCL": 50, "nRCD": 36, "nRCD_WR": 28, "nRCD_MAC": 56, "nRP": 32, "nRAS": 54, "nWR": 33, "nRTP": 12,
        "nCCD_S": 2, "nCCD_L": 2}),
    **_cks(_AIM_BASE, {
        "nCWL": 6, "nRC": 89, "nRRD_S": 11, "nRRD_L": 11, "nFAW": 42, "nWTR_S": 9, "nWTR_L": 11, "nRFC": 210,
        "nRFCsb": 105, "nRREFD": 21}, verified=False),
    "nREFI": TimingSpec(ck=3_333, maximum=True, verified=False, source=_AIM_BASE),
    RTW_GAP: _ck(2, "assumed as for DDR4 and HBM3", verified=False), "nRTRS": _BOARD,
}

SPEED_BINS: Mapping[str, SpeedBin] = {speed_bin.name: speed_bin for speed_bin in (
    SpeedBin(
        name="ddr4-2400r", standard=DramStandard.DDR4, data_rate_mt_per_s=2400, beats_per_ck=2,
        rounding=RoundingRule.JEDEC_974,
        specs={**_DDR4_ROWS, **_latencies("JESD79-4 bin DDR4-2400R", cl=16, rcd=16, rp=16, rc=55, cwl=12),
               "nRRD_S": _ns(4, 3_300, _D4 + ", 1 KB page")}),
    SpeedBin(
        name="ddr4-3200aa", standard=DramStandard.DDR4, data_rate_mt_per_s=3200, beats_per_ck=2,
        rounding=RoundingRule.JEDEC_974,
        specs={**_DDR4_ROWS, **_latencies("JESD79-4 bin DDR4-3200AA", cl=22, rcd=22, rp=22, rc=74, cwl=16),
               "nRRD_S": _ns(4, 2_500, _D4 + ", 1 KB page")}),
    _ddr5_bin("4800b", 4800, 13_333, _latencies(_B4800, cl=40, rcd=39, rp=39, rc=116, cwl=38)),
    _ddr5_bin("4800an", 4800, 13_333, _latencies("JESD79-5 bin DDR5-4800AN", cl=34, rcd=34, rp=34, rc=111, cwl=32)),
    _ddr5_bin("6400an", 6400, 10_000, _latencies("JESD79-5 bin DDR5-6400AN", cl=46, rcd=46, rp=46, rc=149, cwl=44)),
    _ddr5_bin(
        "6400b", 6400, 10_000,
        _latencies("JESD79-5 bin DDR5-6400B, recalled", cl=52, rcd=52, rp=52, rc=155, cwl=50, verified=False),
        note="unverified: not checked against the standard"),
    SpeedBin(
        name="hbm3-5200", standard=DramStandard.HBM3, data_rate_mt_per_s=5200, beats_per_ck=4,
        rounding=RoundingRule.JEDEC_974, specs=_HBM3_ROWS,
        note="One pseudo channel with AttAcc's power limit. nRTP is the longer of its two, 6 and 8. Some lists "
        "give nRFC 260: that is the source's nRFCsb; the source computes nRFC from 350 ns."),
    SpeedBin(
        name="hbm3-5200-npc", standard=DramStandard.HBM3, data_rate_mt_per_s=5200, beats_per_ck=4,
        rounding=RoundingRule.JEDEC_974,
        specs={**_HBM3_ROWS, "nCCD_MAC": _ck(4, _ATTACC + "_NPC, nCCDAB without the power limit")},
        note="As hbm3-5200, without the power limit."),
    SpeedBin(
        name="gddr6-aim", standard=DramStandard.GDDR6, data_rate_mt_per_s=16_000, beats_per_ck=8,
        rounding=RoundingRule.JEDEC_974, specs=_AIM_ROWS,
        note="tCK 0.5 ns. The source gives nFAW 42 and does not enforce it. 16 Gb/s and 8 beats per CK are derived "
        "from its nBL 2 for a burst of 32 B on x16; the rate of 2000 in its table is the clock. Its other PIM "
        "delays (nRCDRDAF 86, nRCDRDCP 66, nRCDWRCP 48 nCK) belong to commands that this project does not have."),
)}
"""Speed bins by name."""

REFRESH_ROWS: Mapping[tuple[DramStandard, int], Mapping[str, TimingSpec]] = {
    (DramStandard.DDR4, 8): {
        "nRFC": _ns(0, 350_000, "JESD79-4 tRFC1, 8 Gb (DRAMsim3 agrees; ramulator2.1 uses 360 ns)"),
        "nRFC_2x": _ns(0, 260_000, "JESD79-4 tRFC2, 8 Gb"), "nRFC_4x": _ns(0, 160_000, "JESD79-4 tRFC4, 8 Gb")},
    (DramStandard.DDR4, 16): {
        "nRFC": _ns(0, 550_000, "JESD79-4 tRFC1, 16 Gb (litedram uses 350 ns for the 16 Gb MT40A2G8)"),
        "nRFC_2x": _ns(0, 350_000, "JESD79-4 tRFC2, 16 Gb"), "nRFC_4x": _ns(0, 260_000, "JESD79-4 tRFC4, 16 Gb")},
    (DramStandard.DDR5, 16): {
        "nRFC": _ns(0, 295_000, "JESD79-5 tRFC1, 16 Gb"), "nRFC_2x": _ns(0, 160_000, "JESD79-5 tRFC2, 16 Gb"),
        "nRFCsb": _ns(0, 130_000, "JESD79-5 tRFCsb, 16 Gb"),
        "nRREFD": _ns(0, 30_000, "JESD79-5 tREFSBRD, recalled, no second source", verified=False)},
}
"""Refresh rows of DDR4 and DDR5 by standard and die density in Gb; the other bins carry their own."""
# fmt: on


def refresh_rows(standard: DramStandard, density_gbit: int) -> Mapping[str, TimingSpec]:
    """Refresh rows of a die; raises :class:`~pimspec.errors.ParameterError` for a density without any."""
    if standard not in (DramStandard.DDR4, DramStandard.DDR5):
        return {}
    known = sorted(density for kind, density in REFRESH_ROWS if kind is standard)
    require(density_gbit in known, f"density_gbit of {standard.value}", density_gbit, f"one of {known}")
    return REFRESH_ROWS[standard, density_gbit]


def speed_bin_named(name: str) -> SpeedBin:
    """Speed bin of this name; raises :class:`~pimspec.errors.UnknownNameError`."""
    try:
        return SPEED_BINS[name]
    except KeyError:
        raise UnknownNameError("speed bin", name, SPEED_BINS) from None
