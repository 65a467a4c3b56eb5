"""Rank behind a memory controller in Verilog: the host works on the controller's user port."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimspec.hostif.dfi import DfiParams
from pimspec.params.pim_rank import PimRankParams

from ..build_cache import build_in, build_root, content_key
from ..tools import cxx, run_tool, toolchain
from ..verilated import PORTS, VERILATOR_FLAGS, compile_model, cxx_flags, include_flags, runtime_objects, slow_flags
from .build import HARNESS, chip_models, glue, rank_model
from .verilated import VerilatedRank

__all__ = ["ControlledRank", "ControllerVerilog", "UserOpKind"]

TOP = "controller_side"
HARNESS_PART = Path(__file__).with_name("controller_harness.h")
_CONTROLLER_OUTPUTS = (
    *("cs_n", "act_n", "ras_n", "cas_n", "we_n", "cke", "odt", "reset_n", "address", "bank"),
    *("wrdata", "wrdata_en", "wrdata_mask", "rddata_en"),
)


class UserOpKind(IntEnum):
    """Kind of an operation on the user port."""

    READ = 0
    WRITE = 1
    CSR = 2
    """Write `value` to register `address`."""
    WAIT = 3
    """Let `value` clocks pass."""


@dataclass(frozen=True, kw_only=True)
class ControllerVerilog:
    """Verilog of a memory controller.

    Its ports are `sys_clk`, `sys_rst`; of DFI ``dfi_p<phase>_<signal>``; of the user ``user_cmd_valid``, ``_ready``,
    ``_we``, ``_addr``, ``user_wdata_ready``, ``_data``, ``_we``, ``user_rdata_valid``, ``_data``; and of the registers
    ``csr_adr``, ``csr_we``, ``csr_dat_w``.

    Parameters
    ----------
    text : str
    module : str
        Name of the module.
    address_bits, csr_address_bits : int
        Widths of a line number and of a register number.
    """

    text: str
    module: str
    address_bits: int
    csr_address_bits: int


def controller_side(params: DfiParams, controller: ControllerVerilog, front_end: str) -> str:
    """Verilog of the controller and the front end ``dfi_front_end``, module :data:`TOP`."""
    rank, line = params.rank, params.rank.line_bytes
    widths = {"address": params.address_bits, "bank": params.bank_bits, "wrdata": params.data_bits}
    widths |= {"wrdata_mask": params.data_bits // 8, "rddata": params.data_bits}
    wires, core, front = [], {}, {"clk": "clk", "rst": "rst"}
    for k in range(params.num_phases):
        for name in (*_CONTROLLER_OUTPUTS, "rddata", "rddata_valid"):
            wire = f"p{k}_{name}"
            wires.append(f"  wire [{widths.get(name, 1) - 1}:0] {wire};")
            core[f"dfi_p{k}_{name}"] = wire
            front[f"phases__{k}__{name}"] = wire
        for name in ("valid", "payload"):
            front[f"host__{k}__{name}"] = f"host__{k}__{name}"
    ports = {
        "input clk": 1, "input rst": 1, "input user_cmd_valid": 1, "output user_cmd_ready": 1, "input user_cmd_we": 1,
        "input user_cmd_addr": controller.address_bits, "output user_wdata_ready": 1,
        "input user_wdata_data": 8 * line, "input user_wdata_we": line, "output user_rdata_valid": 1,
        "output user_rdata_data": 8 * line, "input csr_adr": controller.csr_address_bits, "input csr_we": 1,
        "input csr_dat_w": 32, "output host_data": 8 * line, "output host_mask": line, "input host_out_valid": 1,
        "input host_out_data": 8 * line,
    }  # fmt: skip
    for k in range(params.num_phases):
        ports |= {f"output host__{k}__valid": 1, f"output host__{k}__payload": rank.host_command.width}
    names = [port.split()[1] for port in ports]
    core |= {"sys_clk": "clk", "sys_rst": "rst"} | {n: n for n in names if n.startswith(("user_", "csr_"))}
    front |= {n: n for n in names if n.startswith("host_") and not n.startswith("host__")}

    def instance(module: str, given: Mapping[str, str]) -> str:
        return f"  {module} {module}_0({', '.join(f'.{port}({wire})' for port, wire in given.items())});"

    declared = ", ".join(
        f"{way} [{width - 1}:0] {name}" for (way, name), width in ((p.split(), w) for p, w in ports.items())
    )
    lines = [f"module {TOP}({declared});", *wires, instance(controller.module, core), instance("dfi_front_end", front)]
    return "\n".join([controller.text, front_end, *lines, "endmodule", ""])


def _controller_glue(params: DfiParams) -> str:
    """C++ functions between the ports of :data:`TOP` and ``controller_harness.h``."""
    rank, line = params.rank, params.rank.line_bytes
    words, mask_words, host = -(-line * 8 // 32), -(-line // 32), rank.host_command
    places = "; ".join(f"s.{name} = field(w, {at.offset}, {at.width})" for name, at in host.places.items())
    slots = "\n".join(
        f"    {{ uint32_t w[{host.num_words}]; get(top->host___05F{k}___05Fpayload, w, {host.num_words}); "
        f"auto& s = slots[{k}]; s.valid = top->host___05F{k}___05Fvalid; {places}; }}"
        for k in range(params.num_phases)
    )
    return f"""
struct UserSignals;
template <class Signals> static void set_user(CONTROLLER_TOP* top, const Signals& s) {{
    top->user_cmd_valid = s.command_valid;
    top->user_cmd_we = s.command_write;
    top->user_cmd_addr = s.address;
    top->csr_we = s.csr_write;
    top->csr_adr = s.csr_address;
    top->csr_dat_w = s.csr_value;
    uint32_t data[{words}], mask[{mask_words}] = {{}};
    std::memcpy(data, s.line->data, {line});
    std::memcpy(mask, s.line->mask, {-(-line // 8)});
    for (int k = 0; k < {mask_words}; ++k) mask[k] = ~mask[k];
    put(top->user_wdata_data, data, {words});
    put(top->user_wdata_we, mask, {mask_words});
}}
template <class Signals> static void get_user(const CONTROLLER_TOP* top, Signals& s) {{
    s.command_ready = top->user_cmd_ready;
    s.write_ready = top->user_wdata_ready;
    s.read_valid = top->user_rdata_valid;
    uint32_t data[{words}];
    get(top->user_rdata_data, data, {words});
    std::memcpy(s.read_data, data, {line});
}}
static void set_host_line(CONTROLLER_TOP* top, bool valid, const uint8_t* bytes) {{
    uint32_t data[{words}];
    std::memcpy(data, bytes, {line});
    top->host_out_valid = valid;
    put(top->host_out_data, data, {words});
}}
template <class Slots, class Line> static void get_host(const CONTROLLER_TOP* top, Slots& slots, Line& line) {{
    uint32_t data[{words}], mask[{mask_words}];
    get(top->host_data, data, {words});
    get(top->host_mask, mask, {mask_words});
    std::memcpy(line.data, data, {line});
    std::memcpy(line.mask, mask, {-(-line // 8)});
{slots}
}}
"""


def build_controlled_library(
    params: DfiParams, modules: Mapping[str, str], controller: ControllerVerilog, front_end: str
) -> Path:
    """Shared library of a rank's models, a controller, and the harness, compiled and cached."""
    text = controller_side(params, controller, front_end)
    parts, ports = HARNESS_PART.read_text(), PORTS.read_text()
    buffer = rank_model("buffer_chip", modules["buffer_chip"], {}, {})
    (chip, bank), runtime = chip_models(modules), runtime_objects()
    source = (
        '#include <algorithm>\n#include <cstring>\n#include "verilated.h"\n#include "verilated_ports.h"\n'
        f'#include "Vbuffer_chip.h"\n#include "Vpim_chip.h"\n#include "V{TOP}.h"\n'
        "#define BUFFER_TOP Vbuffer_chip\n#define CHIP_TOP Vpim_chip\n#define CELLS_TOP Vpim_chip\n"
        f"#define CONTROLLER_TOP V{TOP}\n{glue(params.rank)}\n{_controller_glue(params)}\n{HARNESS.read_text()}"
    )
    names = [model.parent.name for model in (buffer, chip, bank)]
    key = content_key(text, source, parts, ports, toolchain(), *slow_flags(), *VERILATOR_FLAGS, *names)

    def make(into: Path) -> None:
        for name, content in (
            (PORTS.name, ports),
            (HARNESS_PART.name, parts),
            (f"{TOP}.v", text),
            ("rank.cpp", source),
        ):
            (into / name).write_text(content)
        models = compile_model(into, TOP, [f"{TOP}.v"], "")
        headers = [f"-I{model.parent / 'obj'}" for model in (buffer, chip)]
        objects = [*models, *runtime, buffer, chip, bank]
        run_tool(
            [*cxx(), *cxx_flags(), *include_flags(), "-Iobj", *headers, "-shared", "rank.cpp", *map(str, objects),
             "-pthread", "-o", "rank.so"],
            cwd=into,
        )  # fmt: skip

    return build_in(build_root() / "verilated" / f"controlled-{key}", "rank.so", make)


def user_op_type(params: PimRankParams) -> type[ctypes.Structure]:
    """Type of the harness's struct UserOp."""
    line = params.line_bytes

    class UserOp(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int32) for name in ("kind", "address", "value", "unused")),
            ("data", ctypes.c_uint8 * line),
            ("mask", ctypes.c_uint8 * (-(-line // 8))),
        )

    return UserOp


class ControlledRank(VerilatedRank):
    """Rank behind a memory controller, as a :class:`~pimspec.hostif.port.RankPort` whose host is the user port.

    Lines that are read come from the controller. :meth:`enqueue` of the base has no effect.

    Parameters
    ----------
    params : DfiParams
    modules : mapping of module name to Verilog text
        Modules from ``pimhw.pim_rank.rank_modules``.
    controller : ControllerVerilog
    front_end : str
        Verilog text of the module ``dfi_front_end``.
    """

    def __init__(
        self, params: DfiParams, modules: Mapping[str, str], controller: ControllerVerilog, front_end: str
    ) -> None:
        self.user_op_dtype = np.dtype(user_op_type(params.rank))
        super().__init__(params.rank, build_controlled_library(params, modules, controller, front_end), 1)
        self._library.rank_user.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]

    def user(self, ops: NDArray[np.void]) -> None:
        """Queue operations on the user port: kind, address, value, data and mask (1 keeps a byte)."""
        self._library.rank_user(self._handle, ops.ctypes.data, len(ops))
