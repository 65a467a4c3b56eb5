"""Build of a PIM rank's simulation: Verilator's models of its chips and the harness that joins them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path

from pimspec.dram.commands import Command
from pimspec.fields import FieldTable
from pimspec.params.pim_rank import PimRankParams

from ..build_cache import build_in, build_root, content_key
from ..tools import cxx, in_parallel, run_tool, toolchain
from ..verilated import (
    PORTS,
    VERILATOR_FLAGS,
    compile_model,
    cxx_flags,
    include_flags,
    runtime_objects,
    slow_flags,
)
from .bank_model import OBJECT_SOURCE, bank_object, bank_wrapper, on_each_toggle

__all__ = ["HARNESS", "build_rank_library", "chip_models", "glue", "host_op_type", "rank_model", "read_line_type"]

HARNESS = Path(__file__).with_name("rank_harness.cpp")


def _words(bits: int) -> int:
    return -(-bits // 32)


def glue(params: PimRankParams, *, whole: bool = False) -> str:
    """C++ text with the ports and widths of this rank; `whole` for the model of :mod:`pimsim.rank.whole`."""
    p = params
    org, chip = p.organization, p.chip
    line, access = p.line_bytes, p.access_bytes
    command, bus = chip.command, chip.bus
    words = {
        "command": command.num_words,
        "bus": bus.num_words,
        "line": _words(line * 8),
        "mask": _words(line),
        "access": _words(access * 8),
        "late": chip.late.num_words,
    }
    slots, late = range(p.ck_per_clock), range(p.ck_per_clock - 1)
    host = p.host_command
    host_sets = [f"    set_field(host, {at.offset}, {at.width}, op.{name});" for name, at in host.places.items()]
    host_puts = [
        f"    {{ uint32_t host[{host.num_words}] = {{}}; pack_host(host, ops[{k}]); "
        f"buffer->host___05F{k}___05Fvalid = ops[{k}].valid; put(buffer->host___05F{k}___05Fpayload, host, "
        f"{host.num_words}); }}"
        for k in slots
    ]
    set_late = [
        f"    top->late___05F{k}___05Fvalid = wires.late_valid[{k}]; "
        f"put(top->late___05F{k}___05Fpayload, wires.late[{k}], {words['late']});"
        for k in late
    ]
    get_late = [
        f"    wires.late_valid[{k}] = buffer->late___05F{k}___05Fvalid; "
        f"get(buffer->late___05F{k}___05Fpayload, wires.late[{k}], {words['late']});"
        for k in late
    ]

    def traced(table: FieldTable) -> str:
        names = ("code", "bank_group", "bank", "row", "column", "count", "mode")
        places = {name: table.places[name] for name in names if name in table.places}
        return "\n".join(f"    t.{name} = field(w, {at.offset}, {at.width});" for name, at in places.items())

    set_cells, get_cells = [], []
    for chip_number in range(p.num_chips) if whole else [None]:
        case = "" if chip_number is None else f"    if (number == {chip_number})\n"
        for b in range(p.num_banks):
            port = f"top->cells{'' if chip_number is None else chip_number}___05F{b}___05F"
            set_cells.append(
                f"{case}    {{ uint32_t w[{words['access']}]; std::memcpy(w, ports[{b}].read_data, {access}); "
                f"put({port}read_data, w, {words['access']}); }}"
            )
            get_cells.append(
                f"{case}    {{ CellPort& c = ports[{b}]; if ((c.en = {port}en)) {{ c.row = {port}row; "
                f"c.column = {port}column; if ((c.write = {port}write)) {{ c.mask = {port}mask; "
                f"uint32_t w[{words['access']}]; get({port}data, w, {words['access']}); "
                f"std::memcpy(c.data, w, {access}); }} }} }}"
            )
    return f"""
#define NUM_CHIPS {p.num_chips}
#define NUM_BANKS {p.num_banks}
#define BANKS_PER_GROUP {org.banks_per_group}
#define LINE_BYTES {line}
#define ACCESS_BYTES {access}
#define ROW_BYTES {org.page_bytes}
#define WRITE_CLOCKS {chip.write_clocks}
#define NUM_SLOTS {p.ck_per_clock}
#define BUS_PHASE {p.engine.bus_phase_ck}
#define WRITE_CODE {int(Command.WR)}
#define WRITE_AND_CLOSE_CODE {int(Command.WRA)}
#define READ_RESULT_CODE {int(Command.PIM_RD_RB)}
#define WRITE_BUFFER_CODE {int(Command.PIM_WR_SB)}
struct Wires {{
    int32_t bus_bank;
    bool rst, command_valid, bus_valid, bus_read, out_valid, finished, clear;
    uint32_t command[{words["command"]}], bus[{words["bus"]}], write_data[{words["line"]}], write_mask[{words["mask"]}];
    uint32_t read_data[{words["line"]}], status, late[NUM_SLOTS][{words["late"]}];
    bool late_valid[NUM_SLOTS];
}};
struct SlotOp {{ bool valid; int32_t code, bank, row, column; }};
struct CellPort {{ bool en, write; uint32_t row, column, mask; uint8_t data[{access}], read_data[{access}]; }};
#define UPSET_WORDS {max(words["command"], words["bus"])}
#ifdef WHOLE_RANK
template <class Upset> static void set_upset(BUFFER_TOP* top, const Upset& upset) {{
    top->upset_chip = upset.chip;
    top->upset_command_valid = !upset.bus;
    top->upset_bus_valid = upset.bus;
    put(top->upset_command, upset.words, {words["command"]});
    put(top->upset_bus, upset.words, {words["bus"]});
}}
#else
template <class Upset> static void set_upset(CHIP_TOP* top, const Upset& upset) {{
    if (upset.bus) {{ top->bus___05Fvalid = 1; put(top->bus___05Fpayload, upset.words, {words["bus"]}); }}
    else {{ top->command___05Fvalid = 1; put(top->command___05Fpayload, upset.words, {words["command"]}); }}
}}
static void set_chip(CHIP_TOP* top, const Wires& wires, int number) {{
    top->rst = wires.rst;
    top->command___05Fvalid = wires.command_valid;
    top->bus___05Fvalid = wires.bus_valid;
    put(top->command___05Fpayload, wires.command, {words["command"]});
    put(top->bus___05Fpayload, wires.bus, {words["bus"]});
    put(top->dq_in___05Fdata, wires.write_data + number * {words["access"]}, {words["access"]});
    top->dq_in___05Fmask = field(wires.write_mask, number * {access}, {access});
{chr(10).join(set_late)}
    top->status_clear = wires.clear;
}}
static void get_chip(const CHIP_TOP* top, Wires& wires, int number) {{
    get(top->dq_out___05Fdata, wires.read_data + number * {words["access"]}, {words["access"]});
    wires.status = (number ? wires.status : 0) | top->status;
}}
#endif
static void set_cells(CELLS_TOP* top, int number, const CellPort* ports) {{
{chr(10).join(set_cells)}
}}
static void get_cells(const CELLS_TOP* top, int number, CellPort* ports) {{
{chr(10).join(get_cells)}
}}
static void pack_host(uint32_t* host, const SlotOp& op) {{
{chr(10).join(host_sets)}
}}
template <class Op>
static void set_buffer(BUFFER_TOP* buffer, const Wires& wires, const SlotOp* ops, const Op& line) {{
    uint32_t data[{words["line"]}], mask[{words["mask"]}] = {{}};
{chr(10).join(host_puts)}
    std::memcpy(data, line.data, {line});
    std::memcpy(mask, line.mask, {-(-line // 8)});
    put(buffer->host_data, data, {words["line"]});
    put(buffer->host_mask, mask, {words["mask"]});
#ifndef WHOLE_RANK
    put(buffer->read_data, wires.read_data, {words["line"]});
    buffer->chip_status = wires.status;
#endif
}}
static void get_buffer(const BUFFER_TOP* buffer, Wires& wires) {{
    wires.command_valid = buffer->command___05Fvalid;
    wires.bus_valid = buffer->bus___05Fvalid;
    get(buffer->command___05Fpayload, wires.command, {words["command"]});
    get(buffer->bus___05Fpayload, wires.bus, {words["bus"]});
    get(buffer->write_data, wires.write_data, {words["line"]});
    get(buffer->write_mask, wires.write_mask, {words["mask"]});
{chr(10).join(get_late)}
    wires.bus_read = field(wires.bus, {bus.places["read"].offset}, 1);
    wires.bus_bank = field(wires.bus, {bus.places["bank"].offset}, {bus.places["bank"].width});
    wires.out_valid = buffer->host_out_valid;
    wires.finished = buffer->finished;
    wires.clear = buffer->chip_clear;
}}
template <class Trace> static void get_trace(const Wires& wires, Trace& t) {{
    const uint32_t* w = wires.command;
{traced(command)}
}}
template <class Trace> static void get_late_trace(const Wires& wires, int k, Trace& t) {{
    const uint32_t* w = wires.late[k];
{traced(chip.late)}
    t.count = 1;
}}
static void get_line(const BUFFER_TOP* buffer, uint8_t* bytes) {{
    uint32_t w[{words["line"]}];
    get(buffer->host_out_data, w, {words["line"]});
    std::memcpy(bytes, w, {line});
}}
"""


def build_rank_library(params: PimRankParams, modules: Mapping[str, str]) -> Path:
    """Shared library of a rank's models and the harness, compiled and cached.

    Parameters
    ----------
    params : PimRankParams
    modules : mapping of module name to Verilog text
        ``buffer_chip``, ``pim_chip`` and ``bank_pu``, each without the modules that it instantiates.

    Notes
    -----
    Each model is translated and compiled separately, so that a change of one leaves the others alone. All outputs of
    the chips depend on registers alone, so each model is evaluated once a clock, and all at the same time.
    """
    jobs: list[Callable[[], tuple[Path, ...]]] = [
        lambda: (rank_model("buffer_chip", modules["buffer_chip"], {}, {}),),
        lambda: chip_models(modules),
        lambda: tuple(runtime_objects()),
    ]
    (buffer,), (chip, bank), runtime = in_parallel(jobs)
    text, harness, ports = glue(params), HARNESS.read_text(), PORTS.read_text()
    key = content_key(text, harness, ports, toolchain(), *(model.parent.name for model in (buffer, chip, bank)))
    folder = build_root() / "verilated" / f"rank-{key}"

    def make(into: Path) -> None:
        (into / "verilated_ports.h").write_text(ports)
        (into / "rank.cpp").write_text(
            '#include <algorithm>\n#include <cstring>\n#include "verilated.h"\n#include "verilated_ports.h"\n'
            '#include "Vbuffer_chip.h"\n#include "Vpim_chip.h"\n'
            "#define BUFFER_TOP Vbuffer_chip\n#define CHIP_TOP Vpim_chip\n#define CELLS_TOP Vpim_chip\n"
            f"{text}\n{harness}"
        )
        headers = [f"-I{model.parent / 'obj'}" for model in (buffer, chip)]
        objects = [*runtime, buffer, chip, bank]
        run_tool(
            [*cxx(), *cxx_flags(), *include_flags(), *headers, "-shared", "rank.cpp", *map(str, objects), "-pthread",
             "-o", "rank.so"],
            cwd=into,
        )  # fmt: skip

    return build_in(folder, "rank.so", make)


def chip_models(modules: Mapping[str, str]) -> tuple[Path, Path]:
    """Object files of the models of a chip and of its bank PU, to be linked together; see :func:`build_rank_library`.

    The headers of each are in ``obj`` beside it; the class of the chip is ``Vpim_chip``. Each change of `clk` is a
    clock. See :mod:`pimsim.rank.bank_model`.
    """
    verilog = modules["bank_pu"]
    objects = {PORTS.name: PORTS.read_text(), OBJECT_SOURCE: bank_object(verilog)}
    bank = rank_model("bank_pu", verilog, {}, objects)
    return rank_model("pim_chip", modules["pim_chip"], {"bank_pu.sv": bank_wrapper(verilog)}, {}), bank


def rank_model(top: str, verilog: str, modules: Mapping[str, str], sources: Mapping[str, str]) -> Path:
    """Object file with the model of `top`, with its headers in ``obj`` beside it.

    `modules` are further modules that it instantiates, `sources` C++ to compile with it.
    """
    verilog = on_each_toggle(verilog)
    key = content_key(verilog, *modules.values(), *sources.values(), toolchain(), *slow_flags(), *VERILATOR_FLAGS)
    folder = build_root() / "verilated" / f"{top}-{key}"

    def make(into: Path) -> None:
        for name, text in {f"{top}.v": verilog, **modules, **sources}.items():
            (into / name).write_text(text)
        text = "".join(f'#include "{name}"\n' for name in sources if name.endswith(".cpp"))
        parts = compile_model(into, top, [*modules, f"{top}.v"], text)
        run_tool([*cxx(), "-r", "-nostdlib", *map(str, parts), "-o", f"{top}.o"], cwd=into)
        for path in [*parts, *(path for path in (into / "obj").iterdir() if path.suffix != ".h")]:
            path.unlink()

    return build_in(folder, f"{top}.o", make)


def host_op_type(params: PimRankParams) -> type[ctypes.Structure]:
    """Type of the harness's struct HostOp."""
    line = params.line_bytes

    class HostOp(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int32) for name in ("wait", "code", "bank", "row", "column", "phase")),
            ("data", ctypes.c_uint8 * line),
            ("mask", ctypes.c_uint8 * (-(-line // 8))),
        )

    return HostOp


def read_line_type(params: PimRankParams) -> type[ctypes.Structure]:
    """Type of the harness's struct ReadLine."""

    class ReadLine(ctypes.Structure):
        _fields_ = (("clock", ctypes.c_int64), ("data", ctypes.c_uint8 * params.line_bytes))

    return ReadLine
