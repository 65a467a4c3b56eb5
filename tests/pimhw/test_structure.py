"""Structure of the components: elaborating one changes nothing but what it returns."""

from __future__ import annotations

import ast
import gc
import warnings
from pathlib import Path

import pytest
from amaranth.hdl import UnusedElaboratable

import pimhw
from pimhw.pim_rank import rank_verilog
from pimspec.params.presets import preset_named

SOURCES = sorted(Path(pimhw.__path__[0]).rglob("*.py"))
MAX_LINES = 400


def stores(function):
    """Attributes of `self` that a method assigns."""
    return [
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ]


def elaboratables(tree):
    """Classes that have a method `elaborate` or a base that has; helpers that are not, such as Cuts, have neither."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and {m.name for m in node.body if isinstance(m, ast.FunctionDef)} & {
            "elaborate",
            "datapath",
        }:
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_attributes_are_set_by_init_alone(path):
    for component in elaboratables(ast.parse(path.read_text())):
        for method in component.body:
            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                assert not stores(method), f"{component.name}.{method.name}"


def test_the_search_finds_components_and_what_they_assign():
    text = "class A:\n def elaborate(self, platform):\n  self._x, y = 1, 2\n  self.z.w = 3\nclass B:\n pass"
    (component,) = elaboratables(ast.parse(text))
    assert stores(component.body[0]) == ["_x"]
    assert sum(len(list(elaboratables(ast.parse(path.read_text())))) for path in SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_a_rank_leaves_no_component_unused():
    """Parts that stand as instances of a module are not elaborated, and Amaranth need not warn of them."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnusedElaboratable)
        rank_verilog(preset_named("tiny").rank)
        gc.collect()
    assert [str(w.message) for w in caught if issubclass(w.category, UnusedElaboratable)] == []
