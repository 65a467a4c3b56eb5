"""Plots of a comparison as SVG, in the style of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.ticker
import numpy as np

from dimmpim.reports.svg_drawing import LIGHT, Drawing
from dimmpim.studies.published import Cell
from pimhost.serving.figures import PERCENTILES, ServeFigures
from pimhost.systems.chime import COMPARED, PARALLELISM

__all__ = ["plot_energy", "plot_latencies", "plot_published", "plot_throughput", "plot_utilizations"]

_WIDE = 0.8


def plot_throughput(runs: Mapping[str, ServeFigures]) -> str:
    """Plot of output tokens a second, and of the mean batch."""
    names, places = list(runs), np.arange(len(runs))
    with Drawing("throughput", 0.7 + 0.45 * len(runs)) as drawing:
        left, right = drawing.figure.subplots(1, 2, sharey=True)
        for axes, colour, label, values in (
            (left, "blue", "output tokens a second", [f.output_tokens_per_s for f in runs.values()]),
            (right, "orange", "mean batch (requests that decode)", [f.mean_batch for f in runs.values()]),
        ):
            bars = axes.barh(places, values, height=0.6, color=LIGHT[colour], linewidth=0)
            axes.bar_label(bars, [f"{v:,.4g}" if v < 1000 else f"{v:,.0f}" for v in values], padding=3)
            axes.set_xlim(0, max(values, default=0) * 1.18 or 1)
            axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,g}"))
            axes.set_xlabel(label)
            axes.grid(axis="y", visible=False)
        left.set_yticks(places, names)
        left.invert_yaxis()
    return drawing.svg


def plot_latencies(runs: Mapping[str, ServeFigures]) -> str:
    """Plot of TTFT and TPOT: percentiles on one line for each system."""
    colours = ("blue", "orange", "red")
    with Drawing("latencies", 0.9 + 0.4 * len(runs)) as drawing:
        grid = drawing.figure.subplots(1, 2, sharey=True)
        for axes, what in zip(grid, ("ttft", "tpot"), strict=True):
            for place, figures in enumerate(runs.values()):
                found = getattr(figures, what)
                values = [getattr(found, f"p{p}") for p in PERCENTILES]
                if None in values:
                    continue
                axes.hlines(place, values[0] / 1e3, values[-1] / 1e3, color=LIGHT["grid"], linewidth=3)
                for percentile, colour, value in zip(PERCENTILES, colours, values, strict=True):
                    label = f"p{percentile}" if what == "ttft" and not place else None
                    axes.plot(value / 1e3, place, "o", color=LIGHT[colour], label=label)
            axes.set_xscale("log")
            axes.set_xlabel(f"{what.upper()} (s)")
            axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        grid[0].set_yticks(range(len(runs)), list(runs))
        grid[0].set_ylim(len(runs) - 0.5, -0.5)
        drawing.figure.legend(loc="outside upper right", ncols=3)
    return drawing.svg


def plot_utilizations(runs: Mapping[str, ServeFigures], has_pim: Mapping[str, bool]) -> str:
    """Plot of shares of time and memory."""
    names, places = list(runs), np.arange(len(runs))
    parts = (
        ("GPU", "blue", [f.gpu_utilization for f in runs.values()]),
        ("attention device, slowest rank", "orange", [f.pim_utilization * has_pim[n] for n, f in runs.items()]),
        ("attention device, mean of ranks", "sky", [f.pim_mean_utilization * has_pim[n] for n, f in runs.items()]),
        ("memory for K and V", "green", [f.memory_utilization for f in runs.values()]),
    )
    high = _WIDE / len(parts)
    with Drawing("utilizations", 0.9 + 0.6 * len(runs)) as drawing:
        axes = drawing.figure.subplots()
        for number, (label, colour, values) in enumerate(parts):
            at = places - _WIDE / 2 + (number + 0.5) * high
            axes.barh(at, values, height=0.9 * high, color=LIGHT[colour], label=label, linewidth=0)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
        drawing.figure.legend(loc="outside upper right", ncols=2)
    return drawing.svg


_ENERGY = (
    ("GPUs, waiting", "grey", ("gpu_idle",)),
    ("GPUs, static at work", "sky", ("gpu_static",)),
    ("GPUs, arithmetic and memory", "blue", ("gpu_arithmetic", "gpu_memory")),
    ("attention outside the GPUs", "orange", ("attention", "cpu")),
    ("that memory otherwise", "green", ("writes", "standby", "refresh")),
    ("links and channels", "red", ("channel", "link")),
)


def plot_energy(runs: Mapping[str, ServeFigures]) -> str:
    """Plot of J for an output token, by part; all of it must be known."""
    names, places = list(runs), np.arange(len(runs))
    with Drawing("energy", 0.9 + 0.45 * len(runs)) as drawing:
        axes = drawing.figure.subplots()
        left = np.zeros(len(runs))
        for label, colour, parts in _ENERGY:
            joules = [sum(f.energy.parts_j.values[part] or 0.0 for part in parts) for f in runs.values()]
            values = np.array(joules) / [f.output_tokens for f in runs.values()]
            axes.barh(places, values, left=left, height=0.6, color=LIGHT[colour], label=label, linewidth=0)
            left += values
        for place, total in zip(places, left, strict=True):
            axes.annotate(f"{total:.3g}", (total, place), (3, 0), textcoords="offset points", va="center")
        axes.set_xlim(0, left.max() * 1.1)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("J for an output token")
        axes.grid(axis="y", visible=False)
        drawing.figure.legend(loc="outside upper right", ncols=2)
    return drawing.svg


def plot_published(cells: Sequence[Cell], lengths: str) -> str:
    """Plot of published and simulated figures, a panel for each model."""
    places = np.arange(len(COMPARED))
    with Drawing(f"published-{lengths}", 3.2) as drawing:
        panels = drawing.figure.subplots(1, len(PARALLELISM), sharex=True)
        for axes, model in zip(panels, PARALLELISM, strict=True):
            found = [c for c in cells if (c.lengths, c.model) == (lengths, model)]
            for shift, colour, name in ((-0.2, "grey", "paper"), (0.2, "blue", "ours")):
                values = [getattr(c, name) or 0.0 for c in found]
                axes.bar(places + shift, values, width=0.38, color=LIGHT[colour], label=name, linewidth=0)
                for place, cell in zip(places, found, strict=True):
                    if getattr(cell, name) is None:
                        axes.text(place + shift, 0, " OOM", rotation=90, ha="center", va="bottom", fontsize=7)
            axes.set_title(model)
            axes.set_xticks(places, [system for system, _ in COMPARED], rotation=45, ha="right", fontsize=8)
            axes.grid(axis="x", visible=False)
        panels[0].set_ylabel("throughput over the reference")
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return drawing.svg
