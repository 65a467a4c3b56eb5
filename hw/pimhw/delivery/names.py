"""Names in generated Verilog: a prefix for every module, and readable names of submodules' ports."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pimspec.errors import require

__all__ = ["prefixed", "readable_ports", "require_prefix"]

_NAME = r"\\\S+ |\w+"  # an escaped name ends with a space
_MODULE = re.compile(rf"^module ({_NAME}) ?\((.*?)\);\n.*?^endmodule\n", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(rf"^  ({_NAME}) ({_NAME}) ?\(\n((?:    \.(?:{_NAME}) ?\(.*?\),?\n)+)  \);\n", re.MULTILINE)
_CONNECTION = re.compile(rf"^    \.({_NAME}) ?\((.*)\),?$", re.MULTILINE)
_IDENTIFIER = re.compile(rf"^({_NAME})(?: ?\[(\d+)(?::(\d+))?\])?$")


def require_prefix(prefix: str) -> None:
    """Raise ParameterError unless `prefix` is empty or can begin a Verilog identifier."""
    legal = not prefix or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix) is not None
    require(legal, "prefix", prefix, "letters, digits and _, no digit first")


def prefixed(verilog: str, prefix: str) -> str:
    """The same modules with `prefix` before the name of each, so that ranks of several presets fit into one design.

    Raises
    ------
    ParameterError
        If the prefix is not a Verilog identifier.
    """
    require_prefix(prefix)
    if not prefix:
        return verilog
    names = {match[1] for match in _MODULE.finditer(verilog)}

    def renamed(name: str) -> str:
        return f"\\{prefix}{name[1:]}" if name.startswith("\\") else prefix + name

    text = re.sub(rf"^module ({_NAME})", lambda m: f"module {renamed(m[1])}", verilog, flags=re.MULTILINE)
    return re.sub(
        rf"^  ({_NAME}) (?={_NAME} ?\(\n)",
        lambda m: f"  {renamed(m[1])} " if m[1] in names else m[0],
        text,
        flags=re.MULTILINE,
    )


def readable_ports(verilog: str) -> str:
    """The same modules; ports with a ``$`` in their names get those of the wires that they are connected to.

    Amaranth numbers a port that carries a part of a signal, or a signal of another module: ``port$83$0``.
    """
    modules = {match[1]: match[0] for match in _MODULE.finditer(verilog)}
    headers = {match[1]: match[2] for match in _MODULE.finditer(verilog)}
    renamed: dict[str, dict[str, str]] = {}
    for body in modules.values():
        for module, connections in _instances(body):
            if module in modules and module not in renamed:
                renamed[module] = _better_names(headers[module], modules[module], connections)
    for name, changes in renamed.items():
        for old, new in changes.items():
            modules[name] = modules[name].replace(old, f"{new} ")

    def reconnected(match: re.Match[str]) -> str:
        changes, text = renamed.get(match[1], {}), match[0]
        for old, new in changes.items():
            text = text.replace(f"    .{old}(", f"    .{new} (")
        return text

    return "\n".join(_INSTANCE.sub(reconnected, body) for body in modules.values())


def _instances(body: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Module and connections of each instance in a module."""
    for match in _INSTANCE.finditer(body):
        yield match[1], {port: wire.strip() for port, wire in _CONNECTION.findall(match[3])}


def _better_names(header: str, body: str, connections: dict[str, str]) -> dict[str, str]:
    """New names of the numbered ports of a module, by the old ones as they stand in the text."""
    taken = set(re.findall(r"\w+", body))
    changes = {}
    for port in re.findall(_NAME, header):
        if not port.startswith("\\") or "$" not in port:
            continue
        base = _name_of(connections.get(port, "")) or _assigned(body, port) or port[1:].split("$")[0]
        if base == "port":  # a part of an expression
            base = "operand" if re.search(rf"^  input .*{re.escape(port)} ?;$", body, re.MULTILINE) else "result"
        new, number = base, 1
        while new in taken:
            number += 1
            new = f"{base}_{number}"
        taken.add(new)
        changes[port] = new
    return changes


def _name_of(wire: str) -> str:
    """Name for a wire, or a part of one; empty if it has none that a reader would know."""
    match = _IDENTIFIER.match(wire)
    if match is None:
        return ""
    name = re.sub(r"\W", "_", match[1].strip("\\ ").split("$")[0])
    return f"{name}_bit{match[3] or match[2]}" if name and match[2] else name


def _assigned(body: str, port: str) -> str:
    """Name of a signal of a module that a port drives or follows."""
    token = re.escape(port)
    for pattern in (rf"^  assign (.+?) = {token};$", rf"^  assign {token} = (.+?);$", rf"^    \.(\w+) ?\({token}\),?$"):
        for match in re.finditer(pattern, body, re.MULTILINE):
            if name := _name_of(match[1].strip()):
                return name
    return ""
