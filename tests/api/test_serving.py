"""`dimmpim.serve` and `compare` give what the commands of these names write."""

from __future__ import annotations

import pytest

import dimmpim
from pimhost.systems.l3 import L3

from .conftest import timeless

WORK = {"lengths": "Dolphin-r1", "num_requests": 12, "rate": 2.0, "seed": 4}
OPTIONS = ("--lengths", "Dolphin-r1", "--requests", "12", "--rate", "2", "--seed", "4")


class Broken(L3):
    """A system that fails."""

    name = "broken"

    def plan(self, turn):
        raise ZeroDivisionError("of my own")


def test_serve_is_the_command_serve(command_json):
    own = dimmpim.serve("L3", "GPT-175B", **WORK)
    assert timeless(own.to_dict()) == command_json("serve", "--system", "L3", "--model", "GPT-175B", *OPTIONS)
    assert own.figures.finished == 12
    assert f"{own.figures.output_tokens_per_s:.4g}" in str(own)


def test_requests_and_a_node_can_be_given():
    requests, node = dimmpim.workload(**WORK), dimmpim.Node(tp_size=4, channels=8)
    given = dimmpim.serve(L3, dimmpim.model("GPT-89B"), requests, node=node, admission="reserve", until_s=30)
    assert given.to_dict()["node"]["tp_size"] == 4
    assert given.figures.seconds >= 30
    with pytest.raises(dimmpim.ParameterError, match="rate must be left out where requests are given"):
        dimmpim.serve("L3", "GPT-89B", requests, rate=3.0)


def test_compare_is_the_command_compare(command_json):
    own = dimmpim.compare(["GPU", "L3"], "GPT-175B", **WORK)
    written = command_json("compare", "--systems", "GPU,L3", "--model", "GPT-175B", "--jobs", "1", *OPTIONS)
    assert timeless(own.to_dict()) == written
    assert timeless(own.runs["L3"].to_dict()) == timeless(dimmpim.serve("L3", "GPT-175B", **WORK).to_dict())
    head = str(own).splitlines()[0].split()
    assert head == ["GPU", "L3"]


def test_a_system_that_cannot_serve_is_among_the_failures():
    table = dimmpim.compare(["GPU", "L3"], "SmolLM2-135M", node=dimmpim.Node(tp_size=1), **WORK)
    assert list(table.runs) == ["GPU"]
    assert "head_dim must be 128" in table.failures["L3"]
    assert "L3: head_dim must be 128" in str(table)
    assert table.to_dict()["runs"][1] == {"system": "L3", "error": table.failures["L3"]}


def test_a_fault_of_a_users_system_is_a_tool_error():
    with pytest.raises(dimmpim.ToolError, match="broken: ZeroDivisionError: of my own"):
        dimmpim.serve(Broken, "GPT-175B", **WORK)


def test_the_same_system_twice_is_refused():
    with pytest.raises(dimmpim.ParameterError, match="systems must be different systems"):
        dimmpim.compare(["L3", "chime"], "GPT-175B", **WORK)
