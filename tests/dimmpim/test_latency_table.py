"""`dimmpim pim-latency`, with a rank whose clocks follow a formula in place of the RTL."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from dimmpim.cli import main
from dimmpim.studies import pim_latency as latency_table
from dimmpim.studies.pim_latency import measure_table
from pimhost.systems.pim_latency import TABLE_FILE
from pimspec.params.presets import preset_named

SHIPPED = sorted(TABLE_FILE.parent.glob("pim_latency*.json"))


@pytest.fixture
def ranks(monkeypatch):
    """(preset, queries, kv_heads, tokens) of all measurements."""
    asked = []

    @contextmanager
    def measurement(preset, group, backend, threads):
        def clocks(kv_heads, tokens):
            asked.append((preset.name, group, kv_heads, tokens))
            return 500 + group * 10 + kv_heads * (100 + tokens) - (tokens == 512) * 300

        yield clocks

    monkeypatch.setattr(latency_table, "_measurement", measurement)
    return asked


def test_a_table_is_measured_and_written(ranks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["pim-latency", "--preset", "ddr4-3200-x8-16gb", "--out", "t.json"])
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["made_by"] == "dimmpim pim-latency --preset ddr4-3200-x8-16gb --backend timing"
    assert {(name, group) for name, group, _, _ in ranks} == {("ddr4-3200-x8-16gb", 1), ("ddr4-3200-x8-16gb", 8)}
    table = document["tables"][1]
    assert table["gqa_group_size"] == 8
    at = dict(zip(table["tokens"], zip(table["first_kv_head"], table["further_kv_head"], strict=True), strict=True))
    assert at[128] == (580 + 100 + 128, 228)
    assert at[512] == (580 + 100 + 384, 612)  # 892 was measured, less than with 384 tokens
    assert at[16_384] == (580 + 16_484, 16_484)
    exact = [row for row in document["checks"] if row["tokens"] > 1024]
    assert len(exact) == 8
    assert all(abs(row["relative_error"]) < 1e-3 for row in exact)
    assert "12,000" in capsys.readouterr().out


def test_refusals_write_nothing(ranks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["--preset", "none"], ["--out", "no/t.json"]):
        with pytest.raises(SystemExit) as ended:
            main(["pim-latency", *arguments])
        assert ended.value.code == 2
    assert ranks == list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_timing_model_gives_what_was_measured(path):
    """Every clock of the tables (those of 8 Gb dies measured on RTL) and of the checks."""
    document = json.loads(path.read_text())
    again = measure_table(preset_named(document["preset"]), backend="timing")
    for what in ("tables", "checks", "greatest_interpolation_error"):
        assert again[what] == document[what]


def test_both_dies_have_a_table():
    assert [json.loads(path.read_text())["preset"] for path in SHIPPED] == ["ddr4-3200-x8-8gb", "ddr4-3200-x8-16gb"]
