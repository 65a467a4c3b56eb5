"""`dimmpim area --buffer-chip`: every part of the buffer chip through synthesis."""

from __future__ import annotations

import json
import re

import pytest
from amaranth.hdl import Fragment
from click.testing import CliRunner

from dimmpim.cli import cli
from dimmpim.commands.area import RANK_PU
from pimhw.buffer_chip import BufferChip
from pimspec.params.presets import preset_named


@pytest.mark.slow
def test_every_part_of_the_buffer_chip_has_an_area(tmp_path):
    out = tmp_path / "area.json"
    arguments = ["area", "--buffer-chip", "--preset", "tiny", "--json", str(out)]
    result = CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    summary = re.search(
        r"DPA controller ([\d,]+), rank PU \((.*?)\) ([\d,]+) GE: ratio (\d+\.\d+)", result.output, re.S
    )
    assert summary
    dpa, rank_pu = (int(summary[n].replace(",", "")) for n in (1, 3))
    parts = json.loads(out.read_text())["parts"]
    named = " ".join(summary[2].split()).split(", ")
    assert {"softmax", "reducer", "segment_merger"} < set(named)
    assert rank_pu == pytest.approx(sum(parts[name]["area"] for name in named), abs=1)
    assert dpa == pytest.approx(parts["dpa"]["area"], abs=1)
    assert 10_000 < dpa < rank_pu
    assert float(summary[4]) == pytest.approx(dpa / rank_pu, abs=1e-3)
    whole = parts["buffer_chip"]["area"]
    assert sum(part["area"] for name, part in parts.items() if name != "buffer_chip") < whole


def test_the_rank_pu_is_made_of_parts_that_exist():
    """A part that was renamed would be missing from the sum."""
    fragment = Fragment.get(BufferChip(params=preset_named("tiny").rank.with_dpa()), None)
    assert set(RANK_PU) <= {name for _, name, *_ in fragment.subfragments}
