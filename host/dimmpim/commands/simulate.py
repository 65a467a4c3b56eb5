"""`dimmpim simulate`: run a unit of a preset against its golden model."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pimspec.errors import ParameterError, PimError
from pimspec.params.presets import preset_named

from .options import preset_option, seed_option
from .parameters import OutputFolder, command

SIMULATORS = ("verilator", "icarus", "fast")


class SimulationFailedError(PimError):
    """Hardware and golden model differ."""


@command()
@preset_option()
@click.option("--unit", "unit_name", required=True, metavar="UNIT", help="Unit of the preset to simulate.")
@click.option(
    "--simulator",
    type=click.Choice(SIMULATORS),
    default="verilator",
    show_default=True,
    help="Simulator: cocotb under Verilator or Icarus, or `fast`, Verilator driven from C++.",
)
@click.option(
    "--vectors",
    type=click.IntRange(1, 100_000_000),
    metavar="N",
    help="Operand sets to apply [default: 2000; 1000000 with fast].",
)
@seed_option("Seed for the operand sets and stalls.")
@click.option("--waves", is_flag=True, help="verilator, icarus: write an FST waveform.")
@click.option(
    "--out",
    "out_dir",
    type=OutputFolder(),
    metavar="DIR",
    help="Folder for Verilog, JUnit XML, log and waveform [default: build/simulate/PRESET/UNIT].",
)
def simulate(
    preset_name: str,
    unit_name: str,
    simulator: str,
    vectors: int | None,
    seed: int,
    waves: bool,
    out_dir: Path | None,
) -> None:
    """Simulate a hardware unit, and compare every result with the golden model.

    \b
    Examples:
      dimmpim simulate --preset tiny --unit dot
      dimmpim simulate --preset tiny --unit fp32_add --simulator icarus --waves
      dimmpim simulate --preset ddr4-3200-x8-8gb --unit exp2 --simulator fast --vectors 10000000
    """
    params = preset_named(preset_name).unit(unit_name)
    count = vectors if vectors is not None else (1_000_000 if simulator == "fast" else 2000)
    if waves and simulator == "fast":
        raise ParameterError("--waves requires --simulator verilator or icarus")
    from pimhw.generate import write_unit  # noqa: PLC0415 - as in `dimmpim verilog`
    from pimsim.cocotb_run import run_bench  # noqa: PLC0415
    from pimsim.verify import check_unit  # noqa: PLC0415

    folder = out_dir or Path("build") / "simulate" / preset_name / unit_name
    source, sidecar = write_unit(params, unit_name, folder)
    start = time.perf_counter()
    if simulator == "fast":
        check = check_unit(source.read_text(), unit_name, params, count=count, seed=seed)
        seconds = time.perf_counter() - start
        if check.num_mismatches:
            raise SimulationFailedError(f"{unit_name}: {check.message}")
        click.echo(f"{unit_name}: {check.num_results} results from {count} operand sets equal the golden model")
        click.echo(f"{check.num_cycles} clocks; {seconds:.1f} s with build and golden model; seed {seed}")
        return
    environment = {
        "DIMMPIM_SIDECAR": str(sidecar.resolve()),
        "DIMMPIM_VECTORS": str(count),
        "DIMMPIM_SEED": str(seed),
        "COCOTB_ANSI_OUTPUT": "0",
    }
    outcome = run_bench(
        simulator=simulator, sources=[source], top=unit_name, bench="pimsim.benches.unit_bench",
        folder=folder, environment=environment, waves=waves,
    )  # fmt: skip
    click.echo(
        f"{unit_name} under {simulator}: {outcome.num_tests - outcome.num_failures} of {outcome.num_tests} "
        f"tests passed ({count} operand sets each, seed {seed}, {time.perf_counter() - start:.1f} s)"
    )
    click.echo(f"JUnit XML: {outcome.results_xml}")
    click.echo(f"log:       {outcome.log}")
    if outcome.waveform:
        click.echo(f"waveform:  {outcome.waveform}")
    if outcome.num_failures:
        raise SimulationFailedError(f"{outcome.num_failures} tests failed; see {outcome.log}")
