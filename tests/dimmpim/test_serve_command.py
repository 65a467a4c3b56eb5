"""`dimmpim serve` and `dimmpim compare` as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from xml.etree import ElementTree

import pytest

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,300,20\n0.5,2000,5\n0.6,40,1\n"
RUN = ("--model", "Llama-3.1-70B", "--trace", "t.csv")
OWN = """
from pimhost.systems.l3 import L3

class Mine(L3):
    name = "mine"
"""
BROKEN = """
class Broken(L3):
    name = "broken"

    def plan(self, turn):
        raise ZeroDivisionError("[/of my own]")
"""


def separately(*arguments, cwd):
    """In a process of its own, as a user has it."""
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def dimmpim(folder, monkeypatch, in_process):
    """The command line in this process, which is quicker to start."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        return subprocess.CompletedProcess(arguments, *in_process(*arguments))

    return run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.csv").write_text(VIDUR)
    (tmp_path / "bad.csv").write_text(VIDUR + "0.7,17,-3\n")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


def test_serve(dimmpim, folder):
    done = dimmpim("serve", "--system", "L3", *RUN, "--json", "a.json", "--timeline", "t.json")
    assert done.returncode == 0, done.stderr
    assert "Llama-3.1-70B on L3, t.csv: 3 requests" in done.stdout
    document = json.loads((folder / "a.json").read_text())
    assert (document["version"], document["system"], document["node"]["tp_size"]) == (2, "L3", 8)
    figures = document["figures"]
    assert (figures["requests"], figures["finished"], figures["output_tokens"]) == (3, 3, 26)
    assert figures["prefill_tokens"] == 2340
    assert (
        figures["kv_read_bytes"]
        == sum(301 + k for k in range(19)) * 327_680 + sum(2001 + k for k in range(4)) * 327_680
    )
    assert 0 < figures["ttft"]["p50"] < figures["latency"]["p99"]
    assert 0 < figures["pim_utilization"] < figures["gpu_utilization"] < 1
    energy = figures["energy"]
    assert sum(energy["parts_j"].values()) == pytest.approx(energy["total_j"])
    assert energy["j_per_output_token"] == pytest.approx(energy["total_j"] / 26)
    assert energy["mean_w"] == pytest.approx(energy["total_j"] / figures["seconds"])
    assert energy["missing"] == []
    assert "GPUs, static at work" in done.stdout
    events = json.loads((folder / "t.json").read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X" and e["tid"] == 1]
    assert sum(e["args"]["iterations"] for e in spans) == figures["iterations"]
    assert sum(e["args"]["prefill_tokens"] for e in spans) == 2340
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} >= {"GPU at work", "attention device at work"}
    ends = [e["ts"] + e["dur"] for e in spans]
    assert max(ends) == pytest.approx(figures["seconds"] * 1e6)
    assert all(a <= b["ts"] + 1e-3 for a, b in zip(ends, spans[1:], strict=False))


def test_the_same_seed_gives_the_same_bytes(dimmpim, folder):
    arguments = ("serve", "--system", "mine.py:Mine", "--model", "QWEN-72B", "--lengths", "OpenThoughts")
    arguments += ("--requests", "12", "--rate", "3", "--tp", "4", "--dp", "2")
    outputs, outside = [], partial(separately, cwd=folder)
    for name, seed, run in (("a.json", "5", dimmpim), ("b.json", "5", outside), ("c.json", "6", dimmpim)):
        done = run(*arguments, "--seed", seed, "--json", name, "--timeline", f"t{name}")
        assert done.returncode == 0, done.stderr
        outputs.append((done.stdout, (folder / name).read_bytes(), (folder / f"t{name}").read_bytes()))
    assert outputs[0] == outputs[1]
    assert outputs[0][1] != outputs[2][1]
    assert json.loads(outputs[0][1])["system"] == "mine"


def test_cut_off(dimmpim, folder):
    done = dimmpim("serve", "--system", "GPU", *RUN, "--until", "0.55", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "a.json").read_text())["figures"]
    assert sum(figures[what] for what in ("finished", "running", "queued", "refused")) == 3
    assert figures["queued"] + figures["running"] >= 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--system", "L4", *RUN), "unknown system 'L4'"),
        (("--system", "L3", "--model", "GPT-5", "--trace", "t.csv"), "unknown model 'GPT-5'"),
        (("--system", "L3", "--model", "GPT-175B"), "give either --trace or --lengths"),
        (("--system", "L3", *RUN[:2], "--trace", "bad.csv"), "bad.csv:5: num_decode_tokens must be 1..2147483648"),
        (("--system", "GPU", "--model", "GPT-175B", "--trace", "t.csv", "--tp", "2"), "weights of a GPU must be"),
        (("--system", "L3", *RUN, "--preset", "tiny"), "preset must be one whose latency was measured"),
        (("--system", "L3", *RUN, "--gpu", "B300"), "unknown GPU 'B300'"),
        (("--system", "L3", *RUN, "--tp", "3"), "tp_size must be a divisor of the q_heads, 64, not 3"),
        (("--system", "L3", *RUN, "--until", "0"), "Invalid value for '--until'"),
        (("--system", "gone.py:X", *RUN), "file of a system must be one that exists, not 'gone.py'"),
        (("--system", "L3", *RUN, "--rate", "-1"), "Invalid value for '--rate': -1.0 is not in the range 0<x"),
        (
            ("--system", "L3", *RUN, "--rank-gib", "-3"),
            "Invalid value for '--rank-gib': -3 is not in",
        ),
        (("--system", "L3", *RUN, "--timeline", "./out.json"), "--json and --timeline must be different files"),
        (("--system", "L3", *RUN, "--timeline", "no/t.json"), "--timeline must be a file in a folder that exists"),
    ],
)
def test_refusals_write_nothing(dimmpim, folder, arguments, reason):
    done = dimmpim("serve", *arguments, "--json", "out.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"dimmpim: error: {reason}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["bad.csv", "mine.py", "t.csv"]


def test_compare(dimmpim, folder):
    arguments = ("compare", "--systems", "GPU,L3,mine.py:Mine,HBM-PIM", *RUN, "--json", "a.json", "--report", "r.html")
    done = separately(*arguments, "--jobs", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    runs = json.loads((folder / "a.json").read_text())["runs"]
    assert [run["system"] for run in runs] == ["GPU", "L3", "mine", "HBM-PIM"]
    assert runs[1]["figures"] == runs[2]["figures"]
    alone = dimmpim("serve", "--system", "GPU", *RUN, "--json", "b.json")
    assert alone.returncode == 0, alone.stderr
    assert json.loads((folder / "b.json").read_text()) == runs[0]
    page = ElementTree.parse(folder / "r.html").getroot()
    assert len(list(page.iter("{http://www.w3.org/2000/svg}svg"))) == 4
    first = (folder / "r.html").read_bytes(), done.stdout
    again = dimmpim(*arguments, "--jobs", "1")
    assert ((folder / "r.html").read_bytes(), again.stdout) == first


def test_what_has_no_source_is_null_and_said(dimmpim, folder):
    done = dimmpim("serve", "--system", "L3", *RUN, "--preset", "ddr4-3200-x8-16gb", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    energy = json.loads((folder / "a.json").read_text())["figures"]["energy"]
    assert (energy["total_j"], energy["parts_j"]["attention"]) == (None, None)
    assert energy["parts_j"]["gpu_static"] > 0
    assert energy["missing"] == ["no documented supply currents of ddr4-3200-x8-16gb"]
    assert "no energy: no documented supply currents of ddr4-3200-x8-16gb" in done.stdout
    arguments = ("--systems", "GPU,HBM-PIM", *RUN, "--gpu", "H100", "--jobs", "1", "--report", "r.html")
    done = dimmpim("compare", *arguments)
    assert done.returncode == 0, done.stderr
    assert "HBM-PIM, no energy: no measured power of H100" in done.stdout
    page = ElementTree.parse(folder / "r.html").getroot()
    assert len(list(page.iter("{http://www.w3.org/2000/svg}svg"))) == 3


@pytest.mark.parametrize("columns", [80, 140])
def test_names_stay_whole_in_a_terminal(dimmpim, folder, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    (folder / "mine.py").write_text(OWN.replace('"mine"', '"a system of my own"'))
    systems = "GPU,HBM-PIM,HBM-PIM-EXT,CPU,R-PIM,L3,L3-spread"
    for names in (systems, f"{systems},mine.py:Mine"):
        done = dimmpim("compare", "--systems", names, *RUN, "--jobs", "1")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= columns
        assert sum("finished" in line for line in lines) == 1 + (columns == 80 and "mine" in names)
        heads = [line for line in lines if "HBM-PIM-EXT" in line or "a system of my own" in line]
        assert " ".join(heads).count("L3-spread") == 1
        assert any(" J/output token" in line for line in lines)


def test_a_system_that_cannot_is_said_so(dimmpim, folder):
    arguments = ("--model", "GPT-175B", "--trace", "t.csv", "--tp", "4", "--json", "a.json", "--report", "r.html")
    done = dimmpim("compare", "--systems", "GPU,L3", *arguments, "--jobs", "1")
    assert (done.returncode, done.stderr) == (1, "")  # none can
    assert "GPU: weights of a GPU must be at most 72.0 GB" in done.stdout
    runs = json.loads((folder / "a.json").read_text())["runs"]
    assert "weights" in runs[0]["error"]
    ElementTree.parse(folder / "r.html")


def test_a_system_with_a_fault_loses_no_other(dimmpim, folder):
    (folder / "mine.py").write_text(OWN + BROKEN)
    reason = "ZeroDivisionError: [/of my own]"
    for jobs in "12":
        done = dimmpim("compare", "--systems", "L3,mine.py:Broken", *RUN, "--jobs", jobs, "--json", "a.json")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(f"\nbroken: {reason}\n")
        runs = json.loads((folder / "a.json").read_text())["runs"]
        assert (runs[0]["figures"]["finished"], runs[1]) == (3, {"system": "broken", "error": reason})
    done = dimmpim("compare", "--systems", "mine.py:Broken", *RUN, "--jobs", "1", "--json", "b.json")
    assert (done.returncode, done.stderr) == (1, "")  # none has figures
    assert done.stdout.endswith(f"\nbroken: {reason}\n")
    assert json.loads((folder / "b.json").read_text())["runs"] == [runs[1]]
    done = dimmpim("serve", "--system", "mine.py:Broken", *RUN, "--json", "c.json")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"dimmpim: error: broken: {reason}\n")
    assert not (folder / "c.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--system", "L3", *RUN, "--json", "a", "--timeline", "b"),
        ("compare", "--systems", "GPU", *RUN, "--json", "a", "--report", "b"),
        ("compare", "--published", "--requests", "1", "--jobs", "1", "--json", "a", "--report", "b"),
    ],
)
def test_a_pipe_that_is_closed_loses_no_file(folder, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert all((folder / name).stat().st_size for name in "ab")


def test_a_device_may_be_given_twice(dimmpim):
    arguments = ("compare", "--systems", "GPU", *RUN, "--jobs", "1", "--json", os.devnull, "--report", os.devnull)
    assert dimmpim(*arguments).returncode == 0


def test_compare_ends_with_a_process_that_is_killed(dimmpim, folder):
    (folder / "mine.py").write_text(f"{OWN}\n    def plan(self, turn):\n        import os\n        os._exit(9)\n")
    done = dimmpim("compare", "--systems", "GPU,mine.py:Mine", *RUN, "--jobs", "2", "--json", "a.json")
    assert done.returncode == 1
    assert done.stderr.endswith("a process ended abruptly, maybe for lack of memory: try fewer --jobs\n")
    assert not (folder / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--trace", "t.csv"), "give --model, or --published"),
        ((*RUN, "--systems", "L3,chime"), "--systems must be different systems, not 'L3,chime'"),
        ((*RUN, "--systems", ""), "Invalid value for '--systems': It is empty."),
        ((*RUN, "--report", "out.json"), "--json and --report must be different files, not 'out.json'"),
        (
            ("--published", "--model", "GPT-175B"),
            "--published excludes --model: it takes --requests",
        ),
    ],
)
def test_compare_refuses(dimmpim, folder, arguments, reason):
    done = dimmpim("compare", *arguments, "--json", "out.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"dimmpim: error: {reason}"), done.stderr
    assert not (folder / "out.json").exists()


def test_published(dimmpim, folder):
    arguments = ("compare", "--published", "--requests", "3", "--jobs", "1", "--json", "a.json", "--report", "r.html")
    done = dimmpim(*arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "a.json").read_text())
    assert len(document["cells"]) == 2 * 3 * 7
    for cell in document["cells"]:
        if cell["ratio"] is not None:
            assert cell["ratio"] == pytest.approx(cell["ours"] / cell["paper"])
    references = [c["ours"] for c in document["cells"] if c["paper"] == 1.0 and c["system"] != "L3-spread"]
    assert references == [1.0] * 6
    page = ElementTree.parse(folder / "r.html").getroot()
    assert len(list(page.iter("{http://www.w3.org/2000/svg}svg"))) == 2
    assert "3 requests instead of the paper's 1,000" in done.stdout


def test_help_has_examples(dimmpim):
    for command in ("serve", "compare", "pim-latency", "pim-energy"):
        assert "Examples:" in dimmpim(command, "--help").stdout
