"""Pictures of the documentation show what the parameters and the hardware say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from amaranth.hdl import Fragment

from dimmpim.ranks import open_timing
from dimmpim.reports import run_pictures
from dimmpim.reports.diagrams import BUFFER_CHIP_UNITS, PICTURES, buffer_chip_picture, chip_picture, draw_all
from dimmpim.reports.run_pictures import bursts
from dimmpim.reports.svg_canvas import Canvas
from pimhost.driver.decode_step import time_step
from pimhw.buffer_chip import BufferChip
from pimspec.attention.placement import KvKind
from pimspec.attention.shape import AttentionShape
from pimspec.params.presets import PRESETS, preset_named

IMAGES = Path(__file__).parents[2] / "docs/images"


@pytest.mark.parametrize("name", PICTURES)
def test_checked_in_picture_is_the_one_that_is_drawn(name: str) -> None:
    drawn = PICTURES[name](preset_named("ddr4-3200-x8-8gb")).svg
    again = "draw them again: python -m dimmpim.reports.diagrams --out docs/images"
    assert (IMAGES / f"{name}.svg").read_text() == drawn, again


def test_no_other_pictures_are_checked_in() -> None:
    assert {path.stem for path in IMAGES.iterdir()} == set(PICTURES)


def test_every_unit_of_the_buffer_chip_is_in_a_box_of_its_picture() -> None:
    params = PRESETS["tiny"].rank.with_dpa()
    top = Fragment.get(BufferChip(params=params), None)
    units = {name.rstrip("0123456789") for _, name, _ in top.subfragments if name}
    assert units == {unit for box in BUFFER_CHIP_UNITS.values() for unit in box}


@pytest.mark.parametrize("preset", [p for p in PRESETS if not p.startswith("ddr5")])
def test_pictures_of_every_preset_are_drawn_inside_their_frame(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_pictures, "PHASES", 1)
    for path in draw_all(preset_named(preset), tmp_path):
        root = ElementTree.parse(path).getroot()
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            x, y = float(element.get("x", 0)), float(element.get("y", 0))
            right, bottom = x + float(element.get("width", 0)), y + float(element.get("height", 0))
            assert 0 <= x <= width, (path.name, element.attrib)
            assert 0 <= y <= height, (path.name, element.attrib)
            if element is not root:
                assert (right <= width + 1, bottom <= height + 1) == (True, True), (path.name, element.attrib)


def test_a_parameter_that_changes_changes_the_picture() -> None:
    preset = preset_named("ddr4-3200-x8-8gb")
    other = replace(preset, rank=replace(preset.rank, queries_at_once=8))
    assert "32 multipliers" in chip_picture(other).svg
    assert "4 multipliers" in chip_picture(preset).svg
    fewer = replace(preset, rank=replace(preset.rank, host_queue=8))
    assert "queue of 8 accesses" in buffer_chip_picture(fewer).svg


def test_bursts_of_the_pipeline_are_all_accesses_of_k_and_v() -> None:
    params, steps = PRESETS["tiny"].rank, 2
    shape = AttentionShape(num_q_heads=2, num_kv_heads=2, head_dim=params.head_dim)
    params = params.for_shape(shape)
    with open_timing(params) as host:
        commands = time_step(host, shape, steps * params.row_lines * params.num_chips, trace=True).commands
    accesses = dict.fromkeys(KvKind, 0)
    for burst in bursts(params, commands, steps):
        accesses[burst.kind] += (burst.end - burst.ck) // params.timing.nCCD_MAC
    per_kind = 2 * steps * params.num_banks * params.organization.column_accesses_per_row
    assert accesses == dict.fromkeys(KvKind, per_kind)


def test_text_of_a_drawing_is_escaped_and_the_same_every_time() -> None:
    def draw() -> str:
        canvas = Canvas(100, 50, "a < b")
        canvas.text(10, 20, "x & y")
        canvas.arrow(10, 10, 10, 40, both=True)
        return canvas.svg

    root = ElementTree.fromstring(draw())
    assert [e.text for e in root if e.tag.endswith("text")] == ["x & y"]
    assert sum(e.tag.endswith("polygon") for e in root) == 2
    assert draw() == draw()
