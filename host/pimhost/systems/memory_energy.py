"""Energy of the KV-cache memory outside the GPUs, of the links to it, and of the CPU that attends.

DRAM energy follows from supply currents (:mod:`pimspec.dram.energy`), and the commands of a PIM rank from its timing
model. They are stored in ``pim_energy.json``, written by ``dimmpim pim-energy``; a file ``pim_energy_*.json`` beside it
adds another preset. A value without a source is None, and its reason is stated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pimspec.dram.energy import DRAM_CURRENTS, CommandEnergy, command_energy
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError
from pimspec.params.presets import preset_named

from ..gpu.interconnect import PCIE4_X16
from .node import Node

__all__ = [
    "CPU_CHANNELS",
    "CPU_W",
    "DQ_PJ_PER_BIT",
    "HBM_BANK_PJ_PER_BIT",
    "HBM_PJ_PER_BIT",
    "PCIE4_PJ_PER_BIT",
    "PIM_ENERGY_FILE",
    "MemoryEnergy",
    "PimEnergy",
    "cpu_memory",
    "dimm_memory",
    "host_link_pj_per_byte",
    "pim_energy",
    "pim_energy_document",
    "pim_memory",
    "rank_memory",
]

DQ_PJ_PER_BIT = 5.5
"""Energy of a bit over the data pins of a DRAM: CENT (hardware facts, 3). It stands for DDR4: IDD excludes VDDQ."""
PCIE4_PJ_PER_BIT = 167.9
"""Energy of a bit between GPU and host over PCIe 4.0: Zhao et al., Quantifying Interconnect Energy Efficiency on
Perlmutter, table II (A100; 167.9 +- 10.5), as another project cites it. It was measured at the node, so it includes the
drivers at both ends of the link."""
HBM_BANK_PJ_PER_BIT = 0.55
"""Energy of an HBM bit from cell to bank PU: ACT 0.11 and RD 0.44, FGDRAM in the figures of AttAcc's simulator."""
HBM_PJ_PER_BIT = 3.59
"""Energy of an HBM bit from or to its cell over the interposer: all six parts of the path, from the same source."""
CPU_W = 225.0
"""TDP of an EPYC 7742; a DGX A100 has two."""
CPU_CHANNELS = 8
"""Memory channels of that CPU."""
PIM_ENERGY_FILE = Path(__file__).with_name("pim_energy.json")
JSON_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class MemoryEnergy:
    """Energy constants of a replica's KV-cache memory outside its GPUs; 0 for absent parts, None for unknown ones.

    Parameters
    ----------
    head_nj : float or None
        Energy to attend with a kv_head in one layer to one request, whatever its length.
    read_pj_per_byte, write_pj_per_byte : float or None
        K and V attended to; K and V of new tokens.
    channel_pj_per_byte, link_pj_per_byte : float or None
        Bytes between GPU and that memory: over the memory channel, over the GPU's link.
    standby_w, refresh_w : float or None
        Power of all of the memory, with no bank open.
    active_w : float or None
        Additional power while all of it attends, as banks are open.
    cpu_w : float or None
        Power of the CPU while it attends.
    missing : tuple of str
        Reasons for values that are None.
    """

    head_nj: float | None = 0.0
    read_pj_per_byte: float | None = 0.0
    write_pj_per_byte: float | None = 0.0
    channel_pj_per_byte: float | None = 0.0
    link_pj_per_byte: float | None = 0.0
    standby_w: float | None = 0.0
    refresh_w: float | None = 0.0
    active_w: float | None = 0.0
    cpu_w: float | None = 0.0
    missing: tuple[str, ...] = ()

    def unknown(self, reason: str, *parts: str) -> MemoryEnergy:
        """A copy with these parts unknown."""
        return replace(self, **dict.fromkeys(parts), missing=(*self.missing, reason))


def host_link_pj_per_byte(node: Node) -> float | None:
    """Energy of a byte over the link between GPU and host, or None if it was not measured."""
    return 8 * PCIE4_PJ_PER_BIT if node.host_link is PCIE4_X16 else None


def dimm_memory(node: Node) -> MemoryEnergy:
    """Energy of DDR4 that is written over its channels; reads are left to the caller.

    The currents are those of the part whose timing the node has, for each chip of each rank, whatever `rank_bytes`
    says.
    """
    dram = preset_named(node.preset).dram
    link = host_link_pj_per_byte(node)
    found = MemoryEnergy(channel_pj_per_byte=8 * DQ_PJ_PER_BIT, link_pj_per_byte=link)
    if link is None:
        found = found.unknown(f"no measured energy of {node.host_link.name}", "link_pj_per_byte")
    if dram not in DRAM_CURRENTS:
        parts = ("head_nj", "read_pj_per_byte", "write_pj_per_byte", "standby_w", "refresh_w", "active_w")
        return found.unknown(f"no documented supply currents of {dram}", *parts)
    energy, part = command_energy(dram), dram_preset(dram)
    chips = node.num_ranks * part.organization.chips_per_rank
    interval_ns = float(part.timing.time_ps(part.timing.nREFI)) / 1e3
    return replace(
        found,
        write_pj_per_byte=energy.write_pj / part.organization.column_access_bytes,
        standby_w=chips * energy.precharged_mw / 1e3,
        refresh_w=chips * energy.refresh_pj / interval_ns / 1e3,
        active_w=chips * (energy.active_mw - energy.precharged_mw) / 1e3,
    )


def _read_pj_per_byte(energy: CommandEnergy, dram: str) -> float:
    """Energy of a byte from the cells over the data pins, whole rows at a time."""
    organization = dram_preset(dram).organization
    row_bytes = organization.column_accesses_per_row * organization.column_access_bytes
    return energy.row_pj / row_bytes + energy.read_pj / organization.column_access_bytes + 8 * DQ_PJ_PER_BIT


def _read_over_pins(node: Node) -> MemoryEnergy:
    found, dram = dimm_memory(node), preset_named(node.preset).dram
    if dram not in DRAM_CURRENTS:
        return found
    return replace(found, read_pj_per_byte=_read_pj_per_byte(command_energy(dram), dram))


def cpu_memory(node: Node) -> MemoryEnergy:
    """Energy of DDR4 that a CPU reads, with the CPU at its TDP meanwhile."""
    return replace(_read_over_pins(node), cpu_w=node.channels / CPU_CHANNELS * CPU_W)


def _buffered(found: MemoryEnergy) -> MemoryEnergy:
    """Energy with writes that pass a second set of data pins, between buffer chip and DRAM."""
    if found.write_pj_per_byte is None:
        return found
    return replace(found, write_pj_per_byte=found.write_pj_per_byte + 8 * DQ_PJ_PER_BIT)


def rank_memory(node: Node) -> MemoryEnergy:
    """Energy of DDR4 that a PU on the buffer chip of each rank reads."""
    return _buffered(_read_over_pins(node))


def pim_memory(node: Node, gqa_group_size: int) -> MemoryEnergy:
    """Energy of DDR4 with a PU at each bank, for a model with `gqa_group_size` queries for each kv_head."""
    found = _buffered(dimm_memory(node))
    if found.write_pj_per_byte is None:
        return found
    measured = {group: entry for (name, group), entry in _shipped().items() if name == node.preset}
    if not measured:
        return found.unknown(f"no energy of {node.preset} in {PIM_ENERGY_FILE.name}", "head_nj", "read_pj_per_byte")
    enough = [group for group in measured if group >= gqa_group_size]
    group = min(enough) if enough else max(measured)
    entry, passes = measured[group], -(-gqa_group_size // group)
    pins = 8 * DQ_PJ_PER_BIT
    return replace(
        found,
        head_nj=passes * (entry.head_nj + entry.head_line_bytes * pins / 1e3),
        read_pj_per_byte=passes * (entry.byte_pj + entry.line_bytes_per_byte * pins),
    )


@dataclass(frozen=True, kw_only=True)
class PimEnergy:
    """Command energy of a PIM rank, linear in the bytes of K and V, without standby and refresh.

    Parameters
    ----------
    head_nj, byte_pj : float
        Energy for a kv_head, whatever the length, and for each byte of its K and V.
    head_line_bytes, line_bytes_per_byte : float
        Bytes of operands and results between buffer chip and DRAM, for a kv_head and for each byte.
    """

    head_nj: float
    byte_pj: float
    head_line_bytes: float
    line_bytes_per_byte: float


def pim_energy_document(
    preset: str, groups: Mapping[int, PimEnergy], *, tokens: Sequence[int], greatest_error: float
) -> dict[str, Any]:
    """Content of ``pim_energy.json`` for one preset; `groups` are by queries for each kv_head."""
    return {
        "version": JSON_VERSION,
        "made_by": f"dimmpim pim-energy --preset {preset}",
        "what": "DRAM commands of attention with one kv_head on one rank, a line in the bytes of K and V, head_dim 128",
        "preset": preset,
        "tokens": list(tokens),
        "greatest_error": greatest_error,
        "gqa_group_size": {str(group): asdict(entry) for group, entry in groups.items()},
    }


def pim_energy(path: Path) -> dict[tuple[str, int], PimEnergy]:
    """Energies by preset and queries for each kv_head, from a file written by ``dimmpim pim-energy``.

    Raises
    ------
    ParameterError
        If the file is malformed.
    OSError
    """
    try:
        document = json.loads(path.read_text())
        groups = document["gqa_group_size"].items()
        return {(document["preset"], int(group)): PimEnergy(**entry) for group, entry in groups}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ParameterError(f"{path}: not written by `dimmpim pim-energy`: {error!r}") from None


@cache
def _shipped() -> dict[tuple[str, int], PimEnergy]:
    found: dict[tuple[str, int], PimEnergy] = {}
    for path in sorted(PIM_ENERGY_FILE.parent.glob(f"{PIM_ENERGY_FILE.stem}*.json")):
        found |= pim_energy(path)
    return found
