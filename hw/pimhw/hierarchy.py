"""Hierarchical Verilog of large tops: a part that occurs many times is one module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .generate import component_verilog

__all__ = ["expect_no_elaboration", "expose", "hierarchical_verilog", "instance_of"]


def instance_of(component: wiring.Component, module: str) -> Instance:
    """An instance of the Verilog module that :func:`~.generate.component_verilog` makes of `component`.

    The ports of the instance are the signals of the members of `component`, so the parent uses `component` as if it
    were a submodule, but `component` itself is never elaborated. Simulators of Amaranth cannot run such a parent.

    Parameters
    ----------
    component : wiring.Component
        Component of the domain sync.
    module : str
        The name of the module.
    """
    ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
    for path, member, value in component.signature.flatten(component):
        name = "__".join(str(part) for part in path)
        ports[f"{'i' if member.flow is In else 'o'}_{name}"] = Value.cast(value)
    expect_no_elaboration(component)
    return Instance(module, **ports)


def expect_no_elaboration(part: object) -> None:
    """Keep Amaranth from warning that `part`, and the components that it holds, are not elaborated."""
    if isinstance(part, Elaboratable):
        if part._MustUse__used:  # a memory and its ports hold each other
            return
        part._MustUse__used = True
        part = vars(part)
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            expect_no_elaboration(each)


def expose(m: Module, outer: object, inner: wiring.PureInterface, names: Iterable[str]) -> None:
    """Make members of `inner`, a part of `m` or a port of one, those of the same names of `outer`, ports of `m`.

    As :func:`amaranth.lib.wiring.connect` would, but for the members given alone, and in their order. Those of an array
    or a port flow one way.
    """
    for name in names:
        out = inner.signature.members[name].flow is Out
        for mine, its in zip(_values(getattr(outer, name)), _values(getattr(inner, name)), strict=True):
            m.d.comb += mine.eq(its) if out else its.eq(mine)


def _values(member: object) -> list[Any]:
    """Values of a member: a value, an array, or a port whose members flow one way."""
    if isinstance(member, (list, tuple)):
        return [value for each in member for value in _values(each)]
    if isinstance(member, (wiring.PureInterface, wiring.FlippedInterface)):
        return [value for name in member.signature.members for value in _values(getattr(member, name))]
    return [member]


def hierarchical_verilog(top: wiring.Component, name: str, parts: Mapping[str, wiring.Component]) -> str:
    """Verilog text of `parts` and of `top`, which has instances of them.

    Parameters
    ----------
    top : wiring.Component
    name : str
        Name of the top module.
    parts : mapping of module name to component
        An object of its own for each: one that was given to :func:`instance_of` would do, too.

    Returns
    -------
    str
        Each part once, in the order of their names, and the top; submodules of one logic are one module, too. The same
        bytes wherever the sources lie.
    """
    texts = [component_verilog(parts[module], module) for module in sorted(parts)]
    text = "\n".join([*texts, component_verilog(top, name)])
    text = re.sub(r"^ *\(\* src = .* \*\)\n", "", text, flags=re.MULTILINE)  # those of memories name source files
    return _merged(text)


_NAME = r"\\\S+ |\w+"  # an escaped name ends with a space
_MODULE = re.compile(rf"^module ({_NAME}) ?\(.*?^endmodule\n", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(rf"^  ({_NAME}) (?={_NAME} ?\($)", re.MULTILINE)


def _merged(text: str) -> str:
    """Keep the first of all modules that differ in nothing but their names, for submodules first."""
    modules = {match[1]: match[0] for match in _MODULE.finditer(text)}
    while True:
        first: dict[str, str] = {}
        kept = {name: first.setdefault(body[len("module ") + len(name) :], name) for name, body in modules.items()}
        if all(name == other for name, other in kept.items()):
            return "\n".join(modules.values())
        modules = {name: _renamed(body, kept) for name, body in modules.items() if kept[name] == name}


def _renamed(body: str, names: Mapping[str, str]) -> str:
    """A module whose instances of the modules `names` become instances of their representatives."""
    return _INSTANCE.sub(lambda match: f"  {names.get(match[1], match[1])} ", body)
