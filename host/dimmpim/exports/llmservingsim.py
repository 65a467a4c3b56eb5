"""LLMServingSim export: attention latency in its format for a PIM device.

LLMServingSim (github.com/casys-kaist/LLMServingSim) describes a PIM device by two things, in its
``docs/docs/reference/pim-config.md`` and ``inference_serving/pim_model.py`` (later
``llmservingsim/serving/core/pim_model.py``):

* ``configs/pim/<spec>.ini`` (earlier ``pim_config/<spec>.ini``), in DRAMsim3's form. Twelve keys are read:
  organization, CL, tCK, bus_width, channel_size, data_rate, and idle_power and peak_power in mW.
* An entry ``"<spec>": {"slope": ..., "intercept": ...}`` of the dict ``attn_model`` in ``pim_model.py``. Attention of
  one decode step of one request in one layer takes, in ns::

      (slope * gqa_ratio * L + intercept * kv_scale) / channel_split
      gqa_ratio = (n_head / kv_head) / 4,   kv_scale = n_head * head_dim / 4096

  The line stays as it is for Llama-3.1-8B (32 heads, 8 kv_heads, head_dim 128). Earlier versions know that shape alone.

:func:`fit_latency` fits that line to the timing model. gqa_ratio and kv_scale are divided out, so that LLMServingSim
gets the fitted line back for the given shape. A channel of LLMServingSim is `ranks` ranks that share the kv_heads of a
request evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimmpim.ranks import open_timing
from dimmpim.studies.rank_energy import step_energy
from pimhost.driver.decode_step import time_step
from pimspec.attention.shape import AttentionShape
from pimspec.dram.energy import DRAM_CURRENTS, command_energy
from pimspec.errors import require
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset

__all__ = ["TOKENS", "LatencyFit", "fit_latency", "fitted_line", "ini_text"]

TOKENS = tuple(range(128, 4096 + 1, 128))
"""Contexts of the fit: those on which LLMServingSim fits its own lines."""


@dataclass(frozen=True, kw_only=True)
class LatencyFit:
    """Line fitted through points of the timing model.

    Parameters
    ----------
    preset : str
    params : PimRankParams
    shape : AttentionShape
        Shape of a layer.
    ranks : int
        Ranks in a channel.
    tokens : tuple of int
    measured_ns : tuple of float
    slope_ns, intercept_ns : float
        Slope in ns for each token, and intercept in ns.
    idle_mw, peak_mw : float
        Power of the DRAM chips of a channel: with all banks precharged, and in the longest run.
    """

    preset: str
    params: PimRankParams
    shape: AttentionShape
    ranks: int
    tokens: tuple[int, ...]
    measured_ns: tuple[float, ...]
    slope_ns: float
    intercept_ns: float
    idle_mw: float
    peak_mw: float

    @property
    def gqa_ratio(self) -> float:
        return self.shape.gqa_group_size / 4

    @property
    def kv_scale(self) -> float:
        return self.shape.num_q_heads * self.shape.head_dim / 4096

    @property
    def slope(self) -> float:
        """Slope in LLMServingSim's form, to its four decimals."""
        return round(self.slope_ns / self.gqa_ratio, 4)

    @property
    def intercept(self) -> float:
        return round(self.intercept_ns / self.kv_scale, 4)

    def latency_ns(self, tokens: int) -> float:
        """Latency that LLMServingSim computes from the coefficients."""
        return self.slope * self.gqa_ratio * tokens + self.intercept * self.kv_scale

    def document(self, spec: str) -> dict[str, Any]:
        """Coefficients of the device `spec`, with the points and the error of the fit."""
        points = []
        for count, ns in zip(self.tokens, self.measured_ns, strict=True):
            fitted = self.latency_ns(count)
            points.append({"tokens": count, "ns": ns, "fitted_ns": fitted, "relative_error": fitted / ns - 1})
        errors = np.array([point["relative_error"] for point in points])
        differences = np.array([point["fitted_ns"] - point["ns"] for point in points])
        return {
            "version": 1,
            "attn_model": {spec: {"slope": self.slope, "intercept": self.intercept}},
            "preset": self.preset,
            "num_q_heads": self.shape.num_q_heads,
            "num_kv_heads": self.shape.num_kv_heads,
            "head_dim": self.shape.head_dim,
            "ranks_per_channel": self.ranks,
            "max_relative_error": float(np.abs(errors).max()),
            "median_relative_error": float(np.median(np.abs(errors))),
            "rms_error_ns": float(np.sqrt(np.mean(differences**2))),
            "points": points,
        }


def fitted_line(tokens: Sequence[int], measured: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the line with the least sum of squared differences.

    Raises
    ------
    ParameterError
        If there are not two different numbers of tokens.
    """
    require(len(set(tokens)) >= 2, "--tokens", list(tokens), "two different numbers or more")
    x, y = np.array(tokens, np.float64), np.array(measured, np.float64)
    apart = x - x.mean()
    slope = float(apart @ y / (apart @ apart))
    return slope, float(y.mean() - slope * x.mean())


def fit_latency(
    preset: Preset,
    shape: AttentionShape,
    *,
    ranks: int = 1,
    tokens: Sequence[int] = TOKENS,
    on_progress: Callable[[int], None] = lambda count: None,
) -> LatencyFit:
    """Line fitted to the attention times of the timing model at each of `tokens`.

    Parameters
    ----------
    preset : Preset
    shape : AttentionShape
        Shape of a layer with all heads.
    ranks : int
        Ranks that share the kv_heads evenly.
    tokens : sequence of int
    on_progress : callable
        Called with each number of tokens that is done.

    Raises
    ------
    ParameterError
        If the rank cannot compute the shape, the ranks cannot share it, or the points make no line.
    UnknownNameError
        If the supply currents of the part, and so the powers, are not documented.
    """
    heads = shape.num_kv_heads
    require(ranks >= 1 and heads % ranks == 0, "--ranks", ranks, f"a divisor of the {heads} kv_heads")
    require(len(set(tokens)) >= 2, "--tokens", list(tokens), "two different numbers or more")
    params = preset.rank.for_shape(shape)
    power = command_energy(params.dram)
    share = AttentionShape(
        num_q_heads=shape.num_q_heads // ranks,
        num_kv_heads=heads // ranks,
        head_dim=shape.head_dim,
        format=shape.format,
    )
    counts, measured, peak = tuple(sorted(set(tokens))), [], 0.0
    for count in counts:
        with open_timing(params) as sim:
            run = time_step(sim, share, count)
            peak = 1000 * step_energy(run, sim.finished[-1]).total_nj / run.ns  # nJ/ns is W
        measured.append(run.ns)
        on_progress(count)
    slope, intercept = fitted_line(counts, measured)
    return LatencyFit(
        preset=preset.name,
        params=params,
        shape=shape,
        ranks=ranks,
        tokens=counts,
        measured_ns=tuple(measured),
        slope_ns=slope,
        intercept_ns=intercept,
        idle_mw=power.precharged_mw * params.num_chips * ranks,
        peak_mw=peak * ranks,
    )


def ini_text(fit: LatencyFit, spec: str) -> str:
    """The device's INI file; sections and names are DRAMsim3's, ``[other]`` is LLMServingSim's."""
    p = fit.params
    org, t = p.organization, p.timing
    currents = DRAM_CURRENTS[p.dram]
    sections: dict[str, dict[str, object]] = {
        "dram_structure": {
            "protocol": org.standard.name,
            "bankgroups": org.bank_groups,
            "banks_per_group": org.banks_per_group,
            "rows": org.rows,
            "columns": org.columns,
            "device_width": org.device_width_bits,
            "BL": org.burst_length,
        },
        "timing": {
            "tCK": float(t.clock_period_ps) / 1000,
            **{"CL": t.nCL, "CWL": t.nCWL, "tRCD": t.nRCD, "tRP": t.nRP, "tRAS": t.nRAS, "tRFC": t.nRFC},
            **{"tREFI": t.nREFI, "tRRD_S": t.nRRD_S, "tRRD_L": t.nRRD_L, "tWTR_S": t.nWTR_S, "tWTR_L": t.nWTR_L},
            **{"tFAW": t.nFAW, "tWR": t.nWR, "tRTP": t.nRTP, "tCCD_S": t.nCCD_S, "tCCD_L": t.nCCD_L},
        },
        "power": {
            "VDD": currents.vdd_v,
            **{"IDD0": currents.idd0_ma, "IDD2N": currents.idd2n_ma, "IDD3N": currents.idd3n_ma},
            **{"IDD4W": currents.idd4w_ma, "IDD4R": currents.idd4r_ma, "IDD5AB": currents.idd5b_ma},
        },
        "system": {
            "channel_size": fit.ranks * org.rank_bytes >> 20,
            "channels": 1,
            "bus_width": org.bus_width_bits,
        },
        "other": {
            "data_rate": t.data_rate_mt_per_s,
            "idle_power": round(fit.idle_mw),
            "peak_power": round(fit.peak_mw),
        },
    }
    lines = [
        f"# {spec}: made by `dimmpim export llmservingsim --preset {fit.preset}`; entry of attn_model in pim_model.py:",
        f'# "{spec}": {{"slope": {fit.slope}, "intercept": {fit.intercept}}}',
    ]
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
    return "\n".join(lines) + "\n"
