"""One Yosys run: Verilog text in, cell area and longest path out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pimspec.errors import ParameterError, ToolError

__all__ = ["GENERIC_LIBERTY", "NAND2_UM2_NANGATE45", "SynthesisResult", "synthesize"]

GENERIC_LIBERTY = Path(__file__).with_name("generic.lib")
NAND2_UM2_NANGATE45 = 0.798  # area of NAND2_X1 in the NanGate 45 nm open cell library, to set GE beside published um2

_RUNNER = "import sys; from pyosys import libyosys as ys; ys.run_pass('script ' + sys.argv[1], ys.Design())"
_MAP = "strash; dch -f; map -B 0.9; topo; buffer -c; upsize; dnsize; stime -p"


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """Figures of one mapped, flattened design.

    Parameters
    ----------
    area : float
        Sum of cell areas in the library's unit (GE for the generic library).
    path : float
        Longest combinational path in the library's unit as ABC prints it (NAND2 delays for the generic library,
        ps for a real one); clock-to-output and set-up of registers are not in it.
    num_cells, num_registers : int
    """

    area: float
    path: float
    num_cells: int
    num_registers: int


def synthesize(verilog: str, top: str, liberty: Path = GENERIC_LIBERTY) -> SynthesisResult:
    """Synthesize, map to `liberty`, and fail if a latch was inferred.

    Raises
    ------
    ToolError
        If pyosys is not installed, Yosys reports an error, or the design holds a latch.
    ParameterError
        If `liberty` does not exist.
    """
    if not liberty.is_file():
        raise ParameterError(f"liberty must be an existing file, not {str(liberty)!r}")
    with tempfile.TemporaryDirectory(prefix="dimmpim-yosys-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(verilog)
        (folder / "map.abc").write_text(_MAP + "\n")
        (folder / "run.ys").write_text(
            f"""
            read_verilog design.v
            synth -flatten -top {top}
            select -assert-none t:$dlatch t:$adlatch t:$dlatchsr t:$_DLATCH_* t:$_DLATCHSR_*
            dffunmap
            dfflibmap -liberty {liberty.resolve()}
            abc -liberty {liberty.resolve()} -script map.abc
            opt_clean -purge
            tee -o stat.json stat -liberty {liberty.resolve()} -json
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", _RUNNER, "run.ys"], cwd=folder, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        if "No module named 'pyosys'" in output:
            raise ToolError("pyosys is not installed: run `make venv`")
        if done.returncode != 0:
            errors = [line for line in output.splitlines() if "ERROR" in line] or output.splitlines()[-5:]
            raise ToolError(f"Yosys failed on {top}: {' '.join(errors)}")
        stat = json.loads((folder / "stat.json").read_text())["design"]
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
