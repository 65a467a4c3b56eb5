"""Yosys synthesis: Verilog text in, cell area and longest path out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pimspec.errors import ParameterError, ToolError

__all__ = ["GENERIC_LIBERTY", "NAND2_UM2_NANGATE45", "PartArea", "SynthesisResult", "synthesize", "synthesize_parts"]

GENERIC_LIBERTY = Path(__file__).with_name("generic.lib")
NAND2_UM2_NANGATE45 = 0.798  # area of NAND2_X1 in the NanGate 45 nm open cell library, to set GE beside published um2

_RUNNER = "import sys; from pyosys import libyosys as ys; ys.run_pass('script ' + sys.argv[1], ys.Design())"
_MAP = "strash; dch -f; map -B 0.9; topo; buffer -c; upsize; dnsize; stime -p"
_NO_LATCH = "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr t:$_DLATCH_* t:$_DLATCHSR_*"
_MACRO_WORDS = 64


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """Figures of one mapped, flattened design.

    Parameters
    ----------
    area : float
        Sum of cell areas in the library's unit (GE for the generic library).
    path : float
        Longest combinational path in the library's unit as ABC prints it (NAND2 delays for the generic library, ps for
        a real one); clock-to-output and set-up of registers are not in it.
    num_cells, num_registers : int
    """

    area: float
    path: float
    num_cells: int
    num_registers: int


def synthesize(verilog: str, top: str, liberty: Path = GENERIC_LIBERTY) -> SynthesisResult:
    """Figures of a design that is synthesized and mapped to `liberty`; an inferred latch is an error.

    Raises
    ------
    ToolError
        If pyosys is not installed, Yosys reports an error, or the design holds a latch.
    ParameterError
        If `liberty` does not exist.
    """
    script = f"""
        read_verilog design.v
        synth -flatten -top {top}
        {_NO_LATCH}
        dffunmap
        dfflibmap -liberty LIBERTY
        abc -liberty LIBERTY -script map.abc
        opt_clean -purge
        tee -o stat.json stat -liberty LIBERTY -json
        """
    output, files = _run(script, verilog, top, liberty, ["stat.json"])
    stat = json.loads(files["stat.json"])["design"]
    delays = re.findall(r"Delay\s*=\s*([0-9.]+)\s*ps", output)
    if not delays:
        raise ToolError(f"ABC printed no delay for {top}")
    kinds: dict[str, int] = stat["num_cells_by_type"]
    return SynthesisResult(
        area=float(stat["area"]),
        path=max(map(float, delays)),
        num_cells=int(stat["num_cells"]),
        num_registers=sum(n for kind, n in kinds.items() if "DFF" in kind.upper()),
    )


@dataclass(frozen=True, kw_only=True)
class PartArea:
    """Figures of a part of a design, with everything inside it.

    Parameters
    ----------
    count : int
        Number of equal parts.
    area : float
        Area of all of them together, without memories.
    memory_bits : int
        Bits of all of them in memories of 64 words or more.
    """

    count: int
    area: float
    memory_bits: int


def synthesize_parts(verilog: str, top: str, liberty: Path = GENERIC_LIBERTY) -> dict[str, PartArea]:
    """Area of each module that `top` instantiates, and of `top` itself, mapped without a limit on the path.

    Memories of 64 words or more are left out, and their bits counted; smaller ones become registers.

    Raises
    ------
    ToolError, ParameterError
        As :func:`synthesize`.
    """
    script = f"""
        read_verilog design.v
        synth -top {top} -run begin:fine
        select -set macros t:$mem_v2 r:SIZE>={_MACRO_WORDS} %i r:WR_PORTS>=1 %i
        write_json before.json
        chtype -set sram_macro @macros
        synth -run fine:check
        {_NO_LATCH}
        dffunmap
        dfflibmap -liberty LIBERTY
        abc -liberty LIBERTY
        opt_clean -purge
        tee -o stat.json stat -liberty LIBERTY -json
        """
    _, files = _run(script, verilog, top, liberty, ["stat.json", "before.json"])
    cells = {name: module["cells"] for name, module in json.loads(files["before.json"])["modules"].items()}
    stat = {name.removeprefix("\\"): module for name, module in json.loads(files["stat.json"])["modules"].items()}

    def bits(module: str) -> int:
        """Memory bits in the macros of a module and of all modules below."""
        total = 0
        for cell in cells.get(module, {}).values():
            if cell["type"] == "$mem_v2":
                size, width, writes = (int(cell["parameters"][k], 2) for k in ("SIZE", "WIDTH", "WR_PORTS"))
                total += size * width if size >= _MACRO_WORDS and writes else 0
            else:
                total += bits(cell["type"])
        return total

    parts: dict[str, PartArea] = {}
    for name, count in stat[top]["num_cells_by_type"].items():
        if name in stat:
            area = float(stat[name].get("area") or 0)
            parts[name.removeprefix(f"{top}.")] = PartArea(
                count=int(count), area=count * area, memory_bits=count * bits(name)
            )
    parts[top] = PartArea(count=1, area=float(stat[top]["area"]), memory_bits=bits(top))
    return parts


def _run(script: str, verilog: str, top: str, liberty: Path, wanted: list[str]) -> tuple[str, dict[str, str]]:
    """Output of Yosys, and the files that it writes."""
    if not liberty.is_file():
        raise ParameterError(f"liberty must be an existing file, not {str(liberty)!r}")
    with tempfile.TemporaryDirectory(prefix="dimmpim-yosys-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(verilog)
        (folder / "map.abc").write_text(_MAP + "\n")
        (folder / "run.ys").write_text(script.replace("LIBERTY", str(liberty.resolve())))
        done = subprocess.run(
            [sys.executable, "-c", _RUNNER, "run.ys"], cwd=folder, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        if "No module named 'pyosys'" in output:
            raise ToolError("pyosys is not installed: pip install 'pyosys>=0.70'")
        if done.returncode != 0:
            errors = [line for line in output.splitlines() if "ERROR" in line] or output.splitlines()[-5:]
            raise ToolError(f"Yosys failed on {top}: {' '.join(errors)}")
        return output, {each: (folder / each).read_text() for each in wanted}
