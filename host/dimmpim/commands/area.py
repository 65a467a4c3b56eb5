"""`dimmpim area`: synthesis figures of every unit, beside published ones."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.table import Table

from dimmpim.outputs import console_beside, progress_bar, write_json
from dimmpim.reports.rank_area import print_rank_area
from pimspec.errors import require
from pimspec.files import read_bytes
from pimspec.params.presets import PRESETS, preset_named

from .options import json_option, preset_option
from .parameters import FiniteRange, InputFile, command, require_companion


@command()
@preset_option(help="Preset whose units to synthesize; without --rank [default: all presets].", required=False)
@click.option(
    "--liberty",
    type=InputFile(),
    metavar="FILE.lib",
    help="Liberty file to map to (NanGate45, sky130, ...) [default: the generic library].",
)
@click.option(
    "--rank",
    is_flag=True,
    help="Synthesize the chips of the rank of --preset instead, unit by unit, with DPA controller; takes minutes.",
)
@click.option(
    "--node",
    "node_nm",
    type=FiniteRange(1, 1000),
    metavar="NM",
    help="Node of the library of --liberty in nm, to set a rank's areas beside published ones [default: 45].",
)
@json_option
def area(
    preset_name: str | None, liberty: Path | None, rank: bool, node_nm: float | None, json_path: Path | None
) -> None:
    """Synthesize units with Yosys, and print area, critical path and pipeline depth, beside published figures.

    Without --rank these are the arithmetic units, and the dot product of a bank PU. With it they are all of the bank
    PU, the PIM chip and the buffer chip, memories apart, with totals per chip and rank. Figures of a rank are kept in
    the build folder, so that a second run of the same is quick.

    \b
    Examples:
      dimmpim area
      dimmpim area --preset tiny --json area.json
      dimmpim area --liberty NangateOpenCellLibrary_typical.lib
      dimmpim area --rank --preset ddr4-3200-x8-8gb
      dimmpim area --rank --preset ddr4-3200-x8-8gb --liberty NangateOpenCellLibrary_typical.lib --json area.json
      dimmpim area --rank --preset tiny --liberty sky130_fd_sc_hd__tt_025C_1v80.lib --node 130
    """
    require_companion("--rank", rank and preset_name is None, "--preset")
    require_companion("--node", node_nm is not None and not (rank and liberty), "--rank and --liberty")
    if liberty is not None:
        _require_liberty(liberty)
    if rank and preset_name is not None:
        _rank(preset_name, liberty, node_nm, json_path)
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


def _rank(preset_name: str, liberty: Path | None, node_nm: float | None, json_path: Path | None) -> None:
    """Units of the chips of a rank."""
    preset = preset_named(preset_name)
    from dimmpim.studies.rank_area import GENERIC_NODE_NM, rank_area  # noqa: PLC0415 - as above

    console = console_beside(json_path)
    with progress_bar(console) as progress:
        task = progress.add_task("Verilog", total=None)

        def show(unit: str, done: int, total: int) -> None:
            progress.update(
                task, description=f"synthesis: {unit} done" if unit else "synthesis", completed=done, total=total
            )

        figures = rank_area(preset, liberty, node_nm or GENERIC_NODE_NM, progress=show)
    print_rank_area(console, figures)
    write_json(json_path, figures.to_dict())
