"""DRAM organizations and presets."""

from __future__ import annotations

import dataclasses

import pytest

from pimspec.dram.organization import DRAM_PRESETS, DramOrganization, DramPreset, dram_preset
from pimspec.dram.timing import DramStandard
from pimspec.errors import ParameterError, UnknownNameError

# name: ranks, chips, width, bank groups, banks per group, rows, columns, burst, page bytes, Gb
PRINTED = {
    "ddr4-3200-x8-8gb": (2, 8, 8, 4, 4, 65_536, 1_024, 8, 1_024, 8),
    "ddr4-3200-x8-16gb": (2, 8, 8, 4, 4, 131_072, 1_024, 8, 1_024, 16),
    "ddr4-2400-x8-8gb": (2, 8, 8, 4, 4, 65_536, 1_024, 8, 1_024, 8),
    "ddr5-4800-x8-16gb": (2, 4, 8, 8, 4, 65_536, 1_024, 16, 1_024, 16),
    "ddr5-4800an-x8-16gb": (2, 4, 8, 8, 4, 65_536, 1_024, 16, 1_024, 16),
    "ddr5-6400an-x8-16gb": (2, 4, 8, 8, 4, 65_536, 1_024, 16, 1_024, 16),
    "ddr5-6400-x8-16gb": (2, 4, 8, 8, 4, 65_536, 1_024, 16, 1_024, 16),
    "hbm3-5200": (2, 1, 32, 4, 4, 16_384, 256, 8, 1_024, 2),
    "hbm3-5200-npc": (2, 1, 32, 4, 4, 16_384, 256, 8, 1_024, 2),
    "gddr6-aim": (1, 1, 16, 4, 4, 16_384, 1_024, 16, 2_048, 4),
}


@pytest.mark.parametrize("name", PRINTED)
def test_organization_equals_the_printed_numbers(name):
    given = dataclasses.asdict(dram_preset(name).organization)
    given.pop("standard")
    assert tuple(given.values()) == PRINTED[name]


def test_every_preset_is_checked():
    assert set(PRINTED) == set(DRAM_PRESETS)
    assert all(preset.name == name for name, preset in DRAM_PRESETS.items())


@pytest.mark.parametrize(
    ("name", "banks", "access", "bus"),
    [
        ("ddr4-3200-x8-8gb", (16, 128, 8), (8, 128, 64), (64, 16)),
        ("ddr4-3200-x8-16gb", (16, 128, 16), (8, 128, 64), (64, 16)),
        ("ddr5-4800-x8-16gb", (32, 128, 8), (16, 64, 64), (32, 8)),
        ("hbm3-5200", (16, 16, 0.25), (32, 32, 32), (32, 16)),
        ("gddr6-aim", (16, 16, 0.5), (32, 64, 32), (16, 16)),
    ],
)
def test_derived_properties(name, banks, access, bus):
    """Banks of chip and rank, GiB of rank; bytes and number of column accesses, host burst; bus bits, bytes per CK."""
    preset = dram_preset(name)
    o = preset.organization
    assert (o.banks_per_chip, o.banks_per_rank, o.rank_bytes / 2**30) == banks
    assert (o.column_access_bytes, o.column_accesses_per_row, o.rank_burst_bytes) == access
    assert (o.bus_width_bits, preset.external_bytes_per_ck) == bus
    assert o.capacity_bytes == o.rank_bytes * o.ranks
    assert o.column_accesses_per_row * o.column_access_bytes == o.page_bytes
    assert o.chip_bytes * 8 == o.density_gbit << 30


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("ddr4-3200-x8-16gb", (1, 2, 2, 17, 10, 7)),
        ("ddr5-4800-x8-16gb", (1, 3, 2, 16, 10, 6)),
        ("hbm3-5200", (1, 2, 2, 14, 8, 5)),
        ("gddr6-aim", (0, 2, 2, 14, 10, 6)),
    ],
)
def test_field_widths(name, widths):
    o = dram_preset(name).organization
    assert (o.rank_bits, o.bank_group_bits, o.bank_bits, o.row_bits, o.column_bits, o.column_access_bits) == widths


def test_system_capacity():
    """8 channels x 2 DIMMs x 2 ranks hold 512 GB with 16 Gb x8 chips; so does a DDR5 system, in sub-channels."""
    ddr4, ddr5 = dram_preset("ddr4-3200-x8-16gb").organization, dram_preset("ddr5-4800-x8-16gb").organization
    assert 8 * 2 * ddr4.capacity_bytes == 512 * 2**30
    assert 8 * 2 * 2 * ddr5.capacity_bytes == 512 * 2**30
    assert 16 * 2 * dram_preset("hbm3-5200").organization.capacity_bytes == 16 * 2**30


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rows": 65_535}, "rows must be a power of two, not 65535"),
        ({"rows": 0}, "rows must be a power of two, not 0"),
        ({"ranks": 0}, "ranks must be 1 or more, not 0"),
        ({"density_gbit": 16}, "density_gbit must be banks * rows * page_bytes * 8 / 2**30 = 8, not 16"),
        ({"page_bytes": 512}, "page_bytes must be columns * device_width_bits / 8 = 1024, not 512"),
        ({"burst_length": 16}, "burst_length must be 8 for ddr4, not 16"),
        ({"device_width_bits": 32}, "device_width_bits must be one of (4, 8, 16) for ddr4, not 32"),
        ({"columns": 4, "page_bytes": 4}, "columns must be a multiple of burst_length, not 4"),
        ({"bank_groups": 3}, "bank_groups must be a power of two, not 3"),
    ],
)
def test_contradictions_are_refused(change, text):
    organization = dram_preset("ddr4-3200-x8-8gb").organization
    with pytest.raises(ParameterError) as caught:
        dataclasses.replace(organization, **change)
    assert str(caught.value) == text


def test_other_chip_widths_are_possible():
    x8 = dram_preset("ddr4-3200-x8-8gb").organization
    x4 = dataclasses.replace(x8, device_width_bits=4, chips_per_rank=16, page_bytes=512, rows=131_072)
    assert (x4.column_access_bytes, x4.column_accesses_per_row, x4.bus_width_bits) == (4, 128, 64)


def test_a_preset_joins_what_belongs_together():
    ddr4, ddr5 = dram_preset("ddr4-3200-x8-8gb"), dram_preset("ddr5-4800-x8-16gb")
    with pytest.raises(ParameterError, match=r"timing\.standard must be ddr4, not 'ddr5'"):
        DramPreset(name="x", organization=ddr4.organization, timing=ddr5.timing)
    with pytest.raises(ParameterError, match="burst_length must be nBL \\* beats_per_ck = 4, not 8"):
        dataclasses.replace(ddr4, timing=dataclasses.replace(ddr4.timing, nBL=2))
    with pytest.raises(ParameterError, match="name must be lower case"):
        dataclasses.replace(ddr4, name="DDR4")


def test_lookup_and_notes():
    with pytest.raises(UnknownNameError, match="unknown DRAM preset 'ddr4-3200-x8' "):
        dram_preset("ddr4-3200-x8")
    assert "550 ns" in dram_preset("ddr4-3200-x8-16gb").note
    assert "360 ns" in dram_preset("ddr4-3200-x8-8gb").note
    assert "unverified" in dram_preset("ddr5-6400-x8-16gb").note
    assert "not enforce" in dram_preset("gddr6-aim").note
    assert "350 ns" in dram_preset("hbm3-5200").note


def test_presets_are_hashable_values():
    assert len({dram_preset(name) for name in DRAM_PRESETS}) == len(DRAM_PRESETS)
    assert isinstance(dram_preset("gddr6-aim").organization, DramOrganization)
    assert dram_preset("gddr6-aim").organization.standard is DramStandard.GDDR6
