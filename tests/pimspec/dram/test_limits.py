"""Closed-form limits against every derived number (rounded as typed here)."""

from __future__ import annotations

import dataclasses

import pytest

from pimspec.dram import limits
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError

DDR4, DDR4_8GB, DDR5 = "ddr4-3200-x8-16gb", "ddr4-3200-x8-8gb", "ddr5-4800-x8-16gb"


def near(value, digits):
    """Equality after rounding to the printed digits."""
    return pytest.approx(value, abs=0.5000001 * 10**-digits)


@pytest.mark.parametrize(
    ("name", "gb_per_s", "ratio"),
    [
        (DDR4, (1.6, 25.6, 204.8, 25.6), 8),
        (DDR5, (3.2, 102.4, 409.6, 19.2), 64 / 3),
        ("ddr5-6400an-x8-16gb", (3.2, 102.4, 409.6, 25.6), 16),
        ("ddr5-4800an-x8-16gb", (3.2, 102.4, 409.6, 19.2), 64 / 3),
    ],
)
def test_bandwidth(name, gb_per_s, ratio):
    preset, (bank, chip, rank, external) = dram_preset(name), gb_per_s
    assert limits.bank_bandwidth_bytes_per_s(preset) == pytest.approx(bank * 1e9, rel=1e-12)
    assert limits.chip_bandwidth_bytes_per_s(preset) == pytest.approx(chip * 1e9, rel=1e-12)
    assert limits.rank_bandwidth_bytes_per_s(preset) == pytest.approx(rank * 1e9, rel=1e-12)
    assert limits.external_bandwidth_bytes_per_s(preset) == pytest.approx(external * 1e9, rel=1e-12)
    assert limits.internal_to_external_ratio(preset) == pytest.approx(ratio, rel=1e-12)


def test_system_bandwidth():
    """8 channels x 2 DIMMs x 2 ranks: 6.554 TB/s (DDR4), 26.2 TB/s (DDR5); their hosts 204.8 and 307.2 GB/s."""
    ddr4, ddr5 = dram_preset(DDR4), dram_preset(DDR5)
    assert 2 * limits.rank_bandwidth_bytes_per_s(ddr4) == pytest.approx(409.6e9)
    assert 32 * limits.rank_bandwidth_bytes_per_s(ddr4) / 1e12 == near(6.554, 3)
    assert 64 * limits.rank_bandwidth_bytes_per_s(ddr5) / 1e12 == near(26.2, 1)
    assert 8 * limits.external_bandwidth_bytes_per_s(ddr4) == pytest.approx(204.8e9)
    assert 16 * limits.external_bandwidth_bytes_per_s(ddr5) == pytest.approx(307.2e9)


def test_attacc_internal_bandwidth():
    """AttAcc: 16 times the stack's bandwidth without the power limit (two ranks), less with nCCDAB 6."""
    npc, limited = dram_preset("hbm3-5200-npc"), dram_preset("hbm3-5200")
    assert 2 * limits.internal_to_external_ratio(npc) == pytest.approx(16)
    assert 2 * limits.internal_to_external_ratio(limited) == pytest.approx(32 / 3)


ROWS = [(DDR4, 128, 1072, 0.9552, 4), (DDR4, 64, 560, 0.914, 3), (DDR4, 32, 304, 0.842, 3), (DDR4, 16, 176, 0.727, 3)]
ROWS += [(DDR5, 64, 852, 0.9014, 4), (DDR5, 32, 468, 0.821, 3), (DDR5, 16, 276, 0.696, 3), (DDR5, 8, 180, 0.533, 3)]


@pytest.mark.parametrize(("name", "columns", "period", "efficiency", "digits"), ROWS)
def test_row(name, columns, period, efficiency, digits):
    timing = dram_preset(name).timing
    assert limits.row_period_cycles(timing, columns) == period
    assert limits.row_efficiency(timing, columns) == near(efficiency, digits)


def test_short_rows_are_bound_by_trc():
    assert limits.row_period_cycles(dram_preset(DDR4).timing, 1) == 74
    assert limits.row_period_cycles(dram_preset(DDR5).timing, 1) == 116


@pytest.mark.parametrize(
    ("name", "banks", "extra", "efficiencies"),
    [
        (DDR4, 16, 114, {128: (0.8634, 4), 64: (0.760, 3), 32: (0.612, 3), 16: (0.441, 3)}),
        (DDR5, 32, 248, {64: (0.698, 3), 32: (0.536, 3), 16: (0.366, 3), 8: (0.224, 3)}),
    ],
)
def test_lockstep(name, banks, extra, efficiencies):
    preset = dram_preset(name)
    assert preset.organization.banks_per_chip == banks
    assert limits.first_to_last_act_cycles(preset.timing, banks) == extra
    for columns, (efficiency, digits) in efficiencies.items():
        assert limits.lockstep_row_efficiency(preset.timing, banks, columns) == near(efficiency, digits)
        period = limits.row_period_cycles(preset.timing, columns) + extra
        assert limits.lockstep_row_period_cycles(preset.timing, banks, columns) == period


@pytest.mark.parametrize(("banks", "cycles"), [(1, 0), (2, 4), (4, 12), (5, 34), (6, 38), (8, 46), (9, 68)])
def test_first_to_last_act(banks, cycles):
    assert limits.first_to_last_act_cycles(dram_preset(DDR4).timing, banks) == cycles


@pytest.mark.parametrize(
    ("name", "rate", "efficiency", "digits"),
    [
        (DDR4, 1, 0.9295, 4),
        (DDR4_8GB, 1, 0.9551, 4),
        (DDR4, 2, 0.910, 3),
        (DDR4, 4, 0.867, 3),
        (DDR5, 1, 0.9244, 4),
    ],
)
def test_refresh(name, rate, efficiency, digits):
    assert limits.refresh_efficiency(dram_preset(name).timing, rate) == near(efficiency, digits)


def test_same_bank_refresh():
    preset = dram_preset(DDR5)
    assert limits.same_bank_refresh_loss(preset.timing, preset.organization, lockstep=True) == near(0.133, 3)
    assert limits.same_bank_refresh_loss(preset.timing, preset.organization, lockstep=False) == near(0.033, 3)
    interval = preset.timing.nREFI // preset.organization.banks_per_group
    assert preset.timing.time_ps(interval) == 975_000


def test_bank_set_limit():
    assert limits.bank_set_limit(dram_preset(DDR4).timing, ranks_on_ca=4, command_cycles=1) == 2
    assert limits.bank_set_limit(dram_preset(DDR5).timing, ranks_on_ca=1, command_cycles=2) == 6
    assert limits.bank_set_limit(dram_preset(DDR4).timing, ranks_on_ca=1, command_cycles=1) == 8


@pytest.mark.parametrize(
    ("name", "partials", "gqa", "rho_k"),
    [(DDR4, 1, 1, 0.125), (DDR4, 8, 1, 1.0), (DDR4, 8, 8, 8.0), (DDR4, 1, 8, 1.0), (DDR5, 1, 1, 1 / 3)],
)
def test_bus_load_of_k(name, partials, gqa, rho_k):
    given = limits.bus_load_k(dram_preset(name), partials_per_token=partials, gqa_group_size=gqa, head_dim=128)
    assert given == pytest.approx(rho_k, rel=1e-12)


def test_bus_load_of_v():
    assert limits.bus_load_v(dram_preset(DDR4), gqa_group_size=1, head_dim=128) == pytest.approx(0.0625)
    assert limits.bus_load_v(dram_preset(DDR5), gqa_group_size=1, head_dim=128) == near(0.167, 3)


@pytest.mark.parametrize(
    ("name", "row", "overlapped", "serial"),
    [
        (DDR4, "waiver", 0.888, 0.812),
        (DDR4, "lockstep", 0.803, 0.734),
        (DDR4, 0.9133, 0.849, 0.776),
        (DDR5, "waiver", 0.833, 0.667),
        (DDR5, "lockstep", 0.645, 0.516),
    ],
)
def test_upper_bounds_of_attention(name, row, overlapped, serial):
    preset = dram_preset(name)
    timing, o = preset.timing, preset.organization
    if row == "waiver":
        row = limits.row_efficiency(timing, o.column_accesses_per_row)
    elif row == "lockstep":
        row = limits.lockstep_row_efficiency(timing, o.banks_per_chip, o.column_accesses_per_row)
    rho_k = limits.bus_load_k(preset, partials_per_token=1, gqa_group_size=1, head_dim=128)
    rho_v = limits.bus_load_v(preset, gqa_group_size=1, head_dim=128)
    refresh = limits.refresh_efficiency(timing)
    # The facts print the products of rounded factors: one unit of the last digit.
    assert limits.attention_efficiency(row, refresh, rho_k, rho_v, overlapped=True) == pytest.approx(
        overlapped, abs=1e-3
    )
    assert limits.attention_efficiency(row, refresh, rho_k, rho_v, overlapped=False) == pytest.approx(serial, abs=1e-3)


def test_a_saturated_bus_bounds_attention():
    assert limits.attention_efficiency(1.0, 1.0, 8.0, 8.0, overlapped=True) == pytest.approx(1 / 8)
    assert limits.attention_efficiency(1.0, 1.0, 8.0, 0.0, overlapped=True) == pytest.approx(2 / 9)
    assert limits.attention_efficiency(0.5, 0.5, 0.0, 0.0, overlapped=False) == pytest.approx(0.25)


def test_mac_lanes():
    """DDR4 x8 needs 4 FP16 MACs a column time, DDR5 x8 8; GQA-8 eight times that."""
    ddr4, ddr5 = dram_preset(DDR4).organization, dram_preset(DDR5).organization
    assert limits.mac_lanes_at_full_rate(ddr4) == 4
    assert limits.mac_lanes_at_full_rate(ddr5) == 8
    assert limits.mac_lanes_at_full_rate(ddr4, gqa_group_size=8) == 32


# layers, KV heads, KiB per token and layer, KiB in all; us per layer of a DDR4 system at 32K, 128K, 1M tokens
MODELS = {
    "llama-2-7b": (32, 32, 16, 512, 81.9, 327.7, 2_620),
    "llama-2-13b": (40, 40, 20, 800, 102.4, 409.6, 3_280),
    "llama-3-70b": (80, 8, 4, 320, 20.5, 81.9, 655),
    "opt-66b": (64, 72, 36, 2_304, 184.3, 737.3, 5_900),
    "gpt-3-175b": (96, 96, 48, 4_608, 245.8, 983.0, 7_860),
    "qwen2.5-7b": (28, 4, 2, 56, 10.2, 41.0, 328),
}


@pytest.mark.parametrize("model", MODELS)
def test_ideal_time_of_a_layer(model):
    layers, heads, kib, total_kib, *times_us = MODELS[model]
    per_token = limits.kv_bytes_per_token(num_kv_heads=heads, head_dim=128)
    assert per_token == kib * 1024
    assert limits.kv_bytes_per_token(num_kv_heads=heads, head_dim=128, num_layers=layers) == total_kib * 1024
    bandwidth = 32 * limits.rank_bandwidth_bytes_per_s(dram_preset(DDR4))
    for tokens, time_us in zip((2**15, 2**17, 2**20), times_us, strict=True):
        assert limits.stream_time_s(per_token * tokens, bandwidth) * 1e6 == pytest.approx(time_us, rel=5e-3)
        assert limits.stream_time_s(per_token * tokens, bandwidth, 0.5) * 1e6 == pytest.approx(2 * time_us, rel=5e-3)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: limits.row_efficiency(p.timing, 0), "columns_used must be 1 or more, not 0"),
        (lambda p: limits.first_to_last_act_cycles(p.timing, 0), "num_banks must be 1 or more, not 0"),
        (lambda p: limits.refresh_efficiency(p.timing, 3), "rate must be one that ddr4-3200aa has: [1, 2, 4], not 3"),
        (
            lambda p: limits.same_bank_refresh_loss(p.timing, p.organization, lockstep=True),
            "timing must be one with REFsb",
        ),
        (lambda p: limits.bank_set_limit(p.timing, ranks_on_ca=0, command_cycles=1), "ranks_on_ca must be 1 or more"),
        (
            lambda p: limits.bank_set_limit(p.timing, ranks_on_ca=1, command_cycles=0),
            "command_cycles must be 1 or more",
        ),
        (lambda p: limits.bus_load_v(p, gqa_group_size=0, head_dim=128), "gqa_group_size must be 1 or more, not 0"),
        (lambda p: limits.attention_efficiency(1.1, 1, 0, 0, overlapped=True), "row must be above 0 and at most 1"),
        (lambda p: limits.attention_efficiency(1, 1, -1, 0, overlapped=True), "rho_k must be 0 or more, not -1"),
        (lambda p: limits.stream_time_s(1, 0.0), "bandwidth_bytes_per_s must be positive, not 0.0"),
        (lambda p: limits.stream_time_s(1, 1.0, 0.0), "efficiency must be above 0 and at most 1"),
        (lambda p: limits.stream_time_s(-1, 1.0), "num_bytes must be 0 or more, not -1"),
    ],
)
def test_bad_parameters_are_refused(call, text):
    with pytest.raises(ParameterError) as caught:
        call(dram_preset(DDR4))
    assert text in str(caught.value)


def test_a_refresh_rate_that_the_device_lacks_is_refused():
    timing = dataclasses.replace(dram_preset(DDR5).timing, nRFC_2x=0)
    with pytest.raises(ParameterError, match=r"\[1\], not 2"):
        limits.refresh_efficiency(timing, 2)
