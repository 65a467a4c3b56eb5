"""`dimmpim area`: synthesis figures of every unit, beside published ones."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from dimmpim.outputs import console_beside, progress_bar, write_json
from dimmpim.ranks import rank_verilog_modules
from pimspec.errors import require
from pimspec.files import read_bytes
from pimspec.params.presets import PRESETS, preset_named

from .options import json_option, preset_option
from .parameters import InputFile, command


@command()
@preset_option(help="Preset whose units to synthesize [default: all presets; tiny with --buffer-chip].", required=False)
@click.option(
    "--liberty",
    type=InputFile(),
    metavar="FILE.lib",
    help="Liberty file to map to (NanGate45, sky130, ...) [default: the generic library].",
)
@click.option(
    "--buffer-chip",
    is_flag=True,
    help="Synthesize the parts of a buffer chip with DPA controller instead; takes minutes.",
)
@json_option
def area(preset_name: str | None, liberty: Path | None, buffer_chip: bool, json_path: Path | None) -> None:
    """Synthesize every unit with Yosys, and print area, critical path and pipeline depth.

    \b
    Examples:
      dimmpim area
      dimmpim area --preset tiny --json area.json
      dimmpim area --buffer-chip --preset tiny
      dimmpim area --liberty NangateOpenCellLibrary_typical.lib
    """
    if liberty is not None:
        _require_liberty(liberty)
    if buffer_chip:
        _buffer_chip(preset_name or "tiny", liberty, json_path)
        return
    console = console_beside(json_path)
    presets = [preset_named(preset_name)] if preset_name else list(PRESETS.values())
    from pimhw.generate import unit_verilog  # noqa: PLC0415 - Amaranth is slow to import and errors should be quick
    from pimhw.synthesis.anchors import ANCHORS  # noqa: PLC0415
    from pimhw.synthesis.yosys import GENERIC_LIBERTY, NAND2_UM2_NANGATE45, synthesize  # noqa: PLC0415

    chosen = {params: name for preset in reversed(presets) for name, params in preset.units.items()}
    generic = liberty is None
    with progress_bar(console) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task("synthesis", total=len(chosen))

        def one(params, name):  # type: ignore[no-untyped-def]
            result = synthesize(unit_verilog(params, name), name, liberty or GENERIC_LIBERTY)
            progress.advance(task)
            return result

        results = list(pool.map(one, chosen.keys(), chosen.values()))

    unit, delay = ("GE", "NAND2 delays") if generic else ("library area", "ps")
    table = Table("unit", "parameters", "latency", "interval", f"area ({unit})", f"path ({delay})", "registers")
    if generic:
        table.add_column("um2 at NanGate45's NAND2")
    rows = []
    for (params, name), result in sorted(zip(chosen.items(), results, strict=True), key=lambda r: r[0][1]):
        path = result.path / 10 if generic else result.path
        text = ", ".join(f"{k} {v}" for k, v in vars(params).items())
        cells = [name, text, str(params.latency_cycles), str(params.interval_cycles), f"{result.area:,.0f}"]
        cells += [f"{path:,.1f}", str(result.num_registers)]
        cells += [f"{result.area * NAND2_UM2_NANGATE45:,.0f}"] if generic else []
        table.add_row(*cells)
        rows.append({"unit": name, "parameters": {k: str(v) for k, v in vars(params).items()}, "area": result.area,
                     "path": path, "num_registers": result.num_registers, "num_cells": result.num_cells,
                     "latency_cycles": params.latency_cycles})  # fmt: skip
    console.print(table)
    if generic:
        console.print(
            "Generic library: area in NAND2 equivalents (GE), path in delays of a NAND2 that drives one NAND2;\n"
            "register-to-register logic only, before layout."
        )
    anchors = Table("published or measured elsewhere", "technology", "area (um2)", "path (ns)", "stages")
    for anchor in ANCHORS:
        anchors.add_row(
            anchor.what,
            anchor.technology,
            f"{anchor.area_um2:,.0f}",
            f"{anchor.path_ns or ''}",
            f"{anchor.stages or ''}",
        )
    console.print(anchors)
    write_json(json_path, {"liberty": str(liberty or "generic"), "units": rows})


def _require_liberty(path: Path) -> None:
    """Check that a file describes a library with cells, which Yosys says only after minutes."""
    content = read_bytes(path, most=MOST_LIBERTY_BYTES)
    ok = re.search(rb"\blibrary\s*\(", content) and re.search(rb"\bcell\s*\(", content)
    require(bool(ok), "--liberty", str(path), "a Liberty file with cells")


MOST_LIBERTY_BYTES = 1 << 30

RANK_PU = ("softmax", "reducer", "segment_merger", "chip_port")
"""Parts of the buffer chip that compute or re-lay out: its rank PU."""


def _buffer_chip(preset_name: str, liberty: Path | None, json_path: Path | None) -> None:
    """Parts of the buffer chip of a preset, the dispatcher beside the rank PU."""
    preset = preset_named(preset_name)
    from pimhw.synthesis.yosys import GENERIC_LIBERTY, synthesize_parts  # noqa: PLC0415 - as above

    console = console_beside(json_path)
    with console.status("Verilog"):
        verilog = rank_verilog_modules(preset.rank.with_dpa())["buffer_chip"]
    with console.status("synthesis"):
        parts = synthesize_parts(verilog, "buffer_chip", liberty or GENERIC_LIBERTY)
    whole = parts["buffer_chip"]
    unit = "GE" if liberty is None else "library area"
    table = Table(
        "part", "count", f"area ({unit})", "of the chip", "memory bits", title=f"buffer chip of {preset.name}"
    )
    for name, part in sorted(parts.items(), key=lambda item: -item[1].area):
        share = f"{part.area / whole.area:.1%}"
        table.add_row(name, str(part.count), f"{part.area:,.0f}", share, f"{part.memory_bits:,}")
    console.print(table)
    rank_pu = sum(parts[name].area for name in RANK_PU)
    dispatcher = parts["dpa"].area
    console.print(
        f"DPA controller {dispatcher:,.0f}, rank PU ({', '.join(RANK_PU)}) {rank_pu:,.0f} {unit}: "
        f"ratio {dispatcher / rank_pu:.3f}.\nWithout memories of 64 words or more; mapped without a limit on the path."
    )
    write_json(json_path, {"preset": preset.name, "parts": {name: asdict(part) for name, part in parts.items()}})
