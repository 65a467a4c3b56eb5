"""Simulation of a rank's delivered Verilog: module ``pim_rank`` and all below it as one model.

The chips are joined by the Verilog itself, and not by the harness as in :mod:`pimsim.rank.build`. Nothing of the text
is changed but the name of the module ``pim_chip``: a module of that name stands before it, through which the bench
reaches the command inputs of one chip alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pimspec.params.pim_rank import PimRankParams

from ..build_cache import build_in, build_root, content_key
from ..tools import cxx, run_tool, toolchain
from ..verilated import (
    PORTS,
    VERILATOR_FLAGS,
    compile_model,
    cxx_flags,
    include_flags,
    runtime_objects,
    slow_flags,
)
from .bank_model import on_each_toggle
from .build import HARNESS, glue
from .verilated import VerilatedRank

__all__ = ["WholeRankSimulator", "whole_bench"]

TOP = "rank_whole"
_SEEN = ("command", "late", "bus", "write_data", "write_mask", "chip_clear")
"""Outputs of the buffer chip, by the begin of their names, that the bench shows."""


@dataclass(frozen=True)
class _Port:
    way: str
    width: int
    name: str

    @property
    def declaration(self) -> str:
        return f"{self.way} [{self.width - 1}:0] {self.name}"


def _ports(verilog: str, module: str) -> list[_Port]:
    """Ports of a module."""
    (body,) = re.findall(rf"^module {module} ?\(.*?^endmodule", verilog, re.M | re.S)
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", body, re.M)
    return [_Port(way, int(high or 0) + 1, name) for way, high, name in found]


def whole_bench(params: PimRankParams, verilog: str) -> str:
    """Verilog of the rank with a bench around it, module :data:`TOP`.

    Parameters
    ----------
    params : PimRankParams
    verilog : str
        Text of ``pim_rank`` and of all that it has instances of.
    """
    rank, chip = _ports(verilog, "pim_rank"), _ports(verilog, "pim_chip")
    seen = [p for p in _ports(verilog, "buffer_chip") if p.way == "output" and p.name.split("__")[0] in _SEEN]
    widths = {p.name: p.width for p in chip}
    upset = [_Port("input", 1, "upset_command_valid"), _Port("input", 1, "upset_bus_valid")]
    upset += [_Port("input", widths[f"{what}__payload"], f"upset_{what}") for what in ("command", "bus")]
    number = _Port("input", 8, "upset_chip")
    text, count = re.subn(r"^module pim_chip\b", "module pim_chip_itself", verilog, flags=re.M)
    assert count == 1
    given = {p.name: p.name for p in chip}
    for what in ("command", "bus"):
        given[f"{what}__valid"] = f"{what}__valid | upset_{what}_valid"
        given[f"{what}__payload"] = f"upset_{what}_valid ? upset_{what} : {what}__payload"
    shim = [
        f"module pim_chip({', '.join(p.declaration for p in chip)});",
        *(f"  reg [{p.width - 1}:0] {p.name};" for p in upset),
        f"  pim_chip_itself itself({', '.join(f'.{name}({value})' for name, value in given.items())});",
        "endmodule",
    ]
    bench = [
        f"module {TOP}({', '.join(p.declaration for p in (*rank, *seen, number, *upset))});",
        f"  pim_rank rank({', '.join(f'.{p.name}({p.name})' for p in rank)});",
        *(f"  assign {p.name} = rank.buffer.{p.name};" for p in seen),
    ]
    for c in range(params.num_chips):
        here = f"upset_chip == {c}"
        bench += [
            f"  always @* rank.chip{c}.{p.name} = {p.name}{f' && {here}' if p.width == 1 else ''};" for p in upset
        ]
    return "\n".join([text, *shim, *bench, "endmodule", ""])


def build_whole_library(params: PimRankParams, verilog: str) -> Path:
    """Shared library of the model of a whole rank and the harness, compiled and cached."""
    text, ports = on_each_toggle(whole_bench(params, verilog)), PORTS.read_text()
    harness = (
        '#include <algorithm>\n#include <cstring>\n#include "verilated.h"\n#include "verilated_ports.h"\n'
        f'#include "V{TOP}.h"\n#define WHOLE_RANK\n#define BUFFER_TOP V{TOP}\n#define CELLS_TOP V{TOP}\n'
        f"{glue(params, whole=True)}\n{HARNESS.read_text()}"
    )
    key = content_key(text, harness, ports, toolchain(), *slow_flags(), *VERILATOR_FLAGS)

    def make(into: Path) -> None:
        (into / PORTS.name).write_text(ports)
        (into / f"{TOP}.v").write_text(text)
        (into / "rank.cpp").write_text(harness)
        models = compile_model(into, TOP, [f"{TOP}.v"], "", slow_flags())
        objects = [*models, *runtime_objects()]
        run_tool(
            [*cxx(), *cxx_flags(), *include_flags(), "-Iobj", "-shared", "rank.cpp", *map(str, objects), "-pthread",
             "-o", "rank.so"],
            cwd=into,
        )  # fmt: skip

    return build_in(build_root() / "verilated" / f"whole-{key}", "rank.so", make)


class WholeRankSimulator(VerilatedRank):
    """Delivered Verilog of a rank as a :class:`~pimspec.hostif.port.RankPort`, for short runs of small ranks.

    Its bank PUs are not shared, so its code is large. It is compiled without optimisation.

    Parameters
    ----------
    params : PimRankParams
    verilog : str
        Text of ``pim_rank.v``.
    """

    def __init__(self, params: PimRankParams, verilog: str) -> None:
        super().__init__(params, build_whole_library(params, verilog), 1)
