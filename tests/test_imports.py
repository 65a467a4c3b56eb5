"""Every module of the packages can be imported and read by pydoc."""

from __future__ import annotations

import importlib
import pkgutil
import pydoc
import sys

import pytest

PACKAGES = ("pimspec", "pimhw", "pimsim", "pimcompiler", "pimhost", "dimmpim")


def modules():
    for package in map(importlib.import_module, PACKAGES):
        yield from (m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=_fail))


def _fail(name):
    raise ImportError(f"package {name} cannot be imported")


@pytest.mark.parametrize("name", sorted(modules()))
def test_module_can_be_imported_and_documented(name, capfd, monkeypatch):
    """It does nothing but define: it prints nothing, and looks at no command line."""
    monkeypatch.setattr(sys, "argv", ["nobody", "--reads", "this"])
    text = pydoc.plain(pydoc.render_doc(importlib.import_module(name)))
    assert capfd.readouterr() == ("", "")
    assert name in text
