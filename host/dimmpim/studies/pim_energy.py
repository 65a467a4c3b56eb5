"""Energy of attention on a rank, fitted linearly in its bytes, from the commands of the timing model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dimmpim.ranks import open_timing
from dimmpim.studies.rank_energy import step_energy
from pimhost.driver.decode_step import time_step
from pimhost.systems.memory_energy import PimEnergy, pim_energy_document
from pimspec.attention.shape import AttentionShape
from pimspec.dram.commands import Command
from pimspec.dram.energy import DRAM_CURRENTS
from pimspec.errors import require
from pimspec.params.presets import Preset

__all__ = ["GROUPS", "TOKENS", "energy_document", "fit_energy"]

GROUPS = (1, 2, 4, 8)
"""Numbers of queries for each kv_head."""
TOKENS = (128, 256, 300, 512, 700, 1024, 1500, 2048, 4096, 8192, 16_384)
"""Contexts of one kv_head; 300, 700 and 1,500 do not fill their last row step."""
HEAD_DIM = 128
_LINES = (Command.PIM_WR_SB, Command.PIM_RD_RB)


def _line_fit(features: Sequence[int], values: Sequence[float]) -> tuple[float, float, float]:
    """Constant, slope, and the greatest relative error; least squares of the relative error."""
    x, y = np.column_stack((np.ones(len(features)), features)), np.asarray(values, float)
    (constant, slope), *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    constant, slope = (float(f"{value:.4g}") for value in (constant, slope))
    return constant, slope, float(np.abs(x @ (constant, slope) / y - 1).max())


def fit_energy(preset: Preset, group: int, *, tokens: Sequence[int] = TOKENS) -> tuple[PimEnergy, float]:
    """Energy of one kv_head with `group` queries, and the greatest error of the fit.

    Raises
    ------
    ParameterError
        If the supply currents of the part are not documented.
    """
    require(preset.dram in DRAM_CURRENTS, "part of the preset", preset.dram, f"one of {', '.join(DRAM_CURRENTS)}")
    shape = AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=HEAD_DIM, format=preset.format)
    params = preset.rank.for_shape(shape)
    line_bytes = params.num_chips * params.organization.column_access_bytes
    kv_bytes, energies, lines = [], [], []
    with open_timing(params) as model:
        for count in tokens:
            run = time_step(model, shape, count)
            energy = step_energy(run, model.finished[-1])
            assert run.counts is not None
            kv_bytes.append(shape.kv_bytes(count))
            energies.append(energy.total_nj - energy.refresh_nj - energy.standby_nj)
            lines.append(sum(run.counts.commands.get(command, 0) for command in _LINES) * line_bytes)
    head_nj, byte_nj, error = _line_fit(kv_bytes, energies)
    head_lines, lines_per_byte, _ = _line_fit(kv_bytes, lines)
    found = PimEnergy(
        head_nj=head_nj, byte_pj=round(byte_nj * 1e3, 6), head_line_bytes=head_lines, line_bytes_per_byte=lines_per_byte
    )
    return found, error


def energy_document(preset: Preset) -> tuple[dict[str, Any], dict[int, float]]:
    """Content of ``pim_energy.json``, and the greatest error of each fit by queries for each kv_head.

    Raises
    ------
    ParameterError
        If the supply currents of the part are not documented.
    """
    fits = {group: fit_energy(preset, group) for group in GROUPS}
    errors = {group: error for group, (_, error) in fits.items()}
    entries = {group: entry for group, (entry, _) in fits.items()}
    greatest = math.ceil(max(errors.values()) * 1e4) / 1e4
    return pim_energy_document(preset.name, entries, tokens=TOKENS, greatest_error=greatest), errors
