"""Generated Verilog of a whole rank."""

from __future__ import annotations

import re
from pathlib import Path

from pimhw.pim_rank import rank_verilog
from pimhw.pim_rank_dfi import rank_dfi_verilog
from pimsim.lint import lint_warnings
from pimspec.hostif.dfi import DfiParams
from pimspec.params.presets import preset_named


def test_verilog_is_silent_deterministic_and_names_no_machine(tmp_path):
    params = preset_named("tiny").rank
    text = rank_verilog(params)
    (tmp_path / "pim_rank.v").write_text(text)
    assert lint_warnings(tmp_path / "pim_rank.v", "pim_rank") == []
    assert rank_verilog(params) == text
    assert str(Path.cwd()) not in text
    assert not re.search(r'\(\* *src *=|\.py:\d+|"/|/home/|/root/', text)
    for module in ("bank_pu", "pim_chip", "buffer_chip", "pim_rank"):
        assert len(re.findall(rf"^module {module}\(", text, re.MULTILINE)) == 1


def test_verilog_with_a_dfi_is_silent(tmp_path):
    params = DfiParams(rank=preset_named("tiny").rank.with_dpa())
    text = rank_dfi_verilog(params)
    (tmp_path / "pim_rank_dfi.v").write_text(text)
    assert lint_warnings(tmp_path / "pim_rank_dfi.v", "pim_rank_dfi") == []
    for k in range(params.num_phases):
        assert f"phases__{k}__rddata_valid" in text
