"""Pictures of what a rank does over time, drawn from runs of the timing model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from dimmpim.ranks import open_timing, wait_for_phase
from dimmpim.reports.svg_canvas import Canvas
from pimhost.driver.decode_step import legal_limit, peak_clocks, time_step
from pimspec.attention.placement import KvKind
from pimspec.attention.shape import AttentionShape
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset

__all__ = ["LENGTHS", "Burst", "bursts", "pipeline_picture", "utilization_picture", "utilizations"]

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Contexts of the picture of utilisation."""
PHASES = 4
"""Refresh phases that a point of the picture is the mean of."""

_WIDTH = 620.0
_LEFT, _RIGHT = 100.0, 604.0
_KV_HEADS, _STEPS = 3, 4
"""Of the picture of the pipeline: kv_heads, and row steps of K and of V of each."""
_BINS = 96
_BUS = (Command.PIM_WR_SB, Command.PIM_RD_RB)


@dataclass(frozen=True, kw_only=True)
class Burst:
    """A PIM_MAC in one bank.

    Parameters
    ----------
    ck, end : int
        CK of the command, and of the end of its last column access.
    bank : int
        Flat number.
    kind : KvKind
        Whether its row holds K or V.
    """

    ck: int
    end: int
    bank: int
    kind: KvKind


def bursts(p: PimRankParams, commands: Sequence[TracedCommand], rows_per_region: int) -> Iterator[Burst]:
    """Bursts of a trace, for K and V in turns of `rows_per_region` rows from row 0 on."""
    open_rows: dict[int, int] = {}
    kinds = tuple(KvKind)
    for c in commands:
        if c.bank is None:
            continue
        bank = (c.bank_group or 0) * p.organization.banks_per_group + c.bank
        if c.command is Command.ACT and c.row is not None:
            open_rows[bank] = c.row
        elif c.command is Command.PIM_MAC:
            kind = kinds[open_rows[bank] // rows_per_region % 2]
            yield Burst(ck=c.ck, end=c.ck + c.count * p.timing.nCCD_MAC, bank=bank, kind=kind)


def _shape(p: PimRankParams, *, kv_heads: int, group: int = 1) -> AttentionShape:
    return AttentionShape(num_q_heads=kv_heads * group, num_kv_heads=kv_heads, head_dim=p.head_dim, format=p.format)


def pipeline_picture(preset: Preset) -> Canvas:
    """Bursts of every bank and use of the data bus in a decode step, from the commands that the timing model issues."""
    shape = _shape(preset.rank, kv_heads=_KV_HEADS)
    p = preset.rank.for_shape(shape)
    tokens = _STEPS * p.row_lines * p.num_chips
    with open_timing(p) as host:
        commands = time_step(host, shape, tokens, trace=True).commands
    work = list(bursts(p, commands, _STEPS))
    bus = [c for c in commands if c.command in _BUS]
    first, last = bus[0].ck, max(bus[-1].ck, *(b.end for b in work))
    scale = (_RIGHT - _LEFT) / (last - first)
    canvas = Canvas(_WIDTH, 424, f"Banks and data bus of {preset.name} while {_KV_HEADS} kv_heads are computed")
    canvas.text(20, 28, f"{_KV_HEADS} kv_heads of {tokens:,} tokens, one query each", bold=True)
    legend = (
        (_LEFT, "blue", "K x queries"),
        (_LEFT + 140, "orange", "V x probabilities"),
        (_LEFT + 310, "line", "refresh"),
    )
    for x, fill, label in legend:
        canvas.bar(x, 42, 14, 12, fill=fill)
        canvas.text(x + 20, 53, label)
    top, height = 66.0, 208.0
    pitch = height / p.num_banks
    canvas.text(_LEFT - 8, top + 12, "bank 0", anchor="end", colour="muted")
    canvas.text(_LEFT - 8, top + height - 2, f"bank {p.num_banks - 1}", anchor="end", colour="muted")
    for b in work:
        fill = "blue" if b.kind is KvKind.K else "orange"
        width = max(0.5, (b.end - b.ck) * scale - 0.5)
        canvas.bar(_LEFT + (b.ck - first) * scale, top + b.bank * pitch, width, pitch - 1.5, fill=fill)
    for c in commands:
        if c.command is Command.REFab and first <= c.ck < last:
            width = min(p.timing.nRFC, last - c.ck) * scale
            canvas.bar(_LEFT + (c.ck - first) * scale, top, width, height, fill="line")
    _bus_load(canvas, p, bus, (first, last), top + height + 14)
    return canvas


def _bus_load(
    canvas: Canvas, p: PimRankParams, bus: Sequence[TracedCommand], span: tuple[int, int], top: float
) -> None:
    """Share of the data bus that lines to and from the chips take, in bins of time, and the axis of time below."""
    first, last = span
    bin_ck, width = (last - first) / _BINS, (_RIGHT - _LEFT) / _BINS
    for number, (command, label) in enumerate(zip(_BUS, ("to chips", "from chips"), strict=True)):
        base = top + 42 * (number + 1)
        canvas.text(_LEFT - 8, base - 8, label, anchor="end", colour="muted")
        counts = [0] * _BINS
        for c in bus:
            counts[min(_BINS - 1, int((c.ck - first) / bin_ck))] += c.command is command
        for index, count in enumerate(counts):
            share = min(1.0, count * p.timing.nBL / bin_ck)
            if share:
                canvas.bar(_LEFT + index * width, base - 34 * share, width - 0.6, 34 * share, fill="muted")
        canvas.line([(_LEFT, base), (_RIGHT, base)], colour="line")
    us = (last - first) * p.timing.tCK_ps / 1e6
    step = 10 ** math.floor(math.log10(us / 2)) * (2 if us / 10 ** math.floor(math.log10(us / 2)) > 10 else 1)
    ticks = int(us / step)
    for tick in range(ticks + 1):
        x = _LEFT + tick * step / us * (_RIGHT - _LEFT)
        canvas.line([(x, top + 84), (x, top + 90)], colour="line")
        canvas.text(x, top + 108, f"{tick * step:g}", anchor="middle", colour="muted")
    canvas.text(_RIGHT, top + 128, "time in us; data bus: share in use", anchor="end", colour="muted")


def utilizations(preset: Preset, *, kv_heads: int, group: int) -> tuple[list[float], float]:
    """Share of the peak bandwidth of all banks that decode attention reaches.

    Parameters
    ----------
    preset : Preset
    kv_heads : int
        In the rank.
    group : int
        Queries of a kv_head.

    Returns
    -------
    list of float
        For each of :data:`LENGTHS`, as a mean over refresh phases.
    float
        What DRAM timing, refresh and the bus allow at most.
    """
    shape = _shape(preset.rank, kv_heads=kv_heads, group=group)
    p = preset.rank.for_shape(shape)
    shares = []
    with open_timing(p) as host:
        host.take()
        for tokens in LENGTHS:
            clocks = []
            for phase in range(PHASES):
                wait_for_phase(host, phase, PHASES)
                clocks.append(time_step(host, shape, tokens).clocks)
            shares.append(peak_clocks(p, shape, tokens) / fmean(clocks))
    return shares, legal_limit(p, shape)


def utilization_picture(preset: Preset) -> Canvas:
    """Share of the internal bandwidth over the context: MHA with 8 kv_heads, GQA-8 with 16."""
    canvas = Canvas(_WIDTH, 372, f"Share of the internal bandwidth of {preset.name} over the context")
    canvas.text(20, 28, "Share of the peak bandwidth of all banks, decode attention", bold=True)
    left, right, top, bottom = 58.0, 600.0, 50.0, 310.0

    def place(index: int, share: float) -> tuple[float, float]:
        return left + 24 + index * (right - left - 48) / (len(LENGTHS) - 1), bottom - share * (bottom - top)

    for tenth in range(0, 11, 2):
        y = place(0, tenth / 10)[1]
        canvas.line([(left, y), (right, y)], colour="grid")
        canvas.text(left - 8, y + 5, f"{tenth / 10:.1f}", anchor="end", colour="muted")
    for index, tokens in enumerate(LENGTHS):
        x = place(index, 0)[0]
        canvas.text(x, bottom + 22, f"{tokens:,}", anchor="middle", colour="muted")
    canvas.text(right, bottom + 46, "tokens of context", anchor="end", colour="muted")
    mha, limit = utilizations(preset, kv_heads=8, group=1)
    gqa, _ = utilizations(preset, kv_heads=16, group=8)
    y = place(0, limit)[1]
    canvas.line([(left, y), (right, y)], colour="muted", dashed=True)
    canvas.text(left + 6, y - 8, f"limit by DRAM timing and refresh: {limit:.3f}", colour="muted")
    end = len(LENGTHS) - 1
    for shares, colour, label, offset in (
        (mha, "blue", "MHA, 8 kv_heads", 1), (gqa, "orange", "GQA-8, 16 kv_heads", 3),
    ):  # fmt: skip
        canvas.line([place(i, share) for i, share in enumerate(shares)], colour=colour)
        canvas.text(place(end, 0)[0], y + 34 + 24 * offset, f"{label}: {shares[-1]:.3f}", colour=colour, anchor="end")
    return canvas
