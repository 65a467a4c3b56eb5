"""Ports of a rank, for its sidecar."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

__all__ = ["MEANINGS", "rank_ports"]

MEANINGS = {
    "host": "command of the host in CK {0} of the clock: {1}",
    "host_data": "line that the host writes, byte chips * dq_beat + chip",
    "host_mask": "DM of the line: 1 keeps a byte",
    "host_out_valid": "a line is read",
    "host_out_data": "line that the host reads",
    "finished": "pulse: a kv_head is done",
    "faulted": "pulse: a program was stopped",
    "cells": "cell array of chip {chip}, bank {0}: {1}",
}
"""Meanings of ports by the first part of their names; fields are the further parts."""
_PARTS = {
    "valid": "chip select, low on the pin",
    "payload": "code, flat bank, row, number of a column access",
    "en": "access in this clock",
    "write": "the access writes",
    "row": "open row",
    "column": "number of the column access",
    "data": "data to write",
    "mask": "1 keeps a byte",
    "read_data": "data read, in the clock after the access",
}


def rank_ports(component: wiring.Component) -> list[dict[str, Any]]:
    """Ports of a component as they stand in its Verilog, with the fields of packed ones.

    Returns
    -------
    list of dict
        `name`, `direction`, `width`, `meaning`, and for a packed port `fields`: `name`, `offset`, `width` in bits.
    """
    ports: list[dict[str, Any]] = [
        {"name": "clk", "direction": "input", "width": 1, "meaning": "controller clock, rising edge"},
        {"name": "rst", "direction": "input", "width": 1, "meaning": "reset, synchronous, active high"},
    ]
    for path, member, value in component.signature.flatten(component):
        parts = [str(part) for part in path]
        port: dict[str, Any] = {
            "name": "__".join(parts),
            "direction": "input" if member.flow is In else "output",
            "width": len(Value.cast(value)),
            "meaning": _meaning(parts),
        }
        if isinstance(member.shape, data.StructLayout):
            port["fields"] = _fields(member.shape)
        ports.append(port)
    return ports


def _fields(layout: data.StructLayout) -> list[dict[str, Any]]:
    return [{"name": str(name), "offset": field.offset, "width": field.width} for name, field in layout]


def _meaning(parts: list[str]) -> str:
    first, rest = parts[0], parts[1:]
    chip = first.removeprefix("cells")
    if chip.isdigit():
        first = "cells"
    rest = [_PARTS.get(part, part) for part in rest]
    return MEANINGS[first].format(*rest, chip=chip)
