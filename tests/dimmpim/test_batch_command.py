"""`dimmpim batch` as a user meets it, on a small random model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from dimmpim.cli import main
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf
from pimsim.build_cache import build_root

COMMAND = [sys.executable, "-c", "from dimmpim.cli import main; main()", "batch"]
WITH_BUILD = {**os.environ, "DIMMPIM_BUILD_DIR": str(build_root()), "COLUMNS": "200"}
SCHEMA = Path(__file__).parents[2] / "docs" / "batch-json.md"
PROMPTS = ("hello", "what is it", "yes", "why")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = synthetic_config(num_layers=2, num_q_heads=4, num_kv_heads=2, head_dim=16, context_length=512)
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    write_gguf(path, config, synthetic_weights(config, 1))
    return path


def batch(*arguments, cwd):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=WITH_BUILD, capture_output=True, text=True, check=False)


def given_prompts(texts=PROMPTS):
    return [x for text in texts for x in ("--prompt", text)]


@pytest.fixture(scope="module")
def compared(model, tmp_path_factory):
    """All modes, with all files."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "prompts.txt").write_text("\n".join((*PROMPTS[2:], "", "")))
    files = ("--json", "a.json", "--timeline", "t.json", "--prompts", "prompts.txt")
    settings = ("--model", model, "--tokens", 3, "--gpu-us", 1.5, "--ignore-end", "--compare")
    done = batch(*given_prompts(PROMPTS[:2]), *files, *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "a.json").read_text()), json.loads((folder / "t.json").read_text())


def test_table_answers_and_document(compared):
    done, document, _ = compared
    assert "speed-up" in done.stderr
    assert "…" not in done.stderr, "the table fits 80 columns"
    assert len(document["prompts"]) == 4
    for number, prompt in enumerate(document["prompts"], 1):
        assert len(prompt["output_token_ids"]) == 3
        assert f"{number}: {prompt['output_text']}" in done.stdout
    names = [(m["ranks"], m["name"]) for m in document["modes"]]
    assert names == [
        (1, "serial"),
        (1, "sub-batches"),
        (1, "sub-batches, early transfers"),
        (2, "serial"),
        (2, "ranks overlap"),
        (2, "sub-batches"),
        (2, "sub-batches, early transfers"),
    ]
    for mode in document["modes"]:
        (serial,) = [m for m in document["modes"] if (m["ranks"], m["name"]) == (mode["ranks"], "serial")]
        assert mode["speedup"] == serial["clocks"] / mode["clocks"]
        assert mode["clocks"] == max(r["token_clocks"][-1] for r in mode["requests"])
        assert {r["rank"] for r in mode["requests"]} == set(range(mode["ranks"]))
        for key in ("gpu_busy", "pim_busy", "channel_busy", "transfers_hidden", "transfers_hidden_by_pim"):
            assert 0 <= mode[key] <= 1
    assert (document["gpu"], document["gpu_us"], document["cycle_ps"]) == (None, 1.5, 2500)


def test_schema_is_documented(compared):
    document = compared[1]
    tables = re.findall(r"(?:^\|.*\n)+", SCHEMA.read_text(), re.MULTILINE)
    named = [{n for row in t.splitlines()[2:] for n in re.findall(r"`(\w+)`", row.split("|")[1])} for t in tables]
    assert named == [set(document), set(document["modes"][0])]
    for key, entry in (("prompts", document["prompts"][0]), ("requests", document["modes"][0]["requests"][0])):
        (row,) = [row for table in tables for row in table.splitlines() if row.startswith(f"| `{key}`")]
        assert set(entry) <= set(re.findall(r"`(\w+)`", row))


def test_timeline_shows_the_overlap(compared):
    _, document, trace = compared
    events = trace["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [e for e in events if e["ph"] == "X"]
    assert len(processes) == sum(1 + mode["ranks"] for mode in document["modes"])
    assert {(e["pid"], e["tid"]) for e in spans} == set(tracks)
    assert [e["ts"] for e in spans] == sorted(e["ts"] for e in spans)
    for place, name in tracks.items():
        here = [e for e in spans if (e["pid"], e["tid"]) == place]
        assert not [b for a, b in pairwise(here) if b["ts"] < a["ts"] + a["dur"] - 1e-6], (processes[place[0]], name)

    def times(process, track):
        (place,) = [p for p, name in tracks.items() if (processes[p[0]], name) == (process, track)]
        return [e for e in spans if (e["pid"], e["tid"]) == place]

    def beside(title):
        """Pairs of a phase of the GPU and attention of the other sub-batch at the same time."""
        pairs = [
            (a, b) for a in times(f"{title}: host", "GPU") for b in times(f"{title}: rank 0", "attention")
            if a["ts"] < b["ts"] + b["dur"] and b["ts"] < a["ts"] + a["dur"]
        ]  # fmt: skip
        assert all(a["args"]["sub_batch"] != b["args"]["sub_batch"] for a, b in pairs)
        return pairs

    assert not beside("serial, 1 rank")
    assert beside("sub-batches, 1 rank")
    title = "sub-batches, early transfers, 2 ranks"
    assert times(f"{title}: rank 1", "bank_group 0: PIM_MAC")
    assert any("rank 1" in e["name"] for e in times(f"{title}: host", "channel"))
    ends = [e["ts"] + e["dur"] for e in times(f"{title}: host", "GPU")]
    assert max(ends) == pytest.approx(document["modes"][-1]["clocks"] * 2.5e-3)


def test_one_mode_and_the_gpu_model(model, tmp_path):
    arguments = ("--model", model, "--tokens", 2, "--ranks", 1, "--sub-batches", 1, "--no-overlap-ranks", "--raw")
    done = batch(*given_prompts(PROMPTS[:1]), *arguments, "--gpu", "A100", "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "a.json").read_text())
    assert (document["gpu"], document["gpu_us"]) == ("A100", None)
    (mode,) = document["modes"]
    assert (mode["name"], mode["speedup"]) == ("serial", 1.0)
    assert mode["gpu_busy"] > 0.5  # kernels of us beside attention of a few tokens
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--model", "gone.gguf"), "--model must be an existing file or directory, not 'gone.gguf'"),
        (("--preset", "tini"), "unknown preset 'tini' (did you mean 'tiny'?)"),
        (("--preset", "ddr4-3200-x8-8gb"), "head_dim must be at least 64"),
        (("--preset", "ddr4-3200-x8-8gb-bf16"), "format of the preset must be fp16"),
        (("--gpu", "H10"), "unknown GPU 'H10'"),
        (("--gpu-us", "-1"), "-1.0 is not in the range"),
        (("--ranks", "3"), "number of prompts must be 6 or more: one for each of 2 sub-batches in each of 3 ranks"),
        (("--ranks", "0"), "0 is not in the range"),
        (("--sub-batches", "3"), "3 is not in the range"),
        (("--sub-batches", "1", "--early-transfers"), "sub-batches with early transfers must be 2, not 1"),
        (("--no-overlap-ranks",), "sub-batches without overlap of ranks must be 1, not 2"),
        (("--compare", "--early-transfers"), "--compare and --early-transfers exclude each other"),
        (("--tokens", "0"), "0 is not in the range"),
        (("--tokens", "600"), "tokens in the context must be at most 512"),
        (("--raw", "--prompt", ""), "tokens of the prompt must be 1 or more, not 0"),
        (("--ranks", "1", *given_prompts(["x"] * 13)), "requests of a rank must be at most 16, its slots, not 18"),
        (("--prompts", "gone.txt"), "No such file or directory: gone.txt"),
        (("--prompts", "binary.txt"), "binary.txt is not a text file: byte 0 is not UTF-8"),
        (("--json", "no/such/a.json"), "--json must be a file in a folder that exists"),
        (("--timeline", "no/such/a.json"), "--timeline must be a file in a folder that exists"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, text, model, tmp_path, monkeypatch, capsys):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    defaults = {"--model": model, "--json": "a.json", "--gpu-us": "1"}
    others = [str(x) for item in defaults.items() if item[0] not in arguments for x in item]
    monkeypatch.setenv("DIMMPIM_BUILD_DIR", str(build_root()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["batch", *given_prompts(), *others, *arguments])
    out, errors = capsys.readouterr()
    assert ended.value.code == 2
    assert text in errors
    assert errors.strip().count("\n") == 0
    assert out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["binary.txt"]


def test_no_prompt(model, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["batch", "--model", str(model)])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "give --prompt or --prompts" in errors


def test_interrupt(model, tmp_path):
    """In the midst of decoding: no file, and no crash of what was under way."""
    arguments = ("--model", model, "--tokens", 450, "--ignore-end", "--json", "a.json", "--gpu-us", 1, "--raw")
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command, pipe = [*COMMAND, *given_prompts(), *map(str, arguments)], subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, env=WITH_BUILD, stdout=pipe, stderr=pipe, preexec_fn=heeded)  # noqa: PLW1509
    deadline = time.monotonic() + 60
    while "verilated" not in Path(f"/proc/{process.pid}/maps").read_text():  # the rank has been loaded
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().strip() == "dimmpim: interrupted"
    assert list(tmp_path.iterdir()) == []
