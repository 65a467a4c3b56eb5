"""Page of `dimmpim generate --report`: numbers on fabricated activity, and the page as a user gets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from dimmpim.reports.generation import report_html
from dimmpim.reports.generation_data import (
    PARTS,
    UNITS,
    breakdown,
    call_windows,
    points,
    roofs,
    seen_until,
    utilization,
)
from dimmpim.studies.generation import GenerateRun, Step
from pimhost.batch.activity import REFRESH, RankActivity, Span
from pimhost.devices.observed import DeviceCall
from pimhost.llm.generate import GeneratedToken
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf
from pimspec.attention.shape import AttentionShape
from pimspec.hostif.device import DeviceClock, DeviceCost
from pimspec.params.presets import preset_named

SHAPE = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
RANK = preset_named("tiny").rank.for_shape(SHAPE)
NAMES = {"prompt": 'a <b> & "c"\x01\udc80', "backend": "rtl", "preset": "tiny", "model": "random<1>"}
SVG = "{http://www.w3.org/2000/svg}"
WRITE, ATTEND = 100, 900
MAC, SCORES = "bank_group 0: PIM_MAC", "bus: scores and sums from the banks"


def call(kind, layer, cycles, *, streamed=0, tokens=1):
    errors = (1e-4, 3e-4) if kind == "attend" else ()
    cost = DeviceCost(cycles=cycles, bytes_streamed=streamed, host_bus_bytes=640)
    return DeviceCall(kind=kind, layer=layer, tokens=tokens, start=0.0, seconds=0.1, cost=cost, errors=errors)


def spans_of(start):
    """Spans of a layer that is written and attends: 100 clocks and 900."""
    places = (
        ("host WR", 0, 60, 30),
        (REFRESH, 50, 80, 1),  # 20 clocks alone
        ("host WR", 110, 150, 40),
        (MAC, 200, 600, 100),
        (SCORES, 580, 640, 30),  # 40 beside nothing
        (REFRESH, 700, 800, 1),
        ("host RD", 900, 1000, 50),
    )
    return [Span(track=track, start=start + a, end=start + b, count=n) for track, a, b, n in places]


def fabricated(num_tokens=3, *, timed=True):
    """A run of two layers; prefill of 5 tokens takes 500 clocks a layer."""
    steps, spans, now = [], [Span(track="host WR", start=0, end=1000, count=700)], 1000
    for number in range(num_tokens):
        calls = [call("write_kv", layer, 500 if timed else None, tokens=5) for layer in range(2)]
        if number:
            calls = []
            for layer in range(2):
                spans += spans_of(now)
                now += WRITE + ATTEND
                cycles = (WRITE, ATTEND) if timed else (None, None)
                calls.append(call("write_kv", layer, cycles[0]))
                calls.append(call("attend", layer, cycles[1], streamed=4096, tokens=5 + number))
        token = GeneratedToken(token_id=number, position=5 + number, gap=1.0, start=0.0, seconds=0.5)
        steps.append(Step(token=token, text="\0<i>é", calls=tuple(calls)))
    return GenerateRun(
        layers=(3, 7),
        prompt_ids=[1] * 5,
        stop_ids=frozenset(),
        clock=DeviceClock.of_rank(RANK),
        kv_token_bytes=SHAPE.kv_bytes(1),
        start=0.0,
        shape=SHAPE,
        rank=RANK,
        activity=RankActivity(spans=spans) if timed else None,
        steps=steps,
    )


def checked(page):
    """The page as a tree; it is well-formed and refers to nothing outside."""
    tree = ElementTree.fromstring(page)
    namespaces = r'xmlns(:\w+)?="http://www\.w3\.org/[^"]*"'
    assert not re.search(r"https?:|//\w|@import|<script|<link|<img|url\((?!#)", re.sub(namespaces, "", page))
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page))
    assert used <= set(ids)
    defined = set(re.findall(r"--(\w+):", page))
    assert set(re.findall(r"var\(--(\w+)\)", page)) <= defined
    assert not re.search(r"(fill|stroke): #", page)  # all colours follow the page
    return tree


def words(tree):
    return "".join(tree.itertext())


def test_utilization_is_commands_over_what_could_be():
    activity = RankActivity(spans=spans_of(0))
    found = utilization(activity, RANK, np.array([0.0, 200.0, 400.0, 1000.0]))
    share = 100 * RANK.timing.nCCD_MAC / RANK.ck_per_clock / RANK.num_banks  # clocks of all banks
    np.testing.assert_allclose(found["MAC units"], [0, share / 2 / 200, share / 2 / 600])
    np.testing.assert_allclose(found["host bus"], [70 / 200, 0, 50 / 600])
    np.testing.assert_allclose(found["chip bus"], [0, 0, 30 / 600])
    assert set(found) == set(UNITS)
    empty = utilization(RankActivity(), RANK, np.array([0.0, 10.0]))
    assert all(not values.any() for values in empty.values())


def test_breakdown_adds_up_to_the_cycles_of_each_token():
    run = fabricated(4)
    tokens, cycles = breakdown(run)
    assert tokens == [1, 2, 3]
    assert [int(n) for n in cycles.sum(axis=1)] == [step.cycles for step in run.steps[1:]]
    layer = dict(zip(PARTS, (80, 40, 400, 40, 100, 20 + 100, 220), strict=True))
    for row in cycles:
        assert dict(zip(PARTS, (row // 2).tolist(), strict=True)) == layer


def test_activity_cut_off_shows_whole_tokens_only():
    run = fabricated(4)
    run.activity = RankActivity(spans=run.activity.spans[:-2], cut_off=True)
    windows = call_windows(run)
    assert windows[-1].end == 7000
    assert seen_until(run, windows) == 6100  # the attention in which it was cut off begins
    assert breakdown(run)[0] == [1, 2]
    page = report_html(run, **NAMES)
    assert "what came later is not shown" in words(checked(page))
    run.activity = RankActivity(spans=[replace(run.activity.spans[0], start=0)], cut_off=True)
    assert seen_until(run, windows) == 0
    assert len(list(checked(report_html(run, **NAMES)).iter(f"{SVG}svg"))) == 2


def test_roofs_and_points_equal_a_count_by_hand():
    roof, run = roofs(RANK), fabricated(3)
    clock = run.clock
    assert roof.banks == pytest.approx(clock.peak_bytes_per_cycle / clock.cycle_ps * 1e12)
    assert roof.external < roof.physical < roof.banks
    assert roof.flop_per_s == RANK.queries_at_once * roof.banks
    tokens, layers = points(run)
    assert [p.intensity for p in tokens] == [2 * SHAPE.macs(n) / 4096 for n in (6, 7)]
    assert tokens[0].flop_per_s == pytest.approx(2 * SHAPE.macs(6) / (ATTEND * clock.cycle_ps * 1e-12))
    assert layers == [tokens[0], tokens[0], tokens[1], tokens[1]]
    assert all(p.flop_per_s is None for p in points(fabricated(timed=False))[0])


@pytest.mark.parametrize("num_tokens", [1, 2, 130])
def test_page_of_a_timed_run_has_all_sections(num_tokens):
    run = fabricated(num_tokens)
    page = report_html(run, **NAMES)
    tree = checked(page)
    text = words(tree)
    assert len(list(tree.iter(f"{SVG}svg"))) == (2 if num_tokens == 1 else 4)
    assert 'a <b> & "c"\\x01\\xdc80' in text
    assert "\\x00<i>é" in text
    if num_tokens > 1:
        assert "2,000" in text  # cycles per token
        for label in (*UNITS, *PARTS, "physical limit", "bus between host and DIMM", "relative L2 error"):
            assert label in text, label
        assert "3.00e-04 (layer 3)" in text
    if num_tokens == 130:
        assert "a bar is the mean of 3 tokens" in text
    assert page == report_html(fabricated(num_tokens), **NAMES)


def test_page_without_time_or_device_gives_the_reasons():
    text = words(checked(report_html(fabricated(timed=False), **{**NAMES, "backend": "golden"})))
    assert "No plots over simulated time: the backend golden has none." in text
    assert "intensity of the run; no time measured" in text
    run = fabricated(2, timed=False)
    run.layers, run.clock = (), None
    run.steps = [replace(step, calls=()) for step in run.steps]
    text = words(checked(report_html(run, **NAMES)))
    assert "No plots over simulated time: no layer is on the device." in text
    assert "Not computed." in text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = synthetic_config(num_layers=2, context_length=256)
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    write_gguf(path, config, synthetic_weights(config, 1))
    return path


def generate(model, *arguments, cwd):
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", "generate", "--model", str(model)]
    command += ["--prompt", "<hello>", "--preset", "tiny", "--tokens", "4", "--ignore-end", *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ}, capture_output=True, text=True, check=False)


def test_command_writes_the_same_page_twice(model, tmp_path):
    pages = []
    for _ in range(2):
        done = generate(model, "--report", "report.html", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
        pages.append((tmp_path / "report.html").read_text())
    assert pages[0] == pages[1]
    text = words(checked(pages[0]))
    assert "random.gguf, golden on tiny" in text
    assert "<hello>" in text
    assert "the backend golden has none" in text


@pytest.mark.parametrize("path", ["no/such/report.html", "folder"])
def test_bad_path_is_one_line_and_status_2(path, model, tmp_path):
    (tmp_path / "folder").mkdir()
    done = generate(model, "--report", path, "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "--report" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


def test_plots_are_loaded_only_when_needed():
    code = "import sys, dimmpim.commands.generate, dimmpim.reports.generation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
