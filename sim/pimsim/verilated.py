"""Fast harness: a unit compiled by Verilator into a shared library, driven for many clocks a call."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.errors import PimError
from pimspec.fields import FieldTable

from .build_cache import build_in, build_root, content_key
from .tools import cxx, in_parallel, run_tool, toolchain, verilator

__all__ = ["StreamRun", "StreamSimulationError", "VerilatedUnit", "compile_model"]

HARNESS = Path(__file__).with_name("stream_harness.cpp")
PORTS = HARNESS.with_name("verilated_ports.h")
CXX_FLAGS = ["-std=gnu++17", "-O2", "-fPIC", "-DVL_IGNORE_UNKNOWN_ARCH", "-DVM_COVERAGE=0", "-DVM_TRACE=0", "-DVM_SC=0"]
SLOW_BYTES = 100_000
"""Least size of code that is compiled separately; below it, reading Verilator's headers again takes longer."""

VERILATOR_FLAGS = [
    "--cc",
    "-O3",
    "--x-initial",
    "unique",
    "--x-assign",
    "unique",
    "--no-timing",
    "-Wno-fatal",
    "-Wno-lint",
]


class StreamSimulationError(PimError):
    """A unit under test that hung, broke the stream protocol, or delivered too much."""


@dataclass(frozen=True, kw_only=True)
class StreamRun:
    """Results of one run by field name, and the cycle of each transfer."""

    results: dict[str, NDArray[np.int64]]
    accepted_at: NDArray[np.int64]
    delivered_at: NDArray[np.int64]


def cxx_flags() -> list[str]:
    """Compiler flags for simulated RTL, those of ``$DIMMPIM_CXXFLAGS`` last: ``-O1`` builds in half the time of -O2."""
    return [*CXX_FLAGS, *shlex.split(os.environ.get("DIMMPIM_CXXFLAGS", ""))]


def slow_flags() -> list[str]:
    """Compiler flags for code that runs once, at reset: it takes a third of the time of a compilation otherwise."""
    return [*cxx_flags(), "-O0"]


def include_flags() -> list[str]:
    """Compiler flags for the headers of Verilator's runtime."""
    include = verilator().include
    return [f"-I{include}", f"-I{include / 'vltstd'}"]


def runtime_objects() -> list[Path]:
    """Verilator's own runtime, compiled once for all units."""
    include = verilator().include
    sources = ["verilated.cpp", "verilated_dpi.cpp", "verilated_threads.cpp"]
    key = content_key(*((include / s).read_bytes() for s in sources))
    folder = build_root() / "verilated" / f"runtime-{content_key(key, toolchain(), *cxx_flags())}"

    def make(into: Path) -> None:
        command = [*cxx(), *cxx_flags(), *include_flags(), "-c"]
        in_parallel(
            [partial(run_tool, [*command, str(include / s), "-o", f"{s}.o"], cwd=into) for s in sources],
        )

    build_in(folder, f"{sources[-1]}.o", make)
    return [folder / f"{s}.o" for s in sources]


def _header_flags(flags: list[str]) -> list[str]:
    """Compiler flags for Verilator's headers in compiled form: most of the time that a small unit takes."""
    flags = [*flags, *include_flags()]
    folder = build_root() / "verilated" / f"headers-{content_key(toolchain(), *flags)}"

    def make(into: Path) -> None:
        (into / "model.h").write_text('#include "verilated.h"\n')
        run_tool([*cxx(), *flags, "-x", "c++-header", "model.h", "-o", "model.h.gch"], cwd=into)

    return ["-include", str(build_in(folder, "model.h.gch", make).with_suffix(""))]


def compile_model(into: Path, top: str, files: list[str], text: str, flags: list[str] | None = None) -> list[Path]:
    """Object files of a model: Verilog files in `into`, translated by Verilator and compiled together with `text`.

    The headers of the model are in ``obj``, its class is ``V<top>``. The compiler's flags are those of
    :func:`cxx_flags` if none are given.
    """
    flags = cxx_flags() if flags is None else flags
    tool = verilator()
    run_tool(
        [*tool.command, *VERILATOR_FLAGS, "--top-module", top, "--prefix", f"V{top}", *files, "--Mdir", "obj"],
        cwd=into,
        env=tool.environment,
    )
    sources = [path.name for path in sorted((into / "obj").glob("*.cpp"))]
    slow = [name for name in sources if name.endswith("Slow.cpp")]
    if sum((into / "obj" / name).stat().st_size for name in slow) < SLOW_BYTES:
        slow = []

    def compiled(part: str, names: list[str], with_flags: list[str], after: str) -> Path:
        (into / f"{part}.cpp").write_text("".join(f'#include "obj/{name}"\n' for name in names) + after)
        includes = [*include_flags(), "-Iobj", "-I."]
        run_tool([*cxx(), *with_flags, *includes, "-c", f"{part}.cpp", "-o", f"{part}.o"], cwd=into)
        return into / f"{part}.o"

    fast_flags = [*flags, *_header_flags(flags)]
    jobs = [lambda: compiled("fast", [name for name in sources if name not in slow], fast_flags, text)]
    if slow:
        jobs.append(lambda: compiled("slow", slow, slow_flags(), ""))
    return in_parallel(jobs)


def build_library(verilog: str, top: str, num_in_words: int, num_out_words: int) -> Path:
    """Shared library of Verilog text with the stream harness, compiled and cached by content."""
    harness, ports = HARNESS.read_text(), PORTS.read_text()
    words = f"{num_in_words},{num_out_words}"
    key = content_key(verilog, harness, ports, toolchain(), *slow_flags(), *VERILATOR_FLAGS, words)
    folder = build_root() / "verilated" / f"{top}-{key}"

    def make(into: Path) -> None:
        (into / f"{top}.v").write_text(verilog)
        (into / PORTS.name).write_text(ports)
        text = (
            f'#define UNIT_TOP V{top}\n#define UNIT_HEADER "V{top}.h"\n#define IN_WORDS {num_in_words}\n'
            f"#define OUT_WORDS {num_out_words}\n{harness}"
        )
        objects = [*compile_model(into, top, [f"{top}.v"], text), *runtime_objects()]
        run_tool([*cxx(), *cxx_flags(), "-shared", *map(str, objects), "-pthread", "-o", "unit.so"], cwd=into)
        shutil.rmtree(into / "obj")

    return build_in(folder, "unit.so", make)


class VerilatedUnit:
    """A unit with streams `i` and `o`, simulated by Verilator in this process.

    Parameters
    ----------
    verilog : str
        Verilog text.
    top : str
        Its top module, with ports clk, rst, ``i__payload/valid/ready`` and ``o__payload/valid/ready``.
    inputs, outputs : FieldTable
        Layout of the payloads.
    """

    def __init__(self, *, verilog: str, top: str, inputs: FieldTable, outputs: FieldTable) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._handle = None
        path = build_library(verilog, top, inputs.num_words, outputs.num_words)
        self._library = ctypes.CDLL(str(path))
        self._library.unit_new.restype = ctypes.c_void_p
        self._library.unit_delete.argtypes = [ctypes.c_void_p]
        self._library.unit_run.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64,
            ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64,
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._handle = self._library.unit_new()

    def close(self) -> None:
        if self._handle is not None:
            self._library.unit_delete(self._handle)
            self._handle = None

    def __enter__(self) -> VerilatedUnit:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(
        self,
        operands: Mapping[str, ArrayLike],
        num_results: int | None = None,
        *,
        idle: float = 0.0,
        refuse: float = 0.0,
        seed: int = 0,
        max_idle_cycles: int = 1000,
    ) -> StreamRun:
        """Results of operand sets; `num_results` of them are collected, by default as many as operand sets.

        Parameters
        ----------
        idle, refuse : float
            Chance per cycle that no new operand set is offered, and that a result is refused, below 1.
        seed : int
            Seed of the pattern of both.

        Raises
        ------
        StreamSimulationError
            With the seed, if the unit hangs, drops or changes a waiting result, or delivers too many.
        """
        words = np.ascontiguousarray(self.inputs.pack(operands))
        num_results = len(words) if num_results is None else num_results
        out = np.zeros((num_results, self.outputs.num_words), dtype=np.uint32)
        accepted_at = np.zeros(len(words), dtype=np.int64)
        delivered_at = np.zeros(num_results, dtype=np.int64)
        collected = ctypes.c_int64()
        status = self._library.unit_run(
            self._handle, words.ctypes.data, len(words), out.ctypes.data, num_results,
            min(255, round(idle * 256)), min(255, round(refuse * 256)), seed, max_idle_cycles,
            accepted_at.ctypes.data, delivered_at.ctypes.data, ctypes.byref(collected),
        )  # fmt: skip
        if status:
            reason = {1: "hung", 2: "dropped or changed a waiting result", 3: "delivered too many results"}[status]
            raise StreamSimulationError(
                f"unit {reason} after {collected.value} of {num_results} results "
                f"(seed {seed}, idle {idle}, refuse {refuse})"
            )
        return StreamRun(results=self.outputs.unpack(out), accepted_at=accepted_at, delivered_at=delivered_at)
