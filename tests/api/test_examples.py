"""The scripts of `examples/` that use the Python API run, in seconds, and stay short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "rank_clocks.py": "bank PUs for 4 queries of a kv_head",
    "attention_on_backends.py": "RTL equals the golden model: True",
    "serve_and_compare.py": "TPOT p50",
    "write_a_program.py": "a wrong address: UNMAPPED of row 9999 at `mac tree, x3 += 4`",
    "my_own_preset.py": "refused: chips must be an even number",
}


@pytest.mark.parametrize("name", SAYS)
def test_example(name, tmp_path):
    assert len((EXAMPLES / name).read_text().splitlines()) < 40
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
