"""Data behind the plots of a report: busy times of a rank, cycles by activity, and upper bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dimmpim.studies.generation import GenerateRun
from pimhost.batch.activity import REFRESH, RankActivity, Span
from pimhost.devices.observed import DeviceCall
from pimspec.dram import limits
from pimspec.dram.organization import dram_preset
from pimspec.params.pim_rank import PimRankParams

__all__ = [
    "PARTS",
    "UNITS",
    "CallWindow",
    "Point",
    "Roofs",
    "breakdown",
    "call_windows",
    "points",
    "roofs",
    "seen_until",
    "utilization",
]

Floats = NDArray[np.float64]

UNITS = ("MAC units", "host bus", "chip bus")
"""Units whose utilization is drawn. The chip bus has the buffer chip's own transfers, and posted writes."""

PARTS = (
    "writing K and V",
    "delivering queries and starts",
    "streaming K and V",
    "scores, probabilities, posted writes",
    "reading status and outputs",
    "refresh, nothing else going on",
    "waiting and other",
)
"""Parts of the cycles of a token. A clock of attention counts for the first that applies: streaming, host bus, chip
bus, refresh. A clock of a K and V write counts as writing, unless there is refresh alone."""
_WRITE, _QUERIES, _STREAM, _CHIP_BUS, _READ, _REFRESH, _OTHER = range(len(PARTS))


@dataclass(frozen=True, kw_only=True)
class CallWindow:
    """A call of the device in simulated time; calls follow one another, and the host takes no time."""

    step: int
    call: DeviceCall
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """Measured point of one token, or of one layer of it.

    Parameters
    ----------
    intensity : float
        FLOP for each byte that the bank PUs read.
    flop_per_s : float or None
        FLOP/s; None where the backend has no time.
    """

    intensity: float
    flop_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Roofs:
    """Upper bounds of a rank; all but the last are bytes/s, which intensity turns into FLOP/s.

    Parameters
    ----------
    banks : float
        A column access of every bank each nCCD_MAC.
    physical : float
        The part of `banks` that row and refresh leave.
    external : float
        Bandwidth of the bus between host and DIMM.
    row, refresh : float
        Efficiencies, from :mod:`pimspec.dram.limits`.
    flop_per_s : float
        Rate of all MAC units.
    """

    banks: float
    physical: float
    external: float
    row: float
    refresh: float
    flop_per_s: float


def roofs(rank: PimRankParams) -> Roofs:
    """Roofs of a rank as built: a bank PU multiplies each element by one of each of `queries_at_once` queries."""
    part = replace(dram_preset(rank.dram), organization=rank.organization)
    banks = limits.rank_bandwidth_bytes_per_s(part)
    row = limits.row_efficiency(part.timing, rank.organization.column_accesses_per_row)
    refresh = limits.refresh_efficiency(part.timing)
    return Roofs(
        banks=banks,
        physical=banks * row * refresh,
        external=limits.external_bandwidth_bytes_per_s(part),
        row=row,
        refresh=refresh,
        flop_per_s=banks * rank.queries_at_once,  # 2 FLOP for each element of 2 bytes and query
    )


def call_windows(run: GenerateRun) -> list[CallWindow]:
    """Windows of all calls; empty if the backend has no time."""
    windows, now = [], 0
    for number, step in enumerate(run.steps):
        for call in step.calls:
            if call.cost.cycles is not None:
                windows.append(CallWindow(step=number, call=call, start=now, end=now + call.cost.cycles))
                now += call.cost.cycles
    return windows


def seen_until(run: GenerateRun, windows: Sequence[CallWindow]) -> int:
    """Clock until which the activity is complete: the end, or the start of the call in which it was cut off."""
    if not windows or run.activity is None:
        return 0
    if not run.activity.cut_off:
        return windows[-1].end
    last = run.activity.spans[-1].start
    return max(window.start for window in windows if window.start <= last)


def _belongs(span: Span, unit: str) -> bool:
    kinds = {"MAC units": ("bank_group",), "host bus": ("host ",), "chip bus": ("bus: ", "posted")}
    return span.track.startswith(kinds[unit])


def utilization(activity: RankActivity, rank: PimRankParams, edges: Floats) -> dict[str, Floats]:
    """Share of its peak that each of `UNITS` reached between each two edges, in clocks.

    Within a span, which bridges short gaps, the commands are assumed to be spread evenly.
    """
    line = max(1, rank.timing.nBL // rank.ck_per_clock)
    access = rank.timing.nCCD_MAC / rank.ck_per_clock / rank.num_banks
    found = {}
    for unit in UNITS:
        table = np.array([(s.start, s.end, s.count) for s in activity.spans if _belongs(s, unit)], float).reshape(-1, 3)
        start, end = table[:, 0], np.maximum(table[:, 1], table[:, 0] + 1)
        rate = table[:, 2] * (access if unit == "MAC units" else line) / (end - start)
        times, slopes = np.concatenate([start, end]), np.concatenate([rate, -rate])
        order = np.argsort(times, kind="stable")
        times, slopes = times[order], np.cumsum(slopes[order])
        work = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(times))]) if len(times) else times
        done = np.interp(edges, times, work) if len(times) else np.zeros(len(edges))
        found[unit] = np.clip(np.diff(done) / np.diff(edges), 0.0, 1.0)
    return found


def breakdown(run: GenerateRun) -> tuple[list[int], NDArray[np.int64]]:
    """Cycles of the decode tokens whose activity is complete.

    Returns
    -------
    tokens : list of int
        Indices of the steps; prefill, the first, is not among them.
    cycles : array of shape (tokens, len(PARTS))
        Each row adds up to the cycles of the step.
    """
    windows = call_windows(run)
    limit = seen_until(run, windows)
    cut = {w.step for w in windows if w.end > limit}
    shown = sorted({w.step for w in windows if w.step > 0} - cut)
    if not shown or run.activity is None:
        return [], np.zeros((0, len(PARTS)), np.int64)
    kept = set(shown)
    windows = [w for w in windows if w.step in kept]
    first, last = windows[0].start, windows[-1].end
    spans = [s for s in run.activity.spans if s.end > first and s.start < last]
    bounds = [t for s in spans for t in (s.start, s.end)] + [t for w in windows for t in (w.start, w.end)]
    edges = np.unique(np.clip(np.array(bounds, np.int64), first, last))

    def covered(*tracks: str) -> NDArray[np.bool_]:
        """Mask of the pieces between two edges that a span of these tracks covers."""
        change = np.zeros(len(edges), np.int64)
        chosen = [s for s in spans if s.track.startswith(tracks)]
        for times, sign in (([s.start for s in chosen], 1), ([s.end for s in chosen], -1)):
            np.add.at(change, np.searchsorted(edges, np.clip(times, first, last)), sign)
        return np.cumsum(change)[:-1] > 0

    at = np.searchsorted([w.start for w in windows], edges[:-1], side="right") - 1
    writing = np.array([w.call.kind == "write_kv" for w in windows])[at]
    stream, host_write, host_read = covered("bank_group"), covered("host WR"), covered("host RD")
    chip_bus, refresh = covered("bus: ", "posted"), covered(REFRESH)
    alone = refresh & ~(stream | host_write | host_read | chip_bus)
    part = np.select(
        [writing & ~alone, stream, host_write, host_read, chip_bus, refresh],
        [_WRITE, _STREAM, _QUERIES, _READ, _CHIP_BUS, _REFRESH],
        default=_OTHER,
    )
    row = np.searchsorted(shown, np.array([w.step for w in windows])[at])
    cycles = np.zeros((len(shown), len(PARTS)), np.int64)
    np.add.at(cycles, (row, part), np.diff(edges))
    return shown, cycles


def _point(run: GenerateRun, calls: Sequence[DeviceCall]) -> Point | None:
    read = sum(call.cost.bytes_streamed for call in calls)
    if not read or run.shape is None:
        return None
    flop = 2 * sum(run.shape.macs(call.tokens) for call in calls)
    cycles = [call.cost.cycles for call in calls]
    known = sum(c for c in cycles if c)
    rate = flop / (known * run.clock.cycle_ps * 1e-12) if run.clock and known else None
    return Point(intensity=flop / read, flop_per_s=rate)


def points(run: GenerateRun) -> tuple[list[Point], list[Point]]:
    """Points of attention for each decode token, and for each layer of each."""
    tokens, layers = [], []
    for step in run.steps[1:]:
        attends = [call for call in step.calls if call.kind == "attend"]
        tokens.append(_point(run, attends))
        layers += [_point(run, [call]) for call in attends]
    return [p for p in tokens if p], [p for p in layers if p]
