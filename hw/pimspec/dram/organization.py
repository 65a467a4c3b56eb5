"""DRAM organizations, and the presets that join an organization with its timing.

A preset describes the devices that share one command bus: a DIMM channel (DDR4), a 32-bit sub-channel (DDR5), a pseudo
channel (HBM3) or a channel (GDDR6-AiM). *Chip* is the part of it that has its own banks: a DRAM device of a rank, or,
for HBM3 and GDDR6, the pseudo channel or channel itself (one "chip" per rank). ECC chips are not counted.

Sources: JEDEC (JESD79-4 and JESD79-5 addressing through ramulator2.1 and DRAMsim3); AttAcc's ``HBM3_8Gb_2R`` (1 KB
page, 32 columns of 32 B, two ranks); aim_simulator's ``GDDR6_AiM_org`` (16,384 rows of 1,024 x 16 bit). Two ranks per
DIMM are the configuration of CHIME; use ``dataclasses.replace`` for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UnknownNameError, require
from .speed_bins import refresh_rows, speed_bin_named
from .timing import DramStandard, DramTiming

__all__ = ["DRAM_PRESETS", "DramOrganization", "DramPreset", "dram_preset"]

_WIDTHS = {
    DramStandard.DDR4: (4, 8, 16),
    DramStandard.DDR5: (4, 8, 16),
    DramStandard.HBM3: (32,),
    DramStandard.GDDR6: (8, 16),
}
_BURST = {DramStandard.DDR4: 8, DramStandard.DDR5: 16, DramStandard.HBM3: 8, DramStandard.GDDR6: 16}


@dataclass(frozen=True, kw_only=True)
class DramOrganization:
    """Counts and widths of the devices on one command bus.

    Parameters
    ----------
    standard : DramStandard
    ranks : int
        Ranks on the bus.
    chips_per_rank : int
        Data chips that work in lockstep.
    device_width_bits : int
        DQ width of a chip.
    bank_groups, banks_per_group : int
    rows : int
        Rows of a bank.
    columns : int
        Addressable columns of a row, each `device_width_bits` wide.
    burst_length : int
        DQ beats, and columns, of one column access.
    page_bytes : int
        Bytes of one row in one chip.
    density_gbit : int
        Data capacity of a chip in 2**30 bit.

    Raises
    ------
    ParameterError
        If a count is not a power of two (chips and ranks may be any positive number) or the numbers contradict each
        other.
    """

    standard: DramStandard
    ranks: int
    chips_per_rank: int
    device_width_bits: int
    bank_groups: int
    banks_per_group: int
    rows: int
    columns: int
    burst_length: int
    page_bytes: int
    density_gbit: int

    def __post_init__(self) -> None:
        for what in ("ranks", "chips_per_rank"):
            require(getattr(self, what) >= 1, what, getattr(self, what), "1 or more")
        for what in ("bank_groups", "banks_per_group", "rows", "columns", "page_bytes"):
            given = getattr(self, what)
            require(given >= 1 and given & (given - 1) == 0, what, given, "a power of two")
        widths, burst = _WIDTHS[self.standard], _BURST[self.standard]
        require(
            self.device_width_bits in widths,
            "device_width_bits",
            self.device_width_bits,
            f"one of {widths} for {self.standard.value}",
        )
        require(self.burst_length == burst, "burst_length", self.burst_length, f"{burst} for {self.standard.value}")
        page_bits = self.columns * self.device_width_bits
        require(
            self.page_bytes * 8 == page_bits,
            "page_bytes",
            self.page_bytes,
            f"columns * device_width_bits / 8 = {page_bits // 8}",
        )
        require(self.columns % self.burst_length == 0, "columns", self.columns, "a multiple of burst_length")
        bits = self.banks_per_chip * self.rows * self.page_bytes * 8
        require(
            self.density_gbit << 30 == bits,
            "density_gbit",
            self.density_gbit,
            f"banks * rows * page_bytes * 8 / 2**30 = {bits / 2**30:g}",
        )

    @property
    def banks_per_chip(self) -> int:
        return self.bank_groups * self.banks_per_group

    @property
    def banks_per_rank(self) -> int:
        """Number of banks over the chips of a rank, all of which can compute at once."""
        return self.banks_per_chip * self.chips_per_rank

    @property
    def column_access_bytes(self) -> int:
        """Bytes of one column access in one chip (8 for DDR4 x8, 16 for DDR5 x8)."""
        return self.burst_length * self.device_width_bits // 8

    @property
    def rank_burst_bytes(self) -> int:
        """Bytes of one column access over the chips of a rank: a host burst."""
        return self.column_access_bytes * self.chips_per_rank

    @property
    def column_accesses_per_row(self) -> int:
        """Number of column accesses that cover a row."""
        return self.columns // self.burst_length

    @property
    def bus_width_bits(self) -> int:
        """Width of the external data bus."""
        return self.device_width_bits * self.chips_per_rank

    @property
    def chip_bytes(self) -> int:
        return self.banks_per_chip * self.rows * self.page_bytes

    @property
    def rank_bytes(self) -> int:
        return self.chip_bytes * self.chips_per_rank

    @property
    def capacity_bytes(self) -> int:
        """Data capacity of all ranks on the bus."""
        return self.rank_bytes * self.ranks

    @property
    def rank_bits(self) -> int:
        """Width of a rank number; 0 if there is one rank. The other widths follow the same rule."""
        return (self.ranks - 1).bit_length()

    @property
    def bank_group_bits(self) -> int:
        return (self.bank_groups - 1).bit_length()

    @property
    def bank_bits(self) -> int:
        """Width of a bank number within its bank_group."""
        return (self.banks_per_group - 1).bit_length()

    @property
    def row_bits(self) -> int:
        return (self.rows - 1).bit_length()

    @property
    def column_bits(self) -> int:
        """Width of a column address on the CA bus, the bits inside a burst included."""
        return (self.columns - 1).bit_length()

    @property
    def column_access_bits(self) -> int:
        """Width of the number of a column access within a row."""
        return (self.column_accesses_per_row - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class DramPreset:
    """A DRAM organization with its timing.

    Parameters
    ----------
    name : str
        Lower case, such as ``"ddr4-3200-x8-8gb"``.
    organization : DramOrganization
    timing : DramTiming
    note : str
        Doubts and particularities, with the source.

    Raises
    ------
    ParameterError
        If the standards differ, or nBL clocks do not carry a burst.
    """

    name: str
    organization: DramOrganization
    timing: DramTiming
    note: str = ""

    def __post_init__(self) -> None:
        require(self.name == self.name.lower(), "name", self.name, "lower case")
        standard = self.organization.standard
        require(self.timing.standard is standard, "timing.standard", self.timing.standard.value, f"{standard.value}")
        beats = self.timing.nBL * self.timing.beats_per_ck
        require(
            self.organization.burst_length == beats,
            "burst_length",
            self.organization.burst_length,
            f"nBL * beats_per_ck = {beats}",
        )

    @property
    def external_bytes_per_ck(self) -> int:
        """Bytes that the external data bus carries in one CK."""
        return self.organization.bus_width_bits * self.timing.beats_per_ck // 8


def _ddr4_x8(density_gbit: int) -> DramOrganization:
    """Organization of a 2-rank DDR4 DIMM of x8 chips: 65,536 rows at 8 Gb, 131,072 at 16 Gb."""
    return DramOrganization(
        standard=DramStandard.DDR4,
        ranks=2,
        chips_per_rank=8,
        device_width_bits=8,
        bank_groups=4,
        banks_per_group=4,
        rows=8_192 * density_gbit,
        columns=1_024,
        burst_length=8,
        page_bytes=1_024,
        density_gbit=density_gbit,
    )


_DDR5_X8_16GB = DramOrganization(
    standard=DramStandard.DDR5,
    ranks=2,
    chips_per_rank=4,
    device_width_bits=8,
    bank_groups=8,
    banks_per_group=4,
    rows=65_536,
    columns=1_024,
    burst_length=16,
    page_bytes=1_024,
    density_gbit=16,
)

# 16 channels x 2 pseudo channels of this make the 16 GB stack of AttAcc. The source counts 32 columns of 32 B.
_HBM3_8GB_2R = DramOrganization(
    standard=DramStandard.HBM3,
    ranks=2,
    chips_per_rank=1,
    device_width_bits=32,
    bank_groups=4,
    banks_per_group=4,
    rows=16_384,
    columns=256,
    burst_length=8,
    page_bytes=1_024,
    density_gbit=2,
)

# An 8 Gb GDDR6-AiM die has two of these channels.
_GDDR6_AIM = DramOrganization(
    standard=DramStandard.GDDR6,
    ranks=1,
    chips_per_rank=1,
    device_width_bits=16,
    bank_groups=4,
    banks_per_group=4,
    rows=16_384,
    columns=1_024,
    burst_length=16,
    page_bytes=2_048,
    density_gbit=4,
)


def _preset(name: str, organization: DramOrganization, speed_bin: str, note: str = "") -> DramPreset:
    chosen = speed_bin_named(speed_bin)
    timing = chosen.timing(refresh_rows(organization.standard, organization.density_gbit))
    return DramPreset(
        name=name, organization=organization, timing=timing, note=" ".join(filter(None, (note, chosen.note)))
    )


_TRFC_8GB = "tRFC1 350 ns (JEDEC, DRAMsim3); ramulator2.1 uses 360 ns."
_TRFC_16GB = "tRFC1 550 ns as JEDEC gives for a 16 Gb die; litedram uses 350 ns for the 16 Gb MT40A2G8."
_SUB_CHANNEL = "One of the two 32-bit sub-channels of a DIMM, its ECC chip not counted."

DRAM_PRESETS: Mapping[str, DramPreset] = {
    preset.name: preset
    for preset in (
        _preset("ddr4-3200-x8-8gb", _ddr4_x8(8), "ddr4-3200aa", _TRFC_8GB),
        _preset("ddr4-3200-x8-16gb", _ddr4_x8(16), "ddr4-3200aa", _TRFC_16GB),
        _preset("ddr4-2400-x8-8gb", _ddr4_x8(8), "ddr4-2400r", _TRFC_8GB),
        _preset("ddr5-4800-x8-16gb", _DDR5_X8_16GB, "ddr5-4800b", _SUB_CHANNEL),
        _preset("ddr5-4800an-x8-16gb", _DDR5_X8_16GB, "ddr5-4800an", _SUB_CHANNEL),
        _preset("ddr5-6400an-x8-16gb", _DDR5_X8_16GB, "ddr5-6400an", _SUB_CHANNEL),
        _preset("ddr5-6400-x8-16gb", _DDR5_X8_16GB, "ddr5-6400b", _SUB_CHANNEL),
        _preset("hbm3-5200", _HBM3_8GB_2R, "hbm3-5200"),
        _preset("hbm3-5200-npc", _HBM3_8GB_2R, "hbm3-5200-npc"),
        _preset("gddr6-aim", _GDDR6_AIM, "gddr6-aim"),
    )
}
"""Presets by name."""


def dram_preset(name: str) -> DramPreset:
    """Preset of this name; raises :class:`~pimspec.errors.UnknownNameError`."""
    try:
        return DRAM_PRESETS[name]
    except KeyError:
        raise UnknownNameError("DRAM preset", name, DRAM_PRESETS) from None
