"""Builder and runner of a cocotb bench under Verilator or Icarus, from Python."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cocotb_tools.runner import Runner, Verilator, get_runner

import cocotb
from pimspec.errors import ToolError, UnknownNameError

from .build_cache import build_root, content_key
from .tools import cxx, require_tool, toolchain, verilator

__all__ = ["SIMULATORS", "BenchOutcome", "run_bench"]

SIMULATORS = ("verilator", "icarus")
ICARUS_WAVES = "dimmpim_waves"
_MAKE_PATH = re.compile(r"[\w./+,@-]+")


@dataclass(frozen=True, kw_only=True)
class BenchOutcome:
    """Counts from the JUnit file, and paths of the files."""

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
        for name in ("iverilog", "vvp"):
            require_tool(name)
        return {}
    for name in ("perl", "make"):
        require_tool(name)
    cxx()
    tool = verilator()
    return {"PATH": f"{tool.bin_dir}{os.pathsep}{os.environ.get('PATH', '')}", **tool.environment}


def _build_folder(folder: Path, name: str) -> Path:
    """Folder that make can build in: ``folder/name``, else one of the build cache, else a temporary one.

    Raises
    ------
    ToolError
        If the path of each has a space or another character that make takes for its own.
    """
    if _MAKE_PATH.fullmatch(str(folder)):
        return folder / name
    key = content_key(str(folder), name, str(os.getuid()))
    others = [build_root() / "cocotb" / key, Path(tempfile.gettempdir()).resolve() / f"dimmpim-{key}"]
    for other in others:
        if _MAKE_PATH.fullmatch(str(other)):
            return other
    raise ToolError(
        f"make cannot build in {str(folder)!r}, nor in {str(others[0])!r} or {str(others[1])!r}: the path of one "
        "must be free of spaces (DIMMPIM_BUILD_DIR, TMPDIR)"
    )


def _icarus_waves(folder: Path, top: str) -> Path:
    """Second top module that writes every signal of the first one into an FST."""
    name = str(folder / f"{top}.fst").replace("\\", "\\\\").replace('"', '\\"')
    source = folder / f"{ICARUS_WAVES}.v"
    dump = f'$dumpfile("{name}");\n    $dumpvars(0, {top});'
    source.write_text(f"module {ICARUS_WAVES};\n  initial begin\n    {dump}\n  end\nendmodule\n")
    return source


class _Verilator(Verilator):
    """cocotb's runner, with the compiler of :func:`~.tools.cxx` instead of the one that Verilator was built with."""

    def _build_command(self) -> list[list[str]]:
        translate, make = super()._build_command()
        compiler = shlex.join(cxx())
        variables = {"CXX": compiler, "LINK": compiler}
        if flags := os.environ.get("DIMMPIM_CXXFLAGS"):
            variables["OPT_FAST"] = flags
        return [translate, [*make, *(f"{name}={value}" for name, value in variables.items())]]


class _OwnClock(_Verilator):
    """Runner in which delays in the sources work, and Python sees only signals declared public: faster."""

    def _build_command(self) -> list[list[str]]:
        translate, *others = super()._build_command()
        return [[argument for argument in translate if argument != "--public-flat-rw"], *others]


def _runner(simulator: str, own_clock: bool) -> Runner:
    if simulator == "icarus":
        return get_runner(simulator)
    return _OwnClock() if own_clock else _Verilator()


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
    """Outcome of the cocotb module `bench` on `top`, built from `sources`.

    Parameters
    ----------
    simulator : {"verilator", "icarus"}
    folder : Path
        Folder for the build, ``results.xml`` (JUnit), ``simulation.log`` and the waveform; a build of the same sources
        is used again. If its path has a space, where make cannot build, the build is in the build cache.
    environment : mapping
        Environment variables for the bench.
    waves : bool
        True to write an FST waveform too.
    own_clock : bool
        True if the sources make their clock themselves, and declare the signals that the bench may touch
        (``verilator public_flat_rw``).

    Raises
    ------
    ToolError
        If the simulator is missing or the build fails; a failing test is not an error but a count.
    """
    if simulator not in SIMULATORS:
        raise UnknownNameError("simulator", simulator, SIMULATORS)
    tool_environment = _simulator_environment(simulator)
    folder = folder.resolve()
    name = f"{simulator}{'-waves' if waves else ''}"
    build_dir = _build_folder(folder, name) if simulator == "verilator" else folder / name
    build_dir.mkdir(parents=True, exist_ok=True)
    if build_dir.parent != folder:
        sources = [Path(shutil.copy(source, build_dir)) for source in sources]
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
    tool = toolchain() if simulator == "verilator" else simulator
    key = content_key(
        *texts,
        top,
        *build_args,
        tool,
        cocotb.__version__,
        os.environ.get("DIMMPIM_CXXFLAGS", ""),
        str(waves),
        str(own_clock),
    )
    built = build_dir / "built"
    with _environment({**tool_environment, **environment}):
        runner = _runner(simulator, own_clock)
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
