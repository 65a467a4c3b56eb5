"""Attention latency of a rank, measured on its RTL or its timing model, for the serving simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import numpy as np

from dimmpim.ranks import decode_step, open_backend, step_clocks, wait_for_phase
from pimhost.systems.pim_latency import LatencyTable, latency_document
from pimspec.attention.shape import AttentionShape
from pimspec.params.presets import Preset

__all__ = ["CHECKS", "GROUPS", "HEADS", "TOKENS", "measure_table"]

GROUPS = (1, 8)
"""Numbers of queries for each kv_head."""
HEADS = (1, 8)
"""Numbers of kv_heads; both the clocks of the first kv_head and of each further one follow from them."""
_SHORT = (*range(128, 1024, 128), *range(1024, 2048, 256), *range(2048, 4096, 512))
TOKENS = (*_SHORT, 4096, 6144, 8192, 12_288, 16_384, 32_768)
"""Contexts; they lie close together where a partial row step, 512 tokens of DDR4 x8, weighs most.

The last two are whole segments: longer contexts follow their line.
"""
CHECKS = ((3, 300), (8, 700), (2, 1500), (6, 3000), (8, 8192), (1, 12_000))
"""(kv_heads, tokens) that no table entry has, to measure the error of the interpolation."""
PHASES = 8
"""Refresh phases of which a measurement is the mean: whether a refresh falls into a short run is chance."""


@contextmanager
def _measurement(preset: Preset, group: int, backend: str, threads: int) -> Iterator[Callable[[int, int], int]]:
    """Clocks of (kv_heads, tokens), from the first descriptor to the last result; the mean over refresh phases."""

    def shape_of(kv_heads: int) -> AttentionShape:
        return AttentionShape(num_q_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=128, format=preset.format)

    params = preset.rank.for_shape(shape_of(1))
    with open_backend(backend, params, threads=threads) as host:
        host.take()

        def clocks(kv_heads: int, tokens: int) -> int:
            step, found = decode_step(backend, shape_of(kv_heads), tokens, seed=1), []
            for phase in range(PHASES):
                wait_for_phase(host, phase, PHASES)
                found.append(step_clocks(host, step, normalise=True))
            return round(fmean(found))

        yield clocks


def measure_table(
    preset: Preset,
    *,
    backend: str = "rtl",
    groups: tuple[int, ...] = GROUPS,
    tokens: tuple[int, ...] = TOKENS,
    checks: tuple[tuple[int, int], ...] = CHECKS,
    threads: int = 1,
    on_progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Document with every entry of the table and the checks, run on RTL with synthetic data, or on the timing model.

    Returns
    -------
    dict
        As from :func:`pimhost.systems.pim_latency.latency_document`.
    """
    tables, found = [], []
    for group in groups:
        with _measurement(preset, group, backend, threads) as clocks:
            measured = np.zeros((len(HEADS), len(tokens)), np.int64)
            for at in np.ndindex(measured.shape):
                heads, count = HEADS[at[0]], tokens[at[1]]
                on_progress(f"{group} queries a kv_head, {heads} kv_heads, {count} tokens")
                measured[at] = clocks(heads, count)
            further = (measured[1] - measured[0]) / (HEADS[1] - HEADS[0])
            # Refreshes fall into some short runs and not into others: a longer request counts as no faster.
            first, further = (np.maximum.accumulate(values) for values in (measured[0], further))
            table = LatencyTable.of(
                preset=preset.name, gqa_group_size=group, tokens=tokens, first=first, further=further
            )
            tables.append(table)
            for heads, count in checks:
                on_progress(f"{group} queries a kv_head, {heads} kv_heads, {count} tokens: check")
                found.append((group, heads, count, clocks(heads, count)))
    return latency_document(tables, found, backend=backend)
