"""Latency table of a rank: equal to the measurements, and used as documented."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pimhost.systems.pim_latency import (
    TABLE_FILE,
    LatencyTable,
    MeasuredLatency,
    StreamLatency,
    latency_document,
    layer_ps,
    measured_latency,
)
from pimspec.dram import limits
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError

PRESET = "ddr4-3200-x8-8gb"
SMALL = LatencyTable(preset=PRESET, gqa_group_size=8, tokens=(10, 20, 40), first=(100, 110, 150), further=(30, 50, 90))


@pytest.fixture(scope="module")
def document():
    return json.loads(TABLE_FILE.read_text())


def test_the_file_names_its_origin(document):
    assert document["version"] == 1
    assert document["preset"] == PRESET
    assert document["made_by"] == f"dimmpim pim-latency --preset {PRESET} --backend timing"
    errors = [abs(row["relative_error"]) for row in document["checks"]]
    assert document["greatest_interpolation_error"] == max(errors) <= 0.09
    assert max(e for e, row in zip(errors, document["checks"], strict=True) if row["tokens"] >= 3000) <= 0.03


def test_the_errors_of_the_file_are_those_of_its_tables(document):
    for row in document["checks"]:
        latency = measured_latency(PRESET, row["gqa_group_size"], head_dim=128)
        clocks = int(latency.table.clocks(row["kv_heads"], np.array([row["tokens"]]))[0])
        assert clocks == row["predicted"]
        assert round(clocks / row["clocks"] - 1, 5) == row["relative_error"]


@pytest.mark.parametrize(
    ("die", "group", "kv_heads", "published"),
    [("8gb", 1, 8, 0.889), ("8gb", 8, 16, 0.770), ("16gb", 1, 8, 0.865), ("16gb", 8, 16, 0.750)],
)
def test_8192_tokens_reach_the_utilisation_of_the_readme(die, group, kv_heads, published):
    preset = f"ddr4-3200-x8-{die}"
    peak_ps = kv_heads * 8192 * 512 / limits.rank_bandwidth_bytes_per_s(dram_preset(preset)) * 1e12
    took = measured_latency(preset, group, head_dim=128).request_ps(kv_heads, np.array([8192]))[0]
    assert peak_ps / took == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize("group", [1, 8])
def test_no_rank_is_faster_than_its_limit(group):
    dram = dram_preset(PRESET)
    limit = limits.row_efficiency(dram.timing, 128) * limits.refresh_efficiency(dram.timing)
    tokens = np.array([512, 1024, 4096, 16_384, 1_000_000])
    for heads in (1, 6, 18):
        took = measured_latency(PRESET, group, head_dim=128).request_ps(heads, tokens)
        peak_ps = heads * tokens * 512 / limits.rank_bandwidth_bytes_per_s(dram) * 1e12
        assert (peak_ps / took <= limit).all()
        assert (np.diff(took) > 0).all()


def test_interpolation_equals_a_count_by_hand():
    assert SMALL.clocks(1, np.array([1, 10, 15, 20, 30, 40, 60])).tolist() == [100, 100, 105, 110, 130, 150, 190]
    assert SMALL.clocks(3, np.array([10, 15, 60])).tolist() == [160, 185, 150 + 180 + 20 * 6]
    latency = MeasuredLatency(table=SMALL, gqa_group_size=8)
    assert latency.clock_ps == 4 * 625
    assert latency.request_ps(1, np.array([20])).tolist() == [110 * 2500]
    assert MeasuredLatency(table=SMALL, gqa_group_size=16).request_ps(1, np.array([20])).tolist() == [2 * 110 * 2500]


def test_a_layer_takes_as_long_as_its_slowest_rank():
    latency = MeasuredLatency(table=SMALL, gqa_group_size=8)
    assert layer_ps(latency, 1, [[20], [10, 15], []]) == (100 + 105) * 2500
    assert layer_ps(latency, 1, []) == 0
    stream = StreamLatency(bytes_per_s=512e9)
    assert layer_ps(stream, 2, [[1000], [1, 2]]) == 2 * 1000 * 1000


@pytest.mark.parametrize(("group", "table"), [(1, 1), (2, 8), (8, 8), (16, 8)])
def test_unmeasured_query_counts_use_a_measured_table(group, table):
    assert measured_latency(PRESET, group, head_dim=128).table.gqa_group_size == table


def test_unmeasured_ranks_and_malformed_tables_are_refused(tmp_path):
    with pytest.raises(
        ParameterError, match="whose latency was measured: ddr4-3200-x8-16gb, ddr4-3200-x8-8gb, not 'tiny'"
    ):
        measured_latency("tiny", 1, head_dim=128)
    with pytest.raises(ParameterError, match="head_dim must be 128"):
        measured_latency(PRESET, 1, head_dim=64)
    with pytest.raises(ParameterError, match="first clocks must be above 0, and not falling"):
        LatencyTable.of(preset=PRESET, gqa_group_size=1, tokens=(1, 2), first=(5, 4), further=(1, 1))
    with pytest.raises(ParameterError, match="ascending"):
        LatencyTable.of(preset=PRESET, gqa_group_size=1, tokens=(2, 2), first=(5, 5), further=(1, 1))
    with pytest.raises(ParameterError, match="kv_heads must be 1 or more, not 0"):
        SMALL.clocks(0, np.array([1]))
    for text in ("{", "[]", '{"preset": "x"}', '{"preset": "x", "tables": [{}]}'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(ParameterError):
            measured_latency(PRESET, 1, head_dim=128, file=tmp_path / "t.json")


def test_a_user_table_is_used(tmp_path):
    made = latency_document([SMALL], [(8, 3, 15, 200)])
    assert made["checks"][0]["predicted"] == 185
    assert made["greatest_interpolation_error"] == 0.075
    (tmp_path / "t.json").write_text(json.dumps(made))
    assert measured_latency(PRESET, 8, head_dim=128, file=tmp_path / "t.json").table == SMALL
