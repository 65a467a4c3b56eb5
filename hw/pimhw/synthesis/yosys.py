"""Yosys synthesis: Verilog text in, cell area and longest path out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pimspec.errors import ParameterError, ToolError

__all__ = ["GENERIC_LIBERTY", "NAND2_UM2_NANGATE45", "SynthesisResult", "UnitArea", "synthesize", "synthesize_unit"]

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
class UnitArea:
    """Figures of one unit, flattened, without its memories.

    Parameters
    ----------
    area : float
        Sum of cell areas in the library's unit (GE for the generic library).
    path : float
        As in :class:`SynthesisResult`, from and to registers, ports and memories; 0 without logic.
    num_registers : int
    memory_bits : int
        Bits of memories of 64 words or more, and of those of 16 words of 64 bits or more.
    """

    area: float
    path: float
    num_registers: int
    memory_bits: int


def synthesize_unit(verilog: str, top: str, liberty: Path = GENERIC_LIBERTY, *, black_boxes: str = "") -> UnitArea:
    """Figures of `top` with all that is below it, but the modules of the text `black_boxes`.

    Memories large enough for a macro are counted in bits, and end paths as registers do; others become registers.

    Raises
    ------
    ToolError, ParameterError
        As :func:`synthesize`.
    """
    script = f"""
        {"read_verilog -lib black_boxes.v" if black_boxes else ""}
        read_verilog design.v
        synth -flatten -top {top} -run begin:fine
        select -set deep t:$mem_v2 r:SIZE>={_MACRO_WORDS} %i r:WR_PORTS>=1 %i
        select -set wide t:$mem_v2 r:SIZE>=16 %i r:WIDTH>=64 %i r:WR_PORTS>=1 %i
        select -set macros @deep @wide %u
        dump -o macros.txt @macros
        chtype -set sram_macro @macros
        synth -noabc -run fine:check
        {_NO_LATCH}
        dffunmap
        dfflibmap -liberty LIBERTY
        abc -liberty LIBERTY -script map.abc
        opt_clean -purge
        tee -o stat.json stat -liberty LIBERTY -json
        """
    extra = {"black_boxes.v": black_boxes} if black_boxes else {}
    output, files = _run(script, verilog, top, liberty, ["stat.json", "macros.txt"], extra)
    stat = json.loads(files["stat.json"])["design"]
    delays = re.findall(r"Delay\s*=\s*([0-9.]+)\s*ps", output)
    kinds: dict[str, int] = stat.get("num_cells_by_type", {})
    sizes = [re.findall(rf"parameter \\{name} (?:32'([01]+)|(\d+))", files["macros.txt"]) for name in ("SIZE", "WIDTH")]
    numbers = [[int(bits, 2) if bits else int(decimal) for bits, decimal in each] for each in sizes]
    return UnitArea(
        area=float(stat.get("area") or 0),
        path=max(map(float, delays), default=0.0),
        num_registers=sum(n for kind, n in kinds.items() if "DFF" in kind.upper()),
        memory_bits=sum(words * width for words, width in zip(*numbers, strict=True)),
    )


def _run(
    script: str,
    verilog: str,
    top: str,
    liberty: Path,
    wanted: list[str],
    extra: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, dict[str, str]]:
    """Output of Yosys, and the files that it writes; `extra` files are there beside the design."""
    if not liberty.is_file():
        raise ParameterError(f"liberty must be an existing file, not {str(liberty)!r}")
    with tempfile.TemporaryDirectory(prefix="dimmpim-yosys-") as name:
        folder = Path(name)
        for file, text in {"design.v": verilog, **extra}.items():
            (folder / file).write_text(text)
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
