"""Length of files: at most 400 lines, or a reason in the file itself."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 400
REASONS = ("file is long because", "Long because")
FILES = [
    path
    for folder in ("hw", "sim", "host", "tests", "examples")
    for pattern in ("*.py", "*.h", "*.cpp", "*.v")
    for path in sorted((ROOT / folder).rglob(pattern))
]


@pytest.mark.parametrize("path", [p for p in FILES if len(p.read_text().splitlines()) > MOST], ids=lambda p: p.name)
def test_a_long_file_says_why(path):
    assert any(reason in "\n".join(path.read_text().splitlines()[:14]) for reason in REASONS)


def test_there_are_files():
    assert len(FILES) > 300
