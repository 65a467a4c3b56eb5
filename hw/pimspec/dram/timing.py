"""DRAM speed bins as cited (ck, ps) pairs, and the :class:`DramTiming` in clock cycles that follows from them.

A standard states a minimum delay as "the larger of `ck` clocks and `ps` picoseconds". :class:`TimingSpec` keeps both
halves and the source. :meth:`SpeedBin.timing` turns them into whole clocks once, so that nothing else in the project
rounds.

Rounding (one rule for each bin, :class:`RoundingRule`):

* ``JEDEC_974`` (DDR4): ``nCK = trunc((trunc(t_ps * 1000 / tCK_ps) + 974) / 1000)``. JESD79-4 and the DDR4 SPD annex
  subtract a guard band of 2.5 % of a clock before rounding up. The reason is that tCK itself is truncated to a whole
  picosecond (0.833 ns for 2400 MT/s). The HBM3 bin uses it too, because its source does.
* ``JEDEC_997`` (DDR5): ``nCK = trunc((trunc(t_ps * 997 / tCK_ps) + 1000) / 1000)``. JESD79-5 takes 0.30 % off the time
  and rounds up. The text of the rule is recalled; a test shows that it reproduces the printed nCK of 4800 and 6400 MT/s
  from the ns rows.
* A *maximum* (the refresh interval) is rounded down, on the exact clock period.

``tCK_ps`` is the truncated period that these rules are written for; ``clock_period_ps`` is exact and used for
bandwidths.

Sources: JESD79-4 and JESD79-5 through the tables of ramulator2.1 (commit c5b1c3a) and DRAMsim3 (2981759), gathered and
cross-checked; AttAcc's ``HBM3-PIM.cpp`` (commit c1540de); aim_simulator's ``GDDR6.cpp``. JEDEC's own text was not at
hand: the values rest on the nCK of those tables. Tests hold the ns halves of the pairs, partly recalled, to them. A
value that no such source states, or that its source inherited unmeasured, has ``verified=False`` and appears in
:attr:`DramTiming.unverified`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction

from ..errors import require

__all__ = [
    "RTW_GAP",
    "ControllerDelay",
    "DramStandard",
    "DramTiming",
    "RoundingRule",
    "SpeedBin",
    "TimingSpec",
    "controller_delay",
]


class DramStandard(enum.Enum):
    """Interface standard of a device."""

    DDR4 = "ddr4"
    DDR5 = "ddr5"
    HBM3 = "hbm3"
    GDDR6 = "gddr6"


class RoundingRule(enum.Enum):
    """Rule that converts a minimum time in picoseconds to clocks; the formulas are in the module text."""

    JEDEC_974 = "jedec_974"
    JEDEC_997 = "jedec_997"

    def cycles(self, time_ps: int, tCK_ps: int) -> int:
        """Clocks for a minimum delay of `time_ps` at the truncated period `tCK_ps`; zero stays zero."""
        require(time_ps >= 0, "time_ps", time_ps, "0 or more")
        require(tCK_ps > 0, "tCK_ps", tCK_ps, "positive")
        if time_ps == 0:
            return 0
        if self is RoundingRule.JEDEC_974:
            return (time_ps * 1000 // tCK_ps + 974) // 1000
        return (time_ps * 997 // tCK_ps + 1000) // 1000


@dataclass(frozen=True, kw_only=True)
class TimingSpec:
    """One row of a timing table: the larger of `ck` clocks and `ps` picoseconds.

    Parameters
    ----------
    ck : int
        Clock part; 0 if the source gives a time only.
    ps : int
        Time part in picoseconds; 0 if the source gives clocks only.
    source : str
        Origin and form of the numbers.
    verified : bool
        False for a number that was recalled, assumed, or inherited by its source without a measurement.
    maximum : bool
        True for an interval that must not be exceeded; it is rounded down instead of up.
    """

    ck: int = 0
    ps: int = 0
    source: str
    verified: bool = True
    maximum: bool = False

    def __post_init__(self) -> None:
        require(self.ck >= 0, "ck", self.ck, "0 or more")
        require(self.ps >= 0, "ps", self.ps, "0 or more")
        require(bool(self.source.strip()), "source", self.source, "a citation")
        require(
            not (self.maximum and self.ck and self.ps), "maximum", (self.ck, self.ps), "given in ck or in ps, not both"
        )

    def cycles(self, rule: RoundingRule, tCK_ps: int, clock_period_ps: Fraction) -> int:
        """The value in clocks."""
        if self.maximum and self.ps:
            return int(self.ps / clock_period_ps)
        return max(self.ck, rule.cycles(self.ps, tCK_ps))


@dataclass(frozen=True, kw_only=True)
class ControllerDelay:
    """A DRAM delay as kept by a controller with a slower clock.

    Parameters
    ----------
    delay_ck : int
        The delay that the DRAM needs, in CK.
    ck_per_clock : int
        CK in one controller clock. The command in question has the same CK slot in each controller clock; a controller
        that issues in several slots of a clock (a multi-phase DFI) loses less.
    """

    delay_ck: int
    ck_per_clock: int

    def __post_init__(self) -> None:
        require(self.delay_ck >= 0, "delay_ck", self.delay_ck, "0 or more")
        require(self.ck_per_clock >= 1, "ck_per_clock", self.ck_per_clock, "1 or more")

    @property
    def clocks(self) -> int:
        """Delay in controller clocks: ``ceil(delay_ck / ck_per_clock)``."""
        return -(-self.delay_ck // self.ck_per_clock)

    @property
    def lost_ck(self) -> int:
        """CK by which the kept delay is longer than the needed one."""
        return self.clocks * self.ck_per_clock - self.delay_ck


def controller_delay(delay_ck: int, ck_per_clock: int) -> ControllerDelay:
    """Delay rounded up to controller clocks of `ck_per_clock` CK, with the loss."""
    return ControllerDelay(delay_ck=delay_ck, ck_per_clock=ck_per_clock)


@dataclass(frozen=True, kw_only=True)
class DramTiming:
    """Delays of one speed bin and density, in CK; zero means that the standard has no such rule.

    All delays count from the last CA cycle of one command to the last CA cycle of the next (DDR5 commands may take
    two).

    Parameters
    ----------
    name : str
        Speed bin, such as ``"ddr4-3200aa"``.
    standard : DramStandard
    data_rate_mt_per_s : int
        Transfers per second and DQ pin, in millions.
    beats_per_ck : int
        DQ beats in one CK: 2 (DDR), 4 (HBM3), 8 (GDDR6).
    nRCD, nRCD_WR, nRCD_MAC : int
        ACT to RD, to WR, to PIM_MAC.
    nRP, nRAS, nRC : int
        PRE to ACT, ACT to PRE, ACT to ACT of one bank.
    nCL, nCWL, nBL : int
        Read latency, write latency, clocks of one burst on DQ.
    nCCD_S, nCCD_L, nCCD_L_WR, nCCD_MAC : int
        Column to column: other bank_group, same bank_group, same bank_group for writes, PIM_MAC to PIM_MAC at one bank.
    nRRD_S, nRRD_L, nFAW : int
        ACT to ACT: other bank_group, same bank_group, fifth ACT after the first.
    nRTP, nWR : int
        RD to PRE; end of write data to PRE.
    nWTR_S, nWTR_L : int
        End of write data to RD, other and same bank_group.
    nRTW : int
        RD to WR in one rank: ``nCL + nBL + gap - nCWL``, with the gap (preamble and DQS turn-around) of the bin's
        table.
    nRTRS : int
        Idle DQ clocks between bursts of different ranks. No standard states it; it belongs to the board and controller.
    nPPD : int
        PRE to PRE of any two banks.
    nRFC, nRFC_2x, nRFC_4x, nRFCsb : int
        REFab (normal, and the fine-granularity rates), and REFsb to ACT of the refreshed bank.
    nRREFD : int
        REFsb to ACT of a bank that is not being refreshed.
    nREFI : int
        Average interval of REFab, a maximum.
    nMRD, nMOD : int
        MRS to MRS, MRS to another command.
    specs : mapping of str to TimingSpec
        Table rows that the numbers came from; not part of equality.

    Raises
    ------
    ParameterError
        If delays contradict each other.
    """

    name: str
    standard: DramStandard
    data_rate_mt_per_s: int
    beats_per_ck: int
    nRCD: int
    nRCD_WR: int
    nRCD_MAC: int
    nRP: int
    nRAS: int
    nRC: int
    nCL: int
    nCWL: int
    nBL: int
    nCCD_S: int
    nCCD_L: int
    nCCD_L_WR: int
    nCCD_MAC: int
    nRRD_S: int
    nRRD_L: int
    nFAW: int
    nRTP: int
    nWR: int
    nWTR_S: int
    nWTR_L: int
    nRTW: int
    nRTRS: int
    nPPD: int
    nRFC: int
    nRFC_2x: int
    nRFC_4x: int
    nRFCsb: int
    nRREFD: int
    nREFI: int
    nMRD: int
    nMOD: int
    specs: Mapping[str, TimingSpec] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        may_be_zero = {"nRTRS", "nPPD", "nRFC_2x", "nRFC_4x", "nRFCsb", "nRREFD", "nMRD", "nMOD"}
        for key in self.delay_names():
            given = getattr(self, key)
            low = 0 if key in may_be_zero else 1
            require(isinstance(given, int) and given >= low, key, given, f"an integer of {low} or more")
        require(self.data_rate_mt_per_s > 0, "data_rate_mt_per_s", self.data_rate_mt_per_s, "positive")
        require(self.beats_per_ck in (2, 4, 8), "beats_per_ck", self.beats_per_ck, "2, 4 or 8")
        for small, large in (
            ("nBL", "nCCD_S"),
            ("nCCD_S", "nCCD_L"),
            ("nCCD_L", "nCCD_L_WR"),
            ("nCCD_L", "nCCD_MAC"),
            ("nRRD_S", "nRRD_L"),
            ("nRRD_S", "nFAW"),
            ("nWTR_S", "nWTR_L"),
            ("nRCD_WR", "nRAS"),
            ("nRFC", "nREFI"),
            ("nRFC_2x", "nRFC"),
            ("nRFC_4x", "nRFC"),
            ("nRFCsb", "nRFC"),
        ):
            bound = getattr(self, large)
            require(getattr(self, small) <= bound, small, getattr(self, small), f"at most {large} ({bound})")
        cycle = self.nRAS + self.nRP
        require(self.nRC >= cycle, "nRC", self.nRC, f"at least nRAS + nRP ({self.nRAS} + {self.nRP} = {cycle})")

    @staticmethod
    def delay_names() -> tuple[str, ...]:
        """Names of the delay fields, in declaration order."""
        return tuple(f.name for f in fields(DramTiming) if f.name.startswith("n") and f.name != "name")

    @property
    def clock_period_ps(self) -> Fraction:
        """Exact CK period in picoseconds, such as 1250/3 at DDR5-4800."""
        return Fraction(self.beats_per_ck * 1_000_000, self.data_rate_mt_per_s)

    @property
    def tCK_ps(self) -> int:
        """CK period truncated to a picosecond, as the rounding rules use it: 625, 833, 416, 312..."""
        return int(self.clock_period_ps)

    @property
    def unverified(self) -> tuple[str, ...]:
        """Delays whose source is a recollection, an assumption or an unmeasured inheritance."""
        return tuple(sorted("nRTW" if key == RTW_GAP else key for key, spec in self.specs.items() if not spec.verified))

    def time_ps(self, cycles: int) -> Fraction:
        """`cycles` CK as an exact time in picoseconds."""
        return cycles * self.clock_period_ps

    def controller_delays(self, ck_per_clock: int) -> dict[str, ControllerDelay]:
        """Every delay at a controller clock of `ck_per_clock` CK; the refresh interval, a maximum, is left out."""
        return {key: controller_delay(getattr(self, key), ck_per_clock) for key in self.delay_names() if key != "nREFI"}


RTW_GAP = "nRTW_gap"
_DEFAULTS = {"nRCD_WR": "nRCD", "nRCD_MAC": "nRCD", "nCCD_L_WR": "nCCD_L", "nCCD_MAC": "nCCD_L"}


@dataclass(frozen=True, kw_only=True)
class SpeedBin:
    """A column of a timing table.

    Parameters
    ----------
    name : str
        Lower-case name, such as ``"ddr4-3200aa"``.
    standard : DramStandard
    data_rate_mt_per_s, beats_per_ck : int
        As in :class:`DramTiming`.
    rounding : RoundingRule
    specs : mapping of str to TimingSpec
        Rows by the field name of :class:`DramTiming`; ``nRTW_gap`` in place of ``nRTW``. Rows left out: ``nRCD_WR`` and
        ``nRCD_MAC`` equal nRCD, ``nCCD_L_WR`` and ``nCCD_MAC`` equal nCCD_L, any other is 0.
    note : str
        Remarks on this bin.
    """

    name: str
    standard: DramStandard
    data_rate_mt_per_s: int
    beats_per_ck: int
    rounding: RoundingRule
    specs: Mapping[str, TimingSpec]
    note: str = ""

    def __post_init__(self) -> None:
        allowed = {*DramTiming.delay_names(), RTW_GAP} - {"nRTW"}
        for key in self.specs:
            require(key in allowed, "timing row", key, "a delay of DramTiming or nRTW_gap")

    def timing(self, refresh: Mapping[str, TimingSpec] | None = None) -> DramTiming:
        """Timing of the bin in clocks, with the rows of `refresh` added, which depend on the density of the die."""
        rows = {**self.specs, **(refresh or {})}
        period = Fraction(self.beats_per_ck * 1_000_000, self.data_rate_mt_per_s)
        cycles = {key: row.cycles(self.rounding, int(period), period) for key, row in rows.items()}
        gap = cycles.pop(RTW_GAP, None)
        require(gap is not None, f"rows of {self.name}", sorted(rows), f"complete with {RTW_GAP}")
        for key in DramTiming.delay_names():
            cycles.setdefault(key, cycles.get(_DEFAULTS.get(key, ""), 0))
        cycles["nRTW"] = cycles["nCL"] + cycles["nBL"] + (gap or 0) - cycles["nCWL"]
        return DramTiming(
            name=self.name,
            standard=self.standard,
            data_rate_mt_per_s=self.data_rate_mt_per_s,
            beats_per_ck=self.beats_per_ck,
            specs=rows,
            **cycles,
        )
