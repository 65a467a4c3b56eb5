"""Units of the RTL and their twins in the timing model: each side names the other."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from amaranth.lib import wiring

import pimhw
from pimsim.timing import timing_model

HEADERS = {path.name: path.read_text() for path in Path(timing_model.__file__).parent.glob("*.h")}
FOLLOWED = ("dpa", "dram", "host_side", "rank_pu", "sequencer")
NO_TWIN = {
    "pimhw.dram.ca_decoder.CaDecoder",
    "pimhw.dram.ca_encoder.CaEncoder",
    "pimhw.host_side.chip_port.ChipPort",
    "pimhw.host_side.dfi_front_end.DfiFrontEnd",
    "pimhw.host_side.host_accesses.HostAccesses",  # its two units have twins
    "pimhw.rank_pu.relayout.Relayout",
}
"""Units whose results always take the same clocks."""


def components():
    """Components of pimhw by their full name."""
    found = {}
    for info in pkgutil.walk_packages(pimhw.__path__, "pimhw."):
        for name, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if issubclass(kind, wiring.Component) and kind.__module__ == info.name:
                found[f"{info.name}.{name}"] = kind
    return found


COMPONENTS = components()


def twins_of_components():
    """Pairs of a component and (header, struct), as docstrings say."""
    pairs = set()
    for name, kind in COMPONENTS.items():
        for struct, header in re.findall(r"Timing model: ``struct (\w+)`` of ``(\w+\.h)``\.", kind.__doc__ or ""):
            pairs.add((name, (header, struct)))
    return pairs


def twins_of_structs():
    """The same pairs, as the comments above the structs say."""
    pairs = set()
    for header, text in HEADERS.items():
        for names, struct in re.findall(r"^// RTL: ((?:.*\n)(?://      .*\n)*)struct (\w+)", text, re.MULTILINE):
            pairs |= {(name, (header, struct)) for name in re.findall(r"pimhw(?:\.\w+)+", names)}
    return pairs


def test_both_sides_name_the_same_pairs():
    assert twins_of_components() == twins_of_structs()


@pytest.mark.parametrize("pair", sorted(twins_of_structs()), ids=lambda pair: pair[0].rsplit(".", 1)[1])
def test_both_twins_exist(pair):
    name, (header, struct) = pair
    assert name in COMPONENTS
    assert re.search(rf"^struct {struct} {{", HEADERS[header], re.MULTILINE)


def test_every_unit_whose_clocks_vary_has_a_twin():
    """The units of these rooms, but for those that are told to have none."""
    followed = {name for name in COMPONENTS if name.split(".")[1] in FOLLOWED} | {"pimhw.buffer_chip.BufferChip"}
    assert {name for name, _ in twins_of_components()} == followed - NO_TWIN
    assert followed > NO_TWIN


def test_no_mention_of_a_twin_is_in_another_form():
    """What these tests would not see: another spelling of the two lines."""
    for name, kind in COMPONENTS.items():
        own = inspect.getdoc(kind) or ""
        assert own.count("Timing model") == sum(1 for who, _ in twins_of_components() if who == name), name
    for header, text in HEADERS.items():
        assert text.count("// RTL:") == len({struct for _, (where, struct) in twins_of_structs() if where == header})
