"""Verilator's lint on generated Verilog."""

from __future__ import annotations

import re
from pathlib import Path

from .tools import run_tool, verilator

__all__ = ["WAIVERS", "lint_warnings"]

WAIVERS = Path(__file__).with_name("lint_waivers.vlt")


def lint_warnings(source: Path, top: str) -> list[str]:
    """Warnings of ``verilator --lint-only -Wall`` beyond the waived rules; empty if there are none."""
    tool = verilator()
    output = run_tool(
        [*tool.command, "--lint-only", "-Wall", "-Wno-fatal", "--top-module", top,
         str(WAIVERS), str(source)],
        cwd=source.parent,
        env=tool.environment,
    )  # fmt: skip
    return re.findall(r"^%Warning.*$", output, flags=re.MULTILINE)
