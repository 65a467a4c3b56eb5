"""Energy of a run: GPUs, memory for K and V, links and CPU, part by part.

Each device has a constant power, and an energy for its work:

* a GPU has static power, busy or idle, and energy of arithmetic and bytes (:mod:`pimhost.gpu.power`), summed iteration
  by iteration during the run;
* memory for K and V outside the GPUs has standby and refresh, energy for each byte read and written, and more standby
  while it works (:mod:`pimhost.systems.memory_energy`);
* links have energy for each byte, and a CPU has power while it attends.

A part without a source is None, and so is every sum that would contain it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..gpu.power import GpuPower
from ..systems.memory_energy import MemoryEnergy
from .memory import check
from .outcome import Outcome

__all__ = ["NOT_COUNTED", "EnergyFigures", "EnergyModel", "EnergyParts", "measure_energy"]

NOT_COUNTED: tuple[str, ...] = (
    "arithmetic of PUs in or beside DRAM",
    "word line supply (VPP), command and address bus",
    "rows opened for K and V of new tokens",
    "host CPU but for attention",
    "NVSwitch, network, storage, fans, power supplies",
)
"""Consumers without a documented constant; no estimate is put in their place."""


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Energy constants of one replica.

    Parameters
    ----------
    gpus : int
    gpu_name : str
    gpu : GpuPower or None
        None if it was not measured.
    memory : MemoryEnergy
    kv_heads : int
        kv_heads of all layers, which a decoding request attends with in each iteration.
    """

    gpus: int
    gpu_name: str
    gpu: GpuPower | None
    memory: MemoryEnergy
    kv_heads: int


@dataclass(frozen=True, kw_only=True)
class EnergyParts:
    """Energy by consumer, in J; 0 for what the system does not have, None for what is not known.

    Parameters
    ----------
    gpu_idle, gpu_static : float or None
        Static energy of the GPUs while idle, and while busy.
    gpu_arithmetic, gpu_memory : float or None
        Work of the GPUs: operations, and bytes of their memory.
    attention : float or None
        Reads of K and V outside the GPUs.
    writes : float or None
        Writes of new K and V to memory outside the GPUs.
    standby, refresh : float or None
        Standby and refresh of that memory.
    channel, link : float or None
        Bytes on the memory channels, and on the GPUs' links to the host.
    cpu : float or None
        CPU while it attends.
    """

    gpu_idle: float | None
    gpu_static: float | None
    gpu_arithmetic: float | None
    gpu_memory: float | None
    attention: float | None
    writes: float | None
    standby: float | None
    refresh: float | None
    channel: float | None
    link: float | None
    cpu: float | None

    @property
    def values(self) -> dict[str, float | None]:
        """Parts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class EnergyFigures:
    """Energy of a run, over all replicas.

    Parameters
    ----------
    total_j, j_per_output_token, mean_w : float or None
        Sum of the parts; that sum over generated tokens; that sum over the time until the last replica was done.
    parts_j : EnergyParts
    missing, not_counted : tuple of str
        Reasons for parts that are None; consumers that are in no part.
    """

    total_j: float | None
    j_per_output_token: float | None
    mean_w: float | None
    parts_j: EnergyParts
    missing: tuple[str, ...]
    not_counted: tuple[str, ...] = NOT_COUNTED

    def document(self) -> dict[str, Any]:
        """Dictionary for JSON."""
        return {
            "total_j": self.total_j,
            "j_per_output_token": self.j_per_output_token,
            "mean_w": self.mean_w,
            "parts_j": self.parts_j.values,
            "missing": list(self.missing),
            "not_counted": list(self.not_counted),
        }


def measure_energy(outcomes: Sequence[Outcome], model: EnergyModel) -> EnergyFigures:
    """Energy of replicas that ran side by side from time 0 until the last one was done.

    Raises
    ------
    InvariantError
        If energy or time do not add up.
    """
    end_ns = max(o.end_ns for o in outcomes)

    def total(name: str) -> int:
        return sum(getattr(o, name) for o in outcomes)

    gpu_parts = _gpu_parts(model, end_ns * len(outcomes), total)
    memory_parts = _memory_parts(model, outcomes, end_ns * len(outcomes), total)
    parts = EnergyParts(**gpu_parts, **memory_parts)
    known = [value for value in parts.values.values() if value is not None]
    check(all(value >= 0 for value in known), "energy below 0")
    total_j = math.fsum(known) if len(known) == len(parts.values) else None
    tokens = sum(int(o.generated.sum()) for o in outcomes)
    missing = () if model.gpu else (f"no measured power of {model.gpu_name}",)
    return EnergyFigures(
        total_j=total_j,
        j_per_output_token=total_j / tokens if total_j is not None and tokens else None,
        mean_w=total_j / (end_ns / 1e9) if total_j is not None and end_ns else None,
        parts_j=parts,
        missing=(*missing, *model.memory.missing),
    )


def _gpu_parts(model: EnergyModel, whole_ns: int, total: Callable[[str], int]) -> dict[str, float | None]:
    names = ("gpu_idle", "gpu_static", "gpu_arithmetic", "gpu_memory")
    if model.gpu is None:
        return dict.fromkeys(names)
    busy_ns = total("gpu_ns")
    idle_ns = whole_ns - busy_ns
    check(idle_ns >= 0, "a GPU works for longer than the run lasts")
    watts = model.gpus * model.gpu.static_w
    of_work = (total("gpu_arithmetic_nj") / 1e9, total("gpu_memory_nj") / 1e9)
    found = dict(zip(names, (watts * idle_ns / 1e9, watts * busy_ns / 1e9, *of_work), strict=True))
    summed = watts * whole_ns / 1e9 + total("gpu_work_nj") / 1e9
    check(math.isclose(math.fsum(found.values()), summed, rel_tol=1e-9), "energy of the GPUs lost or found")
    return dict(found)


def _memory_parts(
    model: EnergyModel, outcomes: Sequence[Outcome], whole_ns: int, total: Callable[[str], int]
) -> dict[str, float | None]:
    memory = model.memory
    written = sum((o.prefill_tokens + o.decoded_tokens) * o.geometry.token_bytes for o in outcomes)
    heads, seconds = total("decoded_tokens") * model.kv_heads, whole_ns / 1e9
    reading = _sum(_part(memory.head_nj, heads * 1e-9), _part(memory.read_pj_per_byte, total("kv_read_bytes") * 1e-12))
    standby = _sum(_part(memory.standby_w, seconds), _part(memory.active_w, total("pim_mean_ns") / 1e9))
    return {
        "attention": reading,
        "writes": _part(memory.write_pj_per_byte, written * 1e-12),
        "standby": standby,
        "refresh": _part(memory.refresh_w, seconds),
        "channel": _part(memory.channel_pj_per_byte, total("link_bytes") * 1e-12),
        "link": _part(memory.link_pj_per_byte, total("link_bytes") * 1e-12),
        "cpu": _part(memory.cpu_w, total("pim_ns") / 1e9),
    }


def _part(constant: float | None, amount: float) -> float | None:
    return None if constant is None else constant * amount


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else None
