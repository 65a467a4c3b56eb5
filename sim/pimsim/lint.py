"""Verilator's lint on generated Verilog."""

from __future__ import annotations

import re
from pathlib import Path

from .tools import run_tool, verilator_root

__all__ = ["WAIVERS", "lint_warnings"]

WAIVERS = Path(__file__).with_name("lint_waivers.vlt")


def lint_warnings(source: Path, top: str) -> list[str]:
    """Warnings of ``verilator --lint-only -Wall`` beyond the waived rules; empty if there are none."""
    root = verilator_root()
    output = run_tool(
        [str(root / "bin" / "verilator_bin"), "--lint-only", "-Wall", "-Wno-fatal", "--top-module", top,
         str(WAIVERS), str(source)],
        cwd=source.parent,
        env={"VERILATOR_ROOT": str(root / "share" / "verilator")},
    )  # fmt: skip
    return re.findall(r"^%Warning.*$", output, flags=re.MULTILINE)
