"""Verilog of the bench around a rank for :class:`~pimsim.rank.cocotb.CocotbRank`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pimspec.dram.commands import Command
from pimspec.params.pim_rank import PimRankParams

__all__ = ["BENCH_TOP", "OPS_HELD", "bench_top"]

BENCH_TOP = "rank_bench_top"
PARTS = Path(__file__).with_name("rank_bench.v")
OPS_HELD = 256
"""Most commands of the host that the bench holds at a time."""
_ROWS_HELD = 4095


def _instance(module: str, name: str, parameters: dict[str, int], ports: dict[str, str]) -> str:
    given = ", ".join(f".{key}({value})" for key, value in parameters.items())
    wires = ", ".join(f".{key}({value})" for key, value in ports.items())
    return f"    {module} {f'#({given}) ' if given else ''}{name} ({wires});"


def _concatenation(parts: Iterable[str]) -> str:
    """Verilog concatenation with the first part lowest."""
    return f"{{{', '.join(reversed(list(parts)))}}}"


def bench_top(params: PimRankParams) -> str:
    """Verilog text to compile with that of ``pim_rank``; the top is :data:`BENCH_TOP`."""
    p, org, access = params, params.organization, params.access_bytes
    host = p.host_command
    slots, late = range(p.ck_per_clock), range(p.ck_per_clock - 1)
    wires = {
        "clk": 1,
        "rst": 1,
        "host_valid": p.ck_per_clock,
        "host": p.ck_per_clock * host.width,
        "host_data": 8 * p.line_bytes,
        "host_mask": p.line_bytes,
        "host_out_valid": 1,
        "host_out_data": 8 * p.line_bytes,
        "finished": 1,
        "full": p.num_chips * p.num_banks,
    }
    driver = {name: name for name in wires if name not in ("finished", "full")} | {
        "command_valid": "rank.buffer.command__valid",
        "command": "rank.buffer.command__payload",
        "late_valid": _concatenation(f"rank.buffer.late__{k}__valid" for k in late),
        "late": _concatenation(f"rank.buffer.late__{k}__payload" for k in late),
        "bus_valid": "rank.buffer.bus__valid",
        "bus": "rank.buffer.bus__payload",
        "rank_finished": "finished",
        "cells_full": "|full",
    }
    rank = {name: name for name in wires if name not in ("full", "host", "host_valid")}
    for k in slots:
        rank |= {
            f"host__{k}__valid": f"host_valid[{k}]",
            f"host__{k}__payload": f"host[{k * host.width} +: {host.width}]",
        }
    sizes = {
        "ROW_BITS": org.row_bits,
        "COLUMN_BITS": org.column_access_bits,
        "ACCESS_BYTES": access,
        "ROWS_HELD": _ROWS_HELD,
    }
    cell = {
        "en": 1,
        "write": 1,
        "row": org.row_bits,
        "column": org.column_access_bits,
        "data": 8 * access,
        "mask": access,
        "read_data": 8 * access,
    }
    cells = []
    for chip in range(p.num_chips):
        for bank in range(p.num_banks):
            port = f"cells{chip}__{bank}"
            wires |= {f"{port}__{name}": width for name, width in cell.items()}
            rank |= {f"{port}__{name}": f"{port}__{name}" for name in cell}
            ports = {"clk": "clk", **{name: f"{port}__{name}" for name in cell}}
            ports["full"] = f"full[{chip * p.num_banks + bank}]"
            cells.append(_instance("cell_array", port, sizes, ports))
    constants = {
        "HOST_BITS": host.width,
        "SLOTS": p.ck_per_clock,
        "LATE_BITS": p.chip.late.width,
        "LINE_BYTES": p.line_bytes,
        "WRITE_CLOCKS": p.chip.write_clocks,
        "COMMAND_BITS": p.chip.command.width,
        "BUS_BITS": p.chip.bus.width,
        "QUEUE_BITS": OPS_HELD.bit_length() - 1,
        "WR_CODE": int(Command.WR),
        "WRA_CODE": int(Command.WRA),
    }
    lines = [
        PARTS.read_text(),
        f"module {BENCH_TOP};",
        *(f"    wire [{width - 1}:0] {name};" for name, width in wires.items()),
        _instance("bus_driver", "driver", constants, driver),
        _instance("pim_rank", "rank", {}, rank),
        *cells,
        "endmodule",
        "",
    ]
    return "\n".join(lines)
