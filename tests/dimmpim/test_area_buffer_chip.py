"""`dimmpim area --buffer-chip`: every part of the buffer chip through synthesis."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from dimmpim.cli import cli


@pytest.mark.slow
def test_every_part_of_the_buffer_chip_has_an_area():
    result = CliRunner().invoke(cli, ["area", "--buffer-chip", "--preset", "tiny"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    summary = re.search(r"DPA controller ([\d,]+), rank PU \(.*?\) ([\d,]+) GE: ratio (\d+\.\d+)", result.output, re.S)
    assert summary
    dpa, rank_pu = (int(summary[n].replace(",", "")) for n in (1, 2))
    assert 10_000 < dpa < rank_pu
    assert float(summary[3]) == pytest.approx(dpa / rank_pu, abs=1e-3)
    for part in ("engine", "softmax", "folder", "dpa", "host_port"):
        assert re.search(rf"\b{part}\b", result.output)
