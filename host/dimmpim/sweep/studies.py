"""Studies of sweeps: serving systems under requests, and attention on a rank in the timing model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from dimmpim.api.attention import run_attention
from dimmpim.api.presets import preset_of
from dimmpim.studies.comparison import Job, reason_of, run_job
from dimmpim.sweep.table import ERROR, Column, Row, TableLayout
from pimhost.serving.energy import EnergyParts
from pimhost.serving.figures import Percentiles, ServeFigures
from pimhost.serving.simulator import Admission
from pimhost.systems.node import GIB, Node
from pimhost.workloads.workload import Workload
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ToolError

__all__ = ["ATTENTION", "SERVE", "Point", "Study", "files_digest", "guarded"]

_NODE = {
    "gpu": str, "gpu_model": str, "tp": int, "dp": int, "channels": int, "ranks_per_channel": int, "rank_gib": int,
    "preset": str, "gpu_memory_share": float,
}  # fmt: skip
_WORKLOAD = {"trace": str, "trace_format": str, "lengths": str, "requests_asked": int, "rate": float, "seed": int}
_PERCENTILES = [field.name for field in fields(Percentiles)]
_ENERGY = ("total_j", "j_per_output_token", "mean_w")


@dataclass(frozen=True)
class Point:
    """A configuration, with the other inputs of its work on any machine.

    Parameters
    ----------
    inputs : mapping
    workload : Workload, optional
        Requests of a serving study, so that no node of a cluster needs the trace.
    system, model : str
        Names of a serving study as in `inputs`, but with whole paths for files.
    """

    inputs: Mapping[str, Any]
    workload: Workload | None = None
    system: str = ""
    model: str = ""


@dataclass(frozen=True)
class Study:
    """A kind of sweep.

    Parameters
    ----------
    layout : TableLayout
    run : callable
        Returns the figures of a :class:`Point`, or its :data:`~dimmpim.sweep.table.ERROR`.
    """

    layout: TableLayout
    run: Callable[[Point], Row]


def _columns(kinds: Mapping[str, type]) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in kinds.items())


def guarded(study: Study, point: Point) -> Row:
    """Row of a point; without figures, it has the reason.

    Raises
    ------
    ToolError
        If something is missing that all configurations need.
    """
    try:
        return study.layout.row({**point.inputs, **study.run(point)})
    except ToolError:
        raise
    except (Exception, SystemExit) as error:
        return study.layout.row({**point.inputs, ERROR: reason_of(error)})


@cache
def files_digest(names: tuple[str, ...]) -> str | None:
    """Digest of the contents of those names that are files, so that a row of a file since changed is not reused."""
    digest, found = hashlib.sha256(), False
    for path in map(Path, names):
        path = path / "config.json" if path.is_dir() else path  # noqa: PLW2901 - of a model
        if path.is_file():
            found = True
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16] if found else None


def _serve(point: Point) -> Row:
    given = point.inputs
    assert point.workload is not None
    job = Job(
        system=point.system,
        model=point.model,
        node=Node(
            gpu=given["gpu"],
            gpu_model=given["gpu_model"],
            tp_size=given["tp"],
            dp_size=given["dp"],
            channels=given["channels"],
            ranks_per_channel=given["ranks_per_channel"],
            rank_bytes=given["rank_gib"] * GIB,
            preset=given["preset"],
            gpu_memory_share=given["gpu_memory_share"],
        ),
        workload=point.workload,
        admission=Admission(given["admission"]),
        until_ns=None if given["until_s"] is None else round(given["until_s"] * 1e9),
    )
    figures = run_job(job)
    if isinstance(figures, str):
        return {ERROR: figures}
    found: Row = {}
    for name, value in figures.document().items():
        if isinstance(value, dict) and name != "energy":
            found |= {f"{name}_{part}_ms": ms for part, ms in value.items()}
        elif name != "energy":
            found[name] = value
    energy = figures.energy
    found |= {f"energy_{what}": getattr(energy, what) for what in _ENERGY}
    return found | {f"energy_{part}_j": joules for part, joules in energy.parts_j.values.items()}


def _serve_figures() -> tuple[Column, ...]:
    """Columns of the figures of `dimmpim serve`; each percentile and each part of the energy has its own."""
    columns: list[Column] = []
    for field in fields(ServeFigures):
        if field.type == "Percentiles":
            columns += [Column(f"{field.name}_{part}_ms", float) for part in _PERCENTILES]
        elif field.type == "EnergyFigures":
            columns += [Column(f"energy_{what}", float) for what in _ENERGY]
            columns += [Column(f"energy_{part.name}_j", float) for part in fields(EnergyParts)]
        else:
            columns.append(Column(field.name, int if field.type == "int" else float))
    return tuple(columns)


SERVE = Study(
    TableLayout(
        inputs=_columns(
            {"system": str, "model": str, **_WORKLOAD, **_NODE, "admission": str, "until_s": float, "files_sha256": str}
        ),
        figures=_serve_figures(),
    ),
    _serve,
)


def _attention(point: Point) -> Row:
    given = point.inputs
    shape = AttentionShape(**{name: given[name] for name in ("num_q_heads", "num_kv_heads", "head_dim")})
    result = run_attention(
        shape,
        given["tokens"],
        step=None,
        source="none",
        backend="timing",
        preset=preset_of(given["preset"]),
        static_order=given["schedule"] == "static_order",
    )
    document = result.to_dict()
    return {name: document[name] for name in _ATTENTION_FIGURES}


_ATTENTION_INPUTS = {
    "preset": str, "num_q_heads": int, "num_kv_heads": int, "head_dim": int, "tokens": int, "schedule": str,
}  # fmt: skip
_ATTENTION_FIGURES = {
    "cycles": int, "ns": float, "bytes_streamed": int, "utilization_of_peak": float,
    "utilization_of_legal_limit": float, "energy_nj": float, "energy_pj_per_bit": float,
}  # fmt: skip
ATTENTION = Study(TableLayout(inputs=_columns(_ATTENTION_INPUTS), figures=_columns(_ATTENTION_FIGURES)), _attention)
