"""Fixtures of all tests: a counter of vectors that the summary prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("DIMMPIM_BUILD_DIR", str(Path(__file__).parents[1] / "build"))  # as in the Makefile
os.environ.setdefault("DIMMPIM_CXXFLAGS", "-O1")  # RTL builds in half the time, and runs at four fifths of the speed


@pytest.fixture
def count_vectors(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """``count_vectors(what, n)``: note that `n` vectors of `what` were compared; the terminal summary adds them up."""

    def count(what: str, n: int) -> None:
        record_property("vectors", (what, n))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    totals: dict[str, int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "vectors":
                what, n = value
                totals[what] = totals.get(what, 0) + n
    if totals:
        terminalreporter.section("vectors compared without a mismatch")
        for what in sorted(totals):
            terminalreporter.write_line(f"{totals[what]:>13,}  {what}")
