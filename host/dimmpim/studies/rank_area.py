"""Area and longest path of every unit of a rank's chips, from synthesis, beside published areas."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dimmpim.ranks import rank_verilog_modules
from pimhw import synthesis
from pimhw.synthesis.anchors import DRAM_FACTORS, PUBLISHED_PARTS, REFERENCE_DIE
from pimhw.synthesis.units import Unit, rank_units
from pimhw.synthesis.yosys import GENERIC_LIBERTY, NAND2_UM2_NANGATE45, UnitArea, synthesize_unit
from pimsim.build_cache import cached_text, content_key, sources_key
from pimspec.params.presets import Preset

__all__ = ["GENERIC_NODE_NM", "RANK_PU", "ChipUnit", "RankArea", "comparison", "rank_area"]

GENERIC_NODE_NM = 45
"""Node of the generic library: its areas are set beside others by NanGate45's NAND2."""

RANK_PU = ("softmax", "reducer", "segment_merger", "chip_port")
"""Units of the buffer chip that compute or re-lay out: its rank PU."""

_PATH_UNITS_PER_NAND2 = 10  # of the generic library
_PS_PER_NS = 1000
_UM2_PER_MM2 = 1e6


@dataclass(frozen=True, kw_only=True)
class ChipUnit:
    """Figures of a unit of a chip.

    Parameters
    ----------
    chip, name : str
    count : int
        Equal ones in the chip.
    area : float
        Logic of one: GE with the generic library, else the area unit of the library (um2).
    registers, memory_bits : int
        Of one; the memories are not in `area`.
    path : float
        Longest path of one: NAND2 delays with the generic library, else ns.
    """

    chip: str
    name: str
    count: int
    area: float
    registers: int
    memory_bits: int
    path: float


@dataclass(frozen=True, kw_only=True)
class RankArea:
    """Figures of the units of a rank.

    Parameters
    ----------
    preset, library : str
        `library` is ``"generic"`` or the name of the file.
    node_nm : float
        Node of the library.
    num_chips : int
        PIM chips of the rank, which has one buffer chip.
    clock_ns : float
        Clock of all units.
    units : list of ChipUnit
    """

    preset: str
    library: str
    node_nm: float
    num_chips: int
    clock_ns: float
    units: list[ChipUnit]

    @property
    def is_generic(self) -> bool:
        return self.library == "generic"

    @property
    def area_unit(self) -> str:
        return "GE" if self.is_generic else "um2"

    @property
    def path_unit(self) -> str:
        return "NAND2 delays" if self.is_generic else "ns"

    def exceeds_clock(self, unit: ChipUnit) -> bool | None:
        """Whether the path of a unit is longer than a clock; None with the generic library, which has no time."""
        return None if self.is_generic else unit.path > self.clock_ns

    def totals(self) -> dict[str, dict[str, float]]:
        """Area, registers and memory bits of a PIM chip, a buffer chip and the rank."""
        names = ("area", "registers", "memory_bits")
        chips = {
            chip: {name: sum(u.count * getattr(u, name) for u in self.units if u.chip == chip) for name in names}
            for chip in ("pim_chip", "buffer_chip")
        }
        rank = {name: self.num_chips * chips["pim_chip"][name] + chips["buffer_chip"][name] for name in names}
        return {**chips, "rank": rank}

    def unit(self, name: str) -> ChipUnit:
        """The unit of this name."""
        return next(unit for unit in self.units if unit.name == name)

    def um2(self, area: float) -> float:
        """An area in um2 of the library's node."""
        return area * NAND2_UM2_NANGATE45 if self.is_generic else area

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain numbers and texts, for JSON."""
        return {
            "version": 1,
            "preset": self.preset,
            "library": self.library,
            "node_nm": self.node_nm,
            "area_unit": self.area_unit,
            "path_unit": self.path_unit,
            "clock_ns": self.clock_ns,
            "num_chips": self.num_chips,
            "units": [{**asdict(unit), "exceeds_clock": self.exceeds_clock(unit)} for unit in self.units],
            "totals": self.totals(),
            "dpa_over_rank_pu": self.unit("dpa").area / sum(self.unit(name).area for name in RANK_PU),
            "comparison": comparison(self),
        }


def rank_area(
    preset: Preset,
    liberty: Path | None,
    node_nm: float = GENERIC_NODE_NM,
    *,
    progress: Callable[[str, int, int], None] = lambda unit, done, total: None,
) -> RankArea:
    """Synthesis of every unit of a rank with DPA controller; figures are kept in the build folder.

    Parameters
    ----------
    preset : Preset
    liberty : Path or None
        Library to map to; None for the generic one.
    node_nm : float
        Node of that library.
    progress : callable
        Called with the unit that is done ("" before the first), and the numbers of units done and of all.

    Raises
    ------
    ToolError, ParameterError
        As :func:`pimhw.synthesis.yosys.synthesize_unit`.
    """
    params = preset.rank.with_dpa()
    units = rank_units(rank_verilog_modules(params))
    tools = content_key(sources_key(synthesis), version("pyosys"), (liberty or GENERIC_LIBERTY).read_bytes())
    progress("", 0, len(units))

    def one(unit: Unit) -> ChipUnit:
        figures = _figures(unit, liberty or GENERIC_LIBERTY, tools)
        return ChipUnit(
            chip=unit.chip,
            name=unit.name,
            count=unit.count,
            area=figures.area,
            registers=figures.num_registers,
            memory_bits=figures.memory_bits,
            path=figures.path / (_PATH_UNITS_PER_NAND2 if liberty is None else _PS_PER_NS),
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # The longest begin first, so that none is left alone at the end.
        tasks = {pool.submit(one, unit): unit for unit in sorted(units, key=lambda unit: -len(unit.verilog))}
        try:
            for done, task in enumerate(as_completed(tasks), 1):
                task.result()
                progress(tasks[task].name, done, len(units))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = {tasks[task]: task.result() for task in tasks}
    return RankArea(
        preset=preset.name,
        library="generic" if liberty is None else liberty.name,
        node_nm=GENERIC_NODE_NM if liberty is None else node_nm,
        num_chips=params.num_chips,
        clock_ns=float(params.timing.time_ps(params.ck_per_clock)) / _PS_PER_NS,
        units=[results[unit] for unit in units],
    )


def _figures(unit: Unit, liberty: Path, tools: str) -> UnitArea:
    """Figures of a unit, from the build folder if they are there."""
    key = content_key(tools, unit.top, unit.verilog, unit.black_boxes)

    def make() -> str:
        return json.dumps(asdict(synthesize_unit(unit.verilog, unit.top, liberty, black_boxes=unit.black_boxes)))

    return UnitArea(**json.loads(cached_text("area", key, make)))


def comparison(area: RankArea) -> list[dict[str, Any]]:
    """Published areas, each with ours at its node, as mm2 in logic and in DRAM after each convention.

    Areas shrink with the ratio of the nodes, about as NAND2 gates of libraries do; with its square they would be
    smaller. Memories have bits and no area, which is that of the user's macros.
    """
    totals, rows = area.totals(), []
    ours = {"bank_pu": area.unit("bank_pu").area, "chip": totals["pim_chip"]["area"]}
    die, die_mm2 = REFERENCE_DIE
    for published in PUBLISHED_PARTS:
        row: dict[str, Any] = {"part": published.part, "published": published.what}
        node = published.node_nm or 28
        if published.part in ours:
            logic = area.um2(ours[published.part]) / _UM2_PER_MM2 * node / area.node_nm
            row["ours_logic_mm2"], row["node_nm"] = logic, node
            row["ours_dram_mm2"] = {name: factor * logic for name, factor in DRAM_FACTORS.items()}
        else:
            row["ours_memory_bits"] = totals["pim_chip"]["memory_bits"]
        if published.logic_mm2 is not None:
            row["logic_mm2"] = published.logic_mm2
            row["dram_mm2"] = {name: factor * published.logic_mm2 for name, factor in DRAM_FACTORS.items()}
        if published.share_of_die is not None:
            row["share_of_die"], row["die"] = published.share_of_die, die
            row["ours_share_of_die"] = {name: mm2 / die_mm2 for name, mm2 in row["ours_dram_mm2"].items()}
        rows.append(row)
    return rows
