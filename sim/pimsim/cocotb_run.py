"""Building and running a cocotb bench under Verilator or Icarus from Python."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cocotb_tools.runner import Runner, Verilator, get_runner

import cocotb
from pimspec.errors import ToolError, UnknownNameError

from .tools import content_key, icarus_available, verilator_root

__all__ = ["SIMULATORS", "BenchOutcome", "run_bench"]

SIMULATORS = ("verilator", "icarus")
ICARUS_WAVES = "dimmpim_waves"


@dataclass(frozen=True, kw_only=True)
class BenchOutcome:
    """Counts from the JUnit file, and where the files are."""

    num_tests: int
    num_failures: int
    results_xml: Path
    waveform: Path | None
    log: Path

    def clocks_and_seconds(self, clock_ns: float) -> tuple[int, float]:
        """Simulated clocks of `clock_ns` and wall seconds, summed over the tests."""
        cases = list(ElementTree.parse(self.results_xml).getroot().iter("testcase"))
        properties = [p for case in cases for p in case.iter("property")]
        simulated_ns = sum(float(p.get("value", "")) for p in properties if p.get("name") == "sim_time_duration")
        return round(simulated_ns / clock_ns), sum(float(case.get("time", 0)) for case in cases)


@contextmanager
def _environment(extra: Mapping[str, str]):  # type: ignore[no-untyped-def]
    saved = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _simulator_environment(simulator: str) -> dict[str, str]:
    if simulator == "icarus":
        if not icarus_available():
            raise ToolError("Icarus Verilog is not installed: `iverilog` and `vvp` are not on the path")
        return {}
    if shutil.which("perl") is None:
        raise ToolError("Verilator's front end needs perl, which is not on the path")
    root = verilator_root()
    share = root / "share" / "verilator"
    return {"PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}", "VERILATOR_ROOT": str(share)}


def _icarus_waves(folder: Path, top: str) -> Path:
    """A second top module that writes every signal of the first one into an FST."""
    name = str(folder / f"{top}.fst").replace("\\", "\\\\").replace('"', '\\"')
    source = folder / f"{ICARUS_WAVES}.v"
    dump = f'$dumpfile("{name}");\n    $dumpvars(0, {top});'
    source.write_text(f"module {ICARUS_WAVES};\n  initial begin\n    {dump}\n  end\nendmodule\n")
    return source


class _OwnClock(Verilator):
    """Delays in the sources work, and Python sees the signals alone that the sources declare public: faster."""

    def _build_command(self) -> list[list[str]]:
        translate, *others = super()._build_command()
        return [[argument for argument in translate if argument != "--public-flat-rw"], *others]


def _build(
    runner: Runner,
    simulator: str,
    sources: list[Path],
    top: str,
    build_dir: Path,
    arguments: list[str],
    log: Path,
    waves: bool,
) -> None:
    try:
        runner.build(
            sources=sources, hdl_toplevel=top, build_dir=build_dir, build_args=arguments,
            waves=waves and simulator == "verilator", timescale=("1ns", "1ps"), always=True, log_file=log,
        )  # fmt: skip
    except (RuntimeError, SystemExit, OSError) as error:
        tail = "\n".join(log.read_text().splitlines()[-12:]) if log.exists() else str(error)
        hint = "\nFST waveforms under Verilator need zlib and lz4 headers" if waves else ""
        raise ToolError(f"{simulator} failed to build {top} (log: {log}):\n{tail}{hint}") from None


def run_bench(
    *,
    simulator: str,
    sources: list[Path],
    top: str,
    bench: str,
    folder: Path,
    environment: Mapping[str, str],
    waves: bool = False,
    own_clock: bool = False,
) -> BenchOutcome:
    """Build `sources` and run the cocotb module `bench` on `top`.

    Parameters
    ----------
    simulator : {"verilator", "icarus"}
    folder : Path
        Takes the build, ``results.xml`` (JUnit), ``simulation.log`` and the waveform; a build of the same sources is
        used again.
    environment : mapping
        For the bench.
    waves : bool
        Also write an FST waveform.
    own_clock : bool
        The sources make their clock themselves, and declare what the bench may touch (``verilator public_flat_rw``).

    Raises
    ------
    ToolError
        If the simulator is missing or the build fails; a failing test is not an error but a count.
    """
    if simulator not in SIMULATORS:
        raise UnknownNameError("simulator", simulator, SIMULATORS)
    tool_environment = _simulator_environment(simulator)
    folder = folder.resolve()
    build_dir = folder / f"{simulator}{'-waves' if waves else ''}"
    build_dir.mkdir(parents=True, exist_ok=True)
    results_xml, log = folder / f"results-{simulator}.xml", folder / f"simulation-{simulator}.log"
    if simulator == "icarus":
        # Verilog 2005: there, unlike in SystemVerilog, `reg x = 0` is an event, and wakes each `always @*` at time 0.
        build_args = ["-g2005"]
        if waves:  # cocotb's own way asks for SystemVerilog
            sources = [*sources, _icarus_waves(build_dir, top)]
            build_args += ["-s", ICARUS_WAVES]
    else:
        build_args = ["-Wno-fatal", "-Wno-lint", "--x-initial", "unique", "--x-assign", "unique"]
        build_args += ["--trace-fst", "--trace-structs"] if waves else []
        build_args += ["--timing"] if own_clock else []
    texts = (source.read_bytes() for source in sources)
    tool = tool_environment.get("VERILATOR_ROOT", simulator)
    key = content_key(*texts, top, *build_args, tool, cocotb.__version__, str(waves), str(own_clock))
    built = build_dir / "built"
    with _environment({**tool_environment, **environment}):
        runner: Runner = _OwnClock() if own_clock and simulator == "verilator" else get_runner(simulator)
        if not built.exists() or built.read_text() != key:
            built.unlink(missing_ok=True)
            _build(runner, simulator, sources, top, build_dir, build_args, folder / f"build-{simulator}.log", waves)
            built.write_text(key)
        try:
            runner.test(
                hdl_toplevel=top, hdl_toplevel_lang="verilog", test_module=bench, build_dir=build_dir,
                test_dir=folder, waves=waves, results_xml=str(results_xml), timescale=("1ns", "1ps"), log_file=log,
            )  # fmt: skip
        except (RuntimeError, SystemExit) as error:
            if not results_xml.exists():
                raise ToolError(f"{simulator} ended without results (log: {log}): {error}") from None
    cases = list(ElementTree.parse(results_xml).getroot().iter("testcase"))
    if not cases:
        raise ToolError(f"{bench} ran no test under {simulator} (log: {log})")
    failures = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    waveform = next((p for p in (*folder.glob("*.fst"), *build_dir.glob("*.fst")) if waves), None)
    return BenchOutcome(
        num_tests=len(cases), num_failures=failures, results_xml=results_xml, waveform=waveform, log=log
    )
