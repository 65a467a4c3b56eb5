"""Energy of a decode step, from the commands that went to the chips of a rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimhost.driver.decode_step import RankTime
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.dram.current import ChipCurrent, chip_current
from pimspec.dram.energy import DRAM_CURRENTS, NOT_COUNTED, RankEnergy, command_energy, rank_energy
from pimspec.hostif.port import CommandCounts, mac_accesses
from pimspec.params.command_engine import BUS_COMMANDS

__all__ = ["counts_of", "current_figures", "energy_figures", "open_clocks", "step_current", "step_energy"]

_CLOSING = (Command.PREpb, Command.RDA, Command.WRA)
_ROW_COMMANDS = (Command.ACT, Command.PREab, *_CLOSING)


def open_clocks(records: NDArray[np.void], begin: int, end: int) -> int:
    """Clocks from `begin` to `end` in which some bank has an open row.

    Parameters
    ----------
    records : array of :data:`pimspec.hostif.port.TRACE`
        Records from a time on at which all banks were precharged.
    begin, end : int
    """
    spans = np.clip(open_spans(records, end), begin, end)
    return int((spans[:, 1] - spans[:, 0]).sum())


def open_spans(records: NDArray[np.void], end: int) -> NDArray[np.int64]:
    """Times in which some bank has an open row, as first and last clock (exclusive); parameters as before."""
    rows = records[np.isin(records["code"], [int(command) for command in _ROW_COMMANDS])]
    opened: set[tuple[int, int]] = set()
    spans, since = [], 0
    for clock, code, group, bank in rows[["clock", "code", "bank_group", "bank"]].tolist():
        was_open = bool(opened)
        if code == Command.ACT:
            opened.add((group, bank))
        elif code in _CLOSING:
            opened.discard((group, bank))
        else:
            opened.clear()
        if opened and not was_open:
            since = clock
        elif was_open and not opened:
            spans.append((since, clock))
    if opened:
        spans.append((since, max(since, end)))
    return np.array(spans, np.int64).reshape(-1, 2)


def counts_of(records: NDArray[np.void], begin: int, end: int) -> CommandCounts:
    """Counts of the commands from clock `begin` to `end`; parameters of :func:`open_clocks`."""
    clocks = records["clock"]
    step = records[(clocks >= begin) & (clocks <= end)]
    codes, numbers = np.unique(step["code"], return_counts=True)
    return CommandCounts(
        commands={Command(code): count for code, count in zip(codes.tolist(), numbers.tolist(), strict=True)},
        mac_accesses=mac_accesses(step),
        open_clocks=open_clocks(records, begin, end),
    )


def step_energy(run: RankTime, end: int) -> RankEnergy:
    """Energy of the DRAM chips for a step, by the commands of its clocks.

    Parameters
    ----------
    run : RankTime
    end : int
        Clock in which the step was done; it began `run.clocks` earlier.

    Raises
    ------
    UnknownNameError
        If the supply currents of the part are not documented.
    """
    p = run.params
    counts = run.counts
    if counts is None:
        assert run.records is not None
        counts = counts_of(run.records, end - run.clocks, end)
    ns = float(p.timing.time_ps(p.ck_per_clock)) / 1000
    return rank_energy(
        command_energy(p.dram, banks=p.num_banks),
        counts.commands,
        chips=p.num_chips,
        mac_accesses=counts.mac_accesses,
        active_ns=counts.open_clocks * ns,
        precharged_ns=(run.clocks - counts.open_clocks) * ns,
    )


def energy_figures(run: RankTime, end: int, shape: AttentionShape, tokens: int) -> dict[str, Any]:
    """Energy of a step in nJ, by part, and in pJ for a bit of K and V; null for a part without documented currents."""
    if run.params.dram not in DRAM_CURRENTS:
        return {"energy_nj": None, "energy_pj_per_bit": None, "energy_parts_nj": None, "energy_not_counted": None}
    energy = step_energy(run, end)
    return {
        "energy_nj": energy.total_nj,
        "energy_pj_per_bit": energy.total_nj * 1000 / (8 * shape.kv_bytes(tokens)),
        "energy_parts_nj": energy.parts,
        "energy_not_counted": list(NOT_COUNTED),
    }


def step_current(run: RankTime, end: int) -> ChipCurrent:
    """Current of a chip during a step; parameters and errors of :func:`step_energy`. The step must have its records."""
    p, records = run.params, run.records
    assert records is not None, "not traced"
    begin, ck = end - run.clocks, p.ck_per_clock
    late = {command: p.engine.bus_phase_ck for command in BUS_COMMANDS}
    codes, clocks = records["code"], records["clock"].astype(np.int64) - begin
    starts = {
        Command(code): clocks[codes == code] * ck + late.get(Command(code), 0) for code in np.unique(codes).tolist()
    }
    return chip_current(
        p.dram,
        p.timing,
        p.organization,
        length_ck=run.clocks * ck,
        starts_ck=starts,
        open_ck=(open_spans(records, end) - begin) * ck,
        mac_interval_ck=p.engine.mac_interval_clocks * ck,
        mac_counts=records["count"][codes == int(Command.PIM_MAC)].astype(np.int64),
    )


def current_figures(run: RankTime, end: int) -> dict[str, float] | None:
    """Mean and peaks of the current of a chip in mA, by name; None for a part without documented currents."""
    return step_current(run, end).figures if run.params.dram in DRAM_CURRENTS else None
