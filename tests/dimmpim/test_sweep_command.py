"""`dimmpim sweep` as a user meets it.

The file is long because its cases share one folder of finished sweeps.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from functools import partial
from types import SimpleNamespace

import pyarrow.parquet
import pytest

from dimmpim.sweep import run as sweep_run
from dimmpim.sweep.grid import numbers
from dimmpim.sweep.studies import SERVE, Point, files_digest, guarded
from dimmpim.sweep.table import table_bytes
from pimsim.build_cache import build_root
from pimspec.errors import ParameterError

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,300,20\n0.5,2000,5\n0.6,40,1\n"
SERVE_RUN = ("sweep", "serve", "--model", "Llama-3.1-70B", "--jobs", "1")
RATES = (*SERVE_RUN, "--system", "L3", "--trace", "t.csv", "--requests", "2", "--rate", "1:8:x2")
RANK = ("sweep", "attention", "--preset", "tiny", "--shape", "4,2,16", "--jobs", "1")
OWN = """
from pathlib import Path
import os
import time
from pimhost.systems.l3 import L3

class Mine(L3):
    name = "mine"

class Broken(L3):
    name = "broken"

    def plan(self, turn):
        raise ZeroDivisionError("of my own")

class Interrupted(L3):
    name = "interrupted"

    def plan(self, turn):
        os.kill(os.getpid(), 2)
        super().plan(turn)

class Killed(L3):
    name = "killed"

    def plan(self, turn):
        os._exit(9)

class Slow(L3):
    name = "slow"

    def plan(self, turn):
        if self.node.ranks_per_channel > 2:
            Path("begun").touch()
            time.sleep(60)
        super().plan(turn)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.csv").write_text(VIDUR)
    (tmp_path / "bad.csv").write_text(VIDUR + "0.7,17,-3\n")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


@pytest.fixture
def dimmpim(folder, monkeypatch, in_process):
    monkeypatch.setenv("DIMMPIM_BUILD_DIR", str(build_root()))
    monkeypatch.chdir(folder)

    def run(*arguments):
        status, out, err = in_process(*arguments)
        return SimpleNamespace(status=status, out=out, err=err)

    return run


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_the_figures_of_a_run(dimmpim, folder):
    systems = ("--system", "GPU", "--system", "chime", "--trace", "t.csv", "--rate", "2,4")
    assert dimmpim(*SERVE_RUN, *systems, "--ranks-per-channel", "2,4", "--out", "a.csv").status == 0
    rows = rows_of(folder / "a.csv")
    found = [(row["system"], float(row["rate"]), int(row["ranks_per_channel"])) for row in rows]
    assert found == [(s, r, n) for s in ("GPU", "L3") for r in (2.0, 4.0) for n in (2, 4)]
    options = ("--model", "Llama-3.1-70B", "--trace", "t.csv", "--rate", "4", "--ranks-per-channel", "2")
    assert dimmpim("serve", "--system", "L3", *options, "--json", "b.json").status == 0
    figures = json.loads((folder / "b.json").read_text())["figures"]
    row = rows[found.index(("L3", 4.0, 2))]
    energy = figures.pop("energy")
    figures |= {f"energy_{what}": energy[what] for what in ("total_j", "j_per_output_token", "mean_w")}
    figures |= {f"energy_{part}_j": joules for part, joules in energy["parts_j"].items()}
    for name, value in figures.items():
        parts = {f"{name}_{p}_ms": v for p, v in value.items()} if isinstance(value, dict) else {name: value}
        for column, expected in parts.items():
            assert row.pop(column) == ("" if expected is None else repr(expected)), column
    inputs = {column.name for column in SERVE.layout.inputs}
    assert set(row) == inputs | {"error"}


def test_csv_and_parquet_have_the_same_content(dimmpim, folder):
    grid = (*SERVE_RUN, "--model", "GPT-175B", "--system", "L3", "--trace", "t.csv", "--lengths", "openthoughts")
    grid += ("--requests", "1", "--tp", "4,8")
    printed = [dimmpim(*grid, "--out", f"a{suffix}").out for suffix in (".csv", ".parquet")]
    assert printed[0].replace(".csv", ".parquet") == printed[1]
    assert "8 configurations, 2 without figures\n  weights of a GPU must be at most 72.0 GB" in printed[0]
    table = pyarrow.parquet.read_table(folder / "a.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    chosen = [types[name] for name in ("system", "finished", "rate", "seconds")]
    assert chosen == ["string", "int64", "double", "double"]
    shown = [{name: "" if v is None else str(v) for name, v in row.items()} for row in table.to_pylist()]
    assert shown == rows_of(folder / "a.csv")
    sources = [row["lengths"] or row["trace"] for row in shown]
    assert sources == ["t.csv", "t.csv", "OpenThoughts", "OpenThoughts"] * 2


def test_what_cannot_run_is_a_row(dimmpim, folder):
    systems = ("--system", "L3", "--system", "mine.py:Broken", "--trace", "t.csv", "--tp", "3,8")
    done = dimmpim(*SERVE_RUN, *systems, "--preset", "tiny", "--preset", "ddr4-3200-x8-8gb", "--out", "a.csv")
    assert done.status == 0, done.err
    rows = rows_of(folder / "a.csv")
    errors = {(r["system"], r["tp"], r["preset"]): r["error"] for r in rows}
    assert [r["finished"] for r in rows] == ["", "", "", "3", "", "", "", ""]
    assert errors["L3", "3", "tiny"] == "tp_size must be a divisor of the q_heads, 64, not 3"
    assert errors["L3", "8", "tiny"].startswith("preset must be one whose latency was measured")
    assert errors["L3", "8", "ddr4-3200-x8-8gb"] == ""
    assert errors["mine.py:Broken", "8", "ddr4-3200-x8-8gb"] == "ZeroDivisionError: of my own"
    assert "8 configurations, 7 without figures" in done.out


def test_a_figure_that_a_table_cannot_hold_is_said_so():
    study = type(SERVE)(SERVE.layout, lambda point: {"kv_read_bytes": 1 << 63, "finished": 1})
    row = guarded(study, Point({"system": "L3"}))
    assert row["finished"] is None
    assert row["error"] == f"kv_read_bytes must be an integer of 64 bits, not {1 << 63}"


def test_attention(dimmpim, folder):
    shapes = (
        "--preset",
        "ddr4-3200-x8-8gb",
        "--shape",
        "3,3,64",
        "--schedule",
        "static_order",
        "--schedule",
        "overlapped",
    )
    assert dimmpim(*RANK, *shapes, "--tokens", "100,200:400:x2", "--out", "a.parquet").status == 0
    rows = pyarrow.parquet.read_table(folder / "a.parquet").to_pylist()
    assert [row["tokens"] for row in rows[:6]] == [100, 100, 200, 200, 400, 400]
    assert len(rows) == 2 * 2 * 3 * 2
    chosen = [row for row in rows if (row["preset"], row["num_q_heads"], row["tokens"]) == ("tiny", 4, 200)]
    for row, static_order in zip(chosen, (["--static-order"], []), strict=True):
        shape = ("--preset", "tiny", "--shape", "4,2,16,200", "--backend", "timing")
        assert dimmpim("attention", *shape, *static_order, "--json", "b.json").status == 0
        figures = json.loads((folder / "b.json").read_text())
        for column in ("cycles", "ns", "bytes_streamed", "utilization_of_peak", "energy_nj", "energy_pj_per_bit"):
            assert row[column] == figures[column], column
    refused = [row for row in rows if row["cycles"] is None]
    assert {row["error"][:27] for row in refused} == {"head_dim must be at least 6"}
    assert len(refused) == 6


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(dimmpim, folder):
    for name, *more in (("a", "--jobs", "1"), ("b", "--jobs", "2"), ("c", "--seed", "2")):
        assert dimmpim(*RATES, *more, "--out", f"{name}.parquet").status == 0
    a, b, c = ((folder / f"{name}.parquet").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_resume_adds_what_is_missing(dimmpim, folder, monkeypatch):
    assert dimmpim(*RATES, "--out", "whole.csv").status == 0
    assert dimmpim(*RATES[:-2], "--rate", "8,2", "--out", "a.csv").status == 0
    ran = []

    def counted(study, point):
        ran.append(point.inputs["rate"])
        return guarded(study, point)

    monkeypatch.setattr(sweep_run, "guarded", counted)
    done = dimmpim(*RATES, "--out", "a.csv", "--resume")
    assert (done.out, ran) == ("a.csv: 4 configurations, 2 of them were there\n", [1.0, 4.0])
    assert (folder / "a.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert dimmpim(*RATES[:-2], "--rate", "4", "--out", "a.csv", "--resume").status == 0
    assert ran == [1.0, 4.0]
    assert [row["rate"] for row in rows_of(folder / "a.csv")] == ["4.0", "1.0", "2.0", "8.0"]  # none is lost


def test_resume_notices_that_a_trace_has_changed(dimmpim, folder):
    run = (*SERVE_RUN, "--system", "L3", "--trace", "t.csv", "--out", "a.csv", "--resume")
    assert dimmpim(*run).status == 0
    (folder / "t.csv").write_text(VIDUR + "0.7,17,3\n")
    for remembered in (sys.modules["dimmpim.commands.sweep"]._workload, files_digest):
        remembered.cache_clear()  # as a new process has it
    assert dimmpim(*run).status == 0
    assert [row["requests"] for row in rows_of(folder / "a.csv")] == ["4", "3"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_interrupt_keeps_what_is_finished(dimmpim, folder, monkeypatch, suffix):
    def interrupted(study, point):
        if point.inputs["rate"] == 4.0:
            raise KeyboardInterrupt
        return guarded(study, point)

    out = f"a.{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "guarded", interrupted)
        done = dimmpim(*RATES, "--out", out)
    assert done.status == 130
    assert f"2 of 4 configurations are in a.partial.{suffix}; add --resume" in done.err
    assert not (folder / out).exists()
    partial = (folder / f"a.partial.{suffix}").read_bytes()
    done = dimmpim(*RATES, "--out", out)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"dimmpim: error: --out must be continued with --resume, or a.partial.{suffix} deleted")
    assert (folder / f"a.partial.{suffix}").read_bytes() == partial
    assert dimmpim(*RATES, "--out", out, "--resume").out == f"{out}: 4 configurations, 2 of them were there\n"
    assert not (folder / f"a.partial.{suffix}").exists()
    assert dimmpim(*RATES, "--out", f"b.{suffix}").status == 0
    assert (folder / out).read_bytes() == (folder / f"b.{suffix}").read_bytes()


def gone(process_group):
    """Whether all of its processes end within some seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(process_group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def interrupt(process):
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def terminate(process):
    process.terminate()
    process.terminate()  # as `timeout` does


@pytest.mark.parametrize(("end_it", "status"), [(interrupt, 130), (terminate, 143)])
def test_an_interrupt_ends_the_processes(folder, end_it, status):
    arguments = ("sweep", "serve", "--system", "mine.py:Slow", "--model", "Llama-3.1-70B", "--trace", "t.csv")
    arguments += ("--ranks-per-channel", "1,4,2", "--jobs", "2", "--out", "a.csv")
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even where these tests run in the background
    settings = {"cwd": folder, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, **settings, preexec_fn=heeded)  # noqa: PLW1509
    end = time.monotonic() + 40
    while not (folder / "begun").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.0)  # the other process does the rest of the grid meanwhile
    end_it(process)
    _, said = process.communicate(timeout=20)
    assert process.returncode == status
    lines = said.splitlines()
    assert lines[-1] == "dimmpim: interrupted"
    assert "Traceback" not in said
    rows = rows_of(folder / "a.partial.csv")
    assert len(rows) in (1, 2)
    assert f"{len(rows)} of 3 configurations are in a.partial.csv" in said
    assert all(row["finished"] == "3" and row["ranks_per_channel"] in "12" for row in rows)
    assert gone(process.pid)


@pytest.fixture
def heeds_interrupts():
    """Even where these tests run in the background, as a job of a shell that has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_is_for_the_first_process_alone(dimmpim, folder):
    run = (*SERVE_RUN, "--system", "mine.py:Interrupted", "--trace", "t.csv", "--requests", "1,3", "--out", "a.csv")
    assert dimmpim(*run, "--jobs", "1").status == 130
    assert dimmpim(*run, "--jobs", "2").status == 0
    assert [row["finished"] for row in rows_of(folder / "a.csv")] == ["1", "3"]


def test_a_process_that_is_killed_loses_no_finished_rows(dimmpim, folder):
    systems = ("--system", "L3", "--system", "mine.py:Killed", "--trace", "t.csv", "--jobs", "2", "--resume")
    assert dimmpim(*SERVE_RUN, "--system", "L3", "--trace", "t.csv", "--out", "a.csv").status == 0
    rows = (folder / "a.csv").read_bytes()
    done = dimmpim(*SERVE_RUN, *systems, "--requests", "1,2,3", "--out", "a.csv")
    assert done.status == 1
    assert done.err.endswith("a process ended abruptly, maybe for lack of memory: try fewer --jobs\n")
    assert (folder / "a.csv").read_bytes() == rows


def test_rows_are_saved_now_and_then(dimmpim, folder, monkeypatch):
    seen = []

    def watched(study, point):
        path = folder / "a.partial.csv"
        seen.append(len(rows_of(path)) if path.exists() else 0)
        return guarded(study, point)

    monkeypatch.setattr(sweep_run, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(sweep_run, "guarded", watched)
    assert dimmpim(*RATES, "--out", "a.csv").status == 0
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--system", "L4", "--trace", "t.csv"), "unknown system 'L4'"),
        (("--system", "L3", "--trace", "t.csv", "--model", "GPT-5"), "unknown model 'GPT-5'"),
        (("--system", "L3", "--trace", "t.csv", "--gpu", "B300"), "unknown GPU 'B300'"),
        (("--system", "L3", "--trace", "t.csv", "--preset", "ddr9"), "unknown preset 'ddr9'"),
        (("--system", "L3"), "give --trace or --lengths"),
        (("--system", "L3", "--lengths", "OpenR7"), "unknown lengths 'OpenR7' (did you mean 'OpenR1'?)"),
        (("--system", "L3", "--trace", "t.csv", "--trace", "bad.csv"), "bad.csv:5: num_decode_tokens must be"),
        (("--system", "L3", "--lengths", "OpenR1", "--format", "vidur"), "--format requires --trace"),
        (("--system", "L3", "--trace", "t.csv", "--rate", "fast"), "--rate must be numbers or ranges"),
        (("--system", "L3", "--trace", "t.csv", "--rate", "1,nan"), "--rate must be at most 1e+15, not 'nan'"),
        (("--system", "L3", "--trace", "t.csv", "--rate", "0"), "--rate must be 1e-09..1e+09, not 0.0"),
        (("--system", "L3", "--trace", "t.csv", "--tp", "4:8:0"), "--tp must be a range that grows"),
        (("--system", "L3", "--trace", "t.csv", "--seed", "0:9999999:1"), "--seed must be a range of fewer than"),
        (("--system", "L3", "--trace", "t.csv", "--seed", "0:4999:1", "--dp", "1:500:1"), "number of configurations"),
        (("--system", "L3", "--trace", "t.csv", "--until", "0"), "Invalid value for '--until'"),
        (("--system", "L3", "--trace", "t.csv", "--out", "out.txt"), "--out must be a file whose name ends in .csv or"),
        (("--system", "L3", "--trace", "t.csv", "--out", "no/out.csv"), "--out must be a file in a folder that exists"),
        (
            ("--system", "L3", "--trace", "t.csv", "--resume", "--out", "t.csv"),
            "--out and --trace must be different",
        ),
    ],
)
def test_refusals_write_nothing(dimmpim, folder, arguments, reason):
    done = dimmpim(*SERVE_RUN, "--out", "out.csv", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"dimmpim: error: {reason}"), done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["bad.csv", "mine.py", "t.csv"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tokens", "0"), "--tokens must be 1..1.04858e+06, not 0"),
        (("--tokens", "64", "--shape", "4,2,16,64"), "--shape must be three numbers: q_heads,kv_heads,head_dim"),
        (("--tokens", "64", "--shape", "4,3,16"), "num_q_heads must be"),
        (("--tokens", "64", "--preset", "ddr9"), "unknown preset 'ddr9'"),
    ],
)
def test_attention_refuses(dimmpim, folder, arguments, reason):
    done = dimmpim(*RANK, *arguments, "--out", "out.csv")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"dimmpim: error: {reason}"), done.err
    assert not (folder / "out.csv").exists()


def test_a_damaged_file_is_not_resumed(dimmpim, folder):
    run = (*RANK, "--tokens", "64,80", "--resume")
    for name, spoil in (("a.csv", b"x,"), ("b.parquet", b"")):
        assert dimmpim(*run, "--out", name).status == 0
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-30] + spoil)
        done = dimmpim(*run, "--out", name)
        assert (done.status, done.out) == (2, "")
        assert f"{name}" in done.err
        assert (folder / name).read_bytes() == whole[:-30] + spoil
    (folder / "c.csv").write_text(whole_csv(dimmpim, folder).replace("tiny,4,2,16,64,", "tiny,4,2,16,many,"))
    assert "c.csv, row 1: invalid literal for int" in dimmpim(*run, "--out", "c.csv").err


def whole_csv(dimmpim, folder):
    assert dimmpim(*RANK, "--tokens", "64", "--out", "whole.csv").status == 0
    return (folder / "whole.csv").read_text()


def test_numbers():
    assert numbers("--n", ["1:9:2", "3,20"], int, least=0) == [1, 3, 5, 7, 9, 20]
    assert numbers("--n", ["1024:9000:x2"], int, least=0) == [1024, 2048, 4096, 8192]
    assert numbers("--n", ["0.1:0.5:0.1"], float, least=0) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert numbers("--n", ["0.5:4:x2,8"], float, least=0) == [0.5, 1.0, 2.0, 4.0, 8.0]
    for text in ("", "1:2", "1:2:3:4", "5:1:1", "1:8:x1", "0:8:x2", "1e400", "9" * 400, "1:inf:1"):
        with pytest.raises(ParameterError, match="--n must be"):
            numbers("--n", [text], float, least=0)


class FakeRay:
    """What a sweep asks of Ray, in this process; the last task that was given is done first."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self):
        self.asked, self.most, self.open = [], 0, True

    def init(self, *, address, **_):
        if address != "there:6379":
            raise ConnectionError(f"no cluster at {address}")

    def remote(self, function):
        return SimpleNamespace(remote=lambda *arguments: (function, arguments))

    def cluster_resources(self):
        return {"CPU": 1.0}

    def wait(self, pending, num_returns):
        self.most = max(self.most, len(pending))
        return pending[-num_returns:], pending[:-num_returns]

    def get(self, done):
        self.asked += done
        with chdir("/"):  # where a node of a cluster runs is its own affair
            return [function(*arguments) for function, arguments in done]

    def cancel(self, left, force):
        raise AssertionError(f"{left} was given and not waited for")

    def shutdown(self):
        self.open = False


def test_on_a_cluster(dimmpim, folder, monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert dimmpim(*RATES, "--system", "mine.py:Mine", "--out", "a.csv").status == 0
    without_jobs = (*RATES[:4], *RATES[6:], "--system", "mine.py:Mine")
    done = dimmpim(*without_jobs, "--ray", "there:6379", "--out", "b.csv")
    assert done.status == 0, done.err
    assert (len(ray.asked), ray.most, ray.open) == (8, 2, False)
    assert {row["error"] for row in rows_of(folder / "b.csv")} == {""}
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    lost = dimmpim(*RATES, "--ray", "nowhere:1", "--out", "c.csv")
    assert lost.status == 1
    assert "--ray nowhere:1: ConnectionError: no cluster at nowhere:1" in lost.err
    ray.get = lambda done: (_ for _ in ()).throw(ray.exceptions.RayError("a node\n\nis gone"))
    ray.cancel = lambda left, force: ray.asked.append(left)
    assert "a task failed: a node ... is gone" in dimmpim(*RATES, "--ray", "there:6379", "--out", "c.csv").err
    assert not (folder / "c.csv").exists()


def test_without_ray_it_is_said_what_to_install(dimmpim, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = dimmpim(*RATES, "--ray", "auto", "--out", "a.csv")
    assert done.status == 1
    assert done.err == "dimmpim: error: --ray needs Ray, which is not installed: pip install ray\n"


def test_a_real_cluster(dimmpim, folder):
    ray = pytest.importorskip("ray", reason="Ray, an optional dependency, is not installed")
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - see above

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        assert dimmpim(*RATES, "--ray", cluster.address, "--out", "a.csv").status == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert dimmpim(*RATES, "--out", "b.csv").status == 0
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()


def test_tables_of_no_rows():
    assert table_bytes(SERVE.layout, [], ".csv").count(b"\n") == 1


def test_help_has_examples(dimmpim):
    for command in ((), ("serve",), ("attention",)):
        assert "Examples:" in dimmpim("sweep", *command, "--help").out
