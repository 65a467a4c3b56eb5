"""`dimmpim bench`: speeds of the generator and of each way to drive the hardware, in one run on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pimspec.errors import ParameterError
from pimspec.params.presets import preset_named

from .options import preset_option
from .parameters import command


@command()
@preset_option("ddr4-3200-x8-8gb")
@click.option(
    "--unit", "unit_name", default="dot", show_default=True, metavar="UNIT", help="Unit of the preset to measure."
)
@click.option("--ranks/--no-ranks", default=True, show_default=True, help="Measurement of whole ranks.")
@click.option("--units/--no-units", default=True, show_default=True, help="Measurement of the unit and the generator.")
def bench(preset_name: str, unit_name: str, ranks: bool, units: bool) -> None:
    """Measure simulation speed of a unit and of whole ranks under each harness, and the time to generate a preset.

    The first build of the ranks takes some minutes; the build cache keeps it.

    \b
    Examples:
      dimmpim bench --preset tiny --unit fp32_add
      dimmpim bench --no-units
    """
    console = Console()
    if not (units or ranks):
        raise ParameterError("--no-ranks and --no-units leave nothing to measure")
    if units:
        _measure_unit(console, preset_name, unit_name)
    if ranks:
        _measure_ranks(console)


def _measure_unit(console: Console, preset_name: str, unit_name: str) -> None:
    preset = preset_named(preset_name)
    params = preset.unit(unit_name)
    from pimhw.generate import unit_verilog, write_unit  # noqa: PLC0415 - Amaranth is slow to import
    from pimhw.units import make_unit  # noqa: PLC0415
    from pimsim.cocotb_run import run_bench  # noqa: PLC0415
    from pimsim.pysim import run_pysim  # noqa: PLC0415
    from pimsim.stimulus import stimulus  # noqa: PLC0415
    from pimsim.tools import icarus_available  # noqa: PLC0415
    from pimsim.verify import expected_results  # noqa: PLC0415
    from pimsim.verilated import VerilatedUnit  # noqa: PLC0415

    start = time.perf_counter()
    for name, unit_params in preset.units.items():
        unit_verilog(unit_params, name)
    generation = time.perf_counter() - start

    def results_of(count: int) -> tuple[dict, int]:
        operands = stimulus(params, count, seed=1)
        return operands, len(next(iter(expected_results(params, operands).values())))

    rows: list[tuple[str, int, float]] = []
    operands, num_results = results_of(400_000)
    verilog = unit_verilog(params, unit_name)
    with VerilatedUnit(verilog=verilog, top=unit_name, inputs=params.inputs, outputs=params.outputs) as unit:
        start = time.perf_counter()
        run = unit.run(operands, num_results)
        rows.append(("Verilator, C++ stream harness", int(run.delivered_at[-1]), time.perf_counter() - start))
    operands, num_results = results_of(500)
    start = time.perf_counter()
    run = run_pysim(make_unit(params), params, operands, num_results)
    rows.append(("Amaranth pysim", int(run.delivered_at[-1]), time.perf_counter() - start))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, sidecar = write_unit(params, unit_name, folder)
        for simulator, count in (("verilator", 5000), ("icarus", 500)):
            if simulator == "icarus" and not icarus_available():
                continue
            environment = {"DIMMPIM_SIDECAR": str(sidecar), "DIMMPIM_VECTORS": str(count), "DIMMPIM_SEED": "1"}
            outcome = run_bench(
                simulator=simulator, sources=[source], top=unit_name, bench="pimsim.benches.unit_bench",
                folder=folder, environment=environment,
            )  # fmt: skip
            rows.append((f"cocotb, every clock in Python, {simulator}", *outcome.clocks_and_seconds(clock_ns=2)))
    table = Table("harness", "clocks", "seconds", "clocks/s", "ratio to the slowest")
    slowest = min(clocks / seconds for _, clocks, seconds in rows)
    for what, clocks, seconds in rows:
        rate = clocks / seconds
        table.add_row(what, f"{clocks:,}", f"{seconds:.2f}", f"{rate:,.0f}", f"{rate / slowest:,.1f}")
    console.print(f"{preset.name}, unit {unit_name} {params}")
    console.print(table)
    console.print(f"Verilog of all {len(preset.units)} units of the preset: {generation:.1f} s")


def _measure_ranks(console: Console) -> None:
    """The small rank under each harness, as ratios to the slowest, and the full rank under the fast one."""
    from dimmpim.studies.rank_speed import (  # noqa: PLC0415 - slow to import
        FULL_RANK,
        SMALL_RANK,
        SMALL_WORK,
        full_rank_speeds,
        small_rank_speeds,
    )
    from pimsim.build_cache import build_root  # noqa: PLC0415

    console.print("ranks: the first builds take some minutes; they are kept in the build folder")
    small = small_rank_speeds(build_root() / "bench")
    (each,) = (row for row in small if row.harness == "cocotb at every clock")
    table = Table("harness", "host", "clocks", "seconds", "clocks/s", "ratio")
    for row in small:
        rate, ratio = row.clocks_per_second, row.clocks_per_second / each.clocks_per_second
        table.add_row(row.harness, row.host, f"{row.clocks:,}", f"{row.seconds:.2f}", f"{rate:,.0f}", f"{ratio:,.1f}")
    work = SMALL_WORK
    console.print(f"rank {SMALL_RANK}; ratio: to {each.harness}")
    console.print(table)
    console.print(
        f"The same work in each row: {work.num_layers} layers, prompts of {' and '.join(map(str, work.prompts))} "
        f"tokens, {work.steps} decode steps. `recorded` gives the commands that RankDevice gave, in the same clocks, "
        "without its Python. What was read is compared."
    )
    table = Table("harness", "host", "clocks", "seconds", "clocks/s")
    for row in full_rank_speeds():
        rate = row.clocks_per_second
        table.add_row(row.harness, row.host, f"{row.clocks:,}", f"{row.seconds:.2f}", f"{rate:,.0f}")
    console.print(f"rank {FULL_RANK}, MHA, 8 kv_heads, 4,096 tokens")
    console.print(table)
