"""Plots of a generation report as SVG, for a page whose style sheet has the colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dimmpim.reports.generation_data import PARTS, UNITS, CallWindow, Point, breakdown, points, roofs, utilization
from dimmpim.reports.svg_drawing import LIGHT, Drawing
from dimmpim.studies.generation import GenerateRun
from pimhost.batch.activity import RankActivity
from pimspec.params.pim_rank import PimRankParams

__all__ = ["plot_breakdown", "plot_errors", "plot_roofline", "plot_utilization"]

_PART_COLOURS = ("green", "orange", "blue", "sky", "pink", "red", "grey")
_UNIT_COLOURS = ("blue", "orange", "sky")
_MAX_BARS = 64
_MAX_MARKS = 48
_MAX_BINS = 400
_MAX_TICKS = 20
_MAX_POINTS = 1000
_MIN_LAYERS = 100
_LOG_FROM = 50


def _time_unit(longest_ns: float) -> tuple[float, str]:
    """Divisor of nanoseconds, and the unit."""
    chosen = (1.0, "ns")
    for divisor, unit in ((1e3, "µs"), (1e6, "ms"), (1e9, "s")):
        if longest_ns >= 2 * divisor:
            chosen = divisor, unit
    return chosen


def _percent(axes: Axes, top: float) -> None:
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=None if top > 0.03 else 1))


def plot_utilization(
    activity: RankActivity,
    rank: PimRankParams,
    windows: Sequence[CallWindow],
    *,
    layers: Sequence[int],
    cycle_ps: int,
    until: int,
) -> str:
    """Plot of the utilization of MAC units and buses: the whole run at the left, its last layer at the right.

    Parameters
    ----------
    activity : RankActivity
    rank : PimRankParams
    windows : sequence of CallWindow
    layers : sequence of int
        Numbers of the layers on the device.
    cycle_ps : int
    until : int
        Clock until which `activity` is complete, after the first window.
    """
    seen = [window for window in windows if window.end <= until]
    layer = [w for w in seen if (w.step, w.call.layer) == (seen[-1].step, seen[-1].call.layer)]
    begin, end = layer[0].start, layer[-1].end
    edges = _edges(seen), np.linspace(begin, end, min(160, end - begin) + 1)
    values = [utilization(activity, rank, each) for each in edges]
    marks = _starts(seen), [w.start - begin for w in layer[1:]]
    scales = [_time_unit((each[-1] - each[0]) * cycle_ps / 1e3) for each in edges]
    step = f"token {seen[-1].step}" if seen[-1].step else "prefill"
    labels = "simulated time", f"layer {layers[layer[0].call.layer]} of {step}"
    limit = roofs(rank).physical / roofs(rank).banks
    with Drawing("utilization", 5.0) as drawing:
        grid = drawing.figure.subplots(3, 2, sharex="col", sharey="row", width_ratios=(3, 2), squeeze=False)
        for row, (unit, colour) in enumerate(zip(UNITS, _UNIT_COLOURS, strict=True)):
            for column, axes in enumerate(grid[row]):
                clocks, (divisor, time_unit) = edges[column] - edges[column][0], scales[column]
                ns_per_clock = cycle_ps / 1e3 / divisor
                found = values[column][unit]
                axes.stairs(found, clocks * ns_per_clock, fill=True, color=LIGHT[colour], linewidth=0)
                for mark in marks[column]:
                    axes.axvline(mark * ns_per_clock, color=LIGHT["muted"], linewidth=0.7, linestyle=":")
                axes.set_title(f"{unit}: mean {np.average(found, weights=np.diff(clocks)):.1%}")
                axes.set_xlim(0, clocks[-1] * ns_per_clock)
                if row == len(UNITS) - 1:
                    axes.set_xlabel(f"{labels[column]} ({time_unit})")
            top = max(float(each[unit].max()) for each in values)
            if row == 0:
                grid[row, 0].axhline(limit, color=LIGHT["red"], linestyle="--", linewidth=1.2)
                top = max(top, limit)
            _percent(grid[row, 0], min(1.0, top * 1.15) or 1.0)
        drawing.figure.supylabel("share of what the unit could do", fontsize=10)
    return drawing.svg


def _edges(windows: Sequence[CallWindow]) -> NDArray[np.float64]:
    """Edges of the bins of a whole run: whole layers if there are many, so that bins do not alias with them."""
    last = windows[-1].end
    starts = [b.start for a, b in pairwise(windows) if (a.step, a.call.layer) != (b.step, b.call.layer)]
    if len(starts) < _MIN_LAYERS:
        return np.linspace(0, last, min(_MAX_BINS, last) + 1)
    edges = np.array([0, *starts], float)
    return np.append(edges[:: -(-len(edges) // _MAX_BINS)], last)


def _starts(windows: Sequence[CallWindow]) -> list[int]:
    """Clocks at which the decode tokens start, if they are few."""
    starts: dict[int, int] = {}
    for window in windows:
        starts.setdefault(window.step, window.start)
    starts.pop(0, None)
    return list(starts.values()) if len(starts) <= _MAX_MARKS else []


def plot_breakdown(run: GenerateRun, *, cycle_ps: int) -> str:
    """Plot with a stacked bar for each decode token, or for several; empty if none is complete."""
    tokens, cycles = breakdown(run)
    if not tokens:
        return ""
    each = -(-len(tokens) // _MAX_BARS)
    parts = [slice(n, n + each) for n in range(0, len(tokens), each)]
    height_ns = np.array([cycles[part].mean(axis=0) for part in parts]) * cycle_ps / 1e3
    divisor, unit = _time_unit(float(height_ns.sum(axis=1).max()))
    share = cycles.sum(axis=0) / cycles.sum()
    with Drawing("breakdown", 3.8) as drawing:
        axes = drawing.figure.subplots()
        middle = [float(np.mean(tokens[part])) for part in parts]
        below = np.zeros(len(parts))
        for number, (part, colour) in enumerate(zip(PARTS, _PART_COLOURS, strict=True)):
            high = height_ns[:, number] / divisor
            label = f"{part} ({share[number]:.1%})"
            axes.bar(middle, high, width=0.78 * each, bottom=below, color=LIGHT[colour], label=label, linewidth=0)
            below += high
        axes.set_xlim(middle[0] - 0.7 * each, middle[-1] + 0.7 * each)
        if len(tokens) <= _MAX_TICKS:
            axes.set_xticks(tokens)
        else:
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(12, integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("token" if each == 1 else f"token; a bar is the mean of {each} tokens")
        axes.set_ylabel(f"simulated time for a token ({unit})")
        handles, labels = axes.get_legend_handles_labels()
        drawing.figure.legend(handles[::-1], labels[::-1], loc="outside right upper", title="share of all shown")
    return drawing.svg


def plot_roofline(run: GenerateRun, rank: PimRankParams) -> str:
    """Roofline plot of the rank, with the points of tokens and layers; without time, their places on the axis."""
    tokens, layers = points(run)
    roof = roofs(rank)
    ridge = roof.flop_per_s / roof.banks
    found = [p.intensity for p in tokens + layers]
    low, high = min([ridge / 8, *(x / 2 for x in found)]), max([ridge * 4, *(x * 2 for x in found)])
    rates = [p.flop_per_s / 1e9 for p in tokens + layers if p.flop_per_s]
    with Drawing("roofline", 4.6) as drawing:
        axes = drawing.figure.subplots()
        flat = roof.flop_per_s / 1e9
        for bandwidth, colour, style, text in (
            (roof.banks, "muted", "-", "all banks"),
            (roof.physical, "red", "--", f"physical limit, {roof.row:.3f} (rows) x {roof.refresh:.3f} (refresh)"),
            (roof.external, "orange", "-.", "bus between host and DIMM"),
        ):
            x = np.array([low, min(high, roof.flop_per_s / bandwidth)])
            label = f"{text}: {bandwidth / 1e9:.4g} GB/s"
            axes.plot(x, x * bandwidth / 1e9, color=LIGHT[colour], linestyle=style, linewidth=1.6, label=label)
        axes.plot([ridge, high], [flat, flat], color=LIGHT["ink"], linewidth=1.6)
        _scatter(axes, layers, "measured: a layer of a token", s=12, color=LIGHT["sky"], linewidth=0)
        ring = {"s": 60, "facecolor": "none", "edgecolor": LIGHT["blue"], "linewidth": 1.4}
        _scatter(axes, tokens, "measured: a token, all layers on the device", **ring)
        if found and not rates:
            axes.axvspan(min(found), max(found), color=LIGHT["sky"], alpha=0.5, linewidth=2)
            axes.axvline(float(np.median(found)), color=LIGHT["blue"], label="intensity of the run; no time measured")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(min([roof.external * low / 1e9, *(r / 1.5 for r in rates)]), flat * 1.8)
        text = f"all MAC units: {flat:.4g} GFLOP/s"
        axes.annotate(text, (high, flat), (-4, 5), textcoords="offset points", ha="right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.set_xlabel("arithmetic intensity (FLOP for each byte of K and V that the banks deliver)")
        axes.set_ylabel("attention (GFLOP/s)")
        drawing.figure.legend(loc="outside lower left", ncols=2)
    return drawing.svg


def _scatter(axes: Axes, found: Iterable[Point], label: str, **look: Any) -> None:
    timed = [(p.intensity, p.flop_per_s / 1e9) for p in found if p.flop_per_s]
    if timed:
        different = np.unique(np.array(timed), axis=0)
        each = -(-len(different) // _MAX_POINTS)
        x, y = different[::each].T
        axes.scatter(x, y, label=f"{label}, 1 of {each}" if each > 1 else label, zorder=3, **look)


def plot_errors(rows: Sequence[dict[str, Any]]) -> str:
    """Plot of the median and largest error of each layer."""
    numbers = np.arange(len(rows))
    median, largest = (np.array([row[f"{what}_rel_l2_error"] for row in rows]) for what in ("median", "max"))
    with Drawing("errors", 3.0) as drawing:
        axes = drawing.figure.subplots()
        axes.vlines(numbers, median, largest, color=LIGHT["grid"], linewidth=3)
        axes.plot(numbers, largest, "D", color=LIGHT["red"], markersize=5, label="largest")
        axes.plot(numbers, median, "o", color=LIGHT["blue"], markersize=6, label="median")
        if 0 < median.min() < largest.max() / _LOG_FROM:
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.1 * largest.max() or 1e-6)
            axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="x", visible=False)
        step = -(-len(rows) // 32)
        axes.set_xticks(numbers[::step], [str(row["layer"]) for row in rows[::step]])
        axes.set_xlim(-0.7, len(rows) - 0.3)
        axes.set_xlabel("layer")
        axes.set_ylabel("relative L2 error")
        drawing.figure.legend(loc="outside upper right", ncols=2)
    return drawing.svg
