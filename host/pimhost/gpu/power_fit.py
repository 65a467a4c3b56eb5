"""Fit of the :class:`~pimhost.gpu.power.GpuPower` constants on measured mean power of whole requests.

A row of the table is a batch of prompts and the tokens generated for them, on GPUs that work together. It gives the
duration and the mean power as a share of the TDP. The fit is least squares of the relative error of the row's energy,
over time, operations and bytes. Decoding takes nearly all of the time, at 0.2 to 0.6 of the memory bandwidth, which
separates the static power from that of the bytes. Prompts of 64 to 8,192 tokens separate that of the operations.

Prompts of more than :data:`LONGEST_PROMPT` tokens are left out. Their measured mean power falls as the share of the
prompt grows, to 0.17 at 8,192 tokens, below that of decoding alone: idle time was measured with them.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pimspec.errors import ParameterError

from ..models import ModelShape, shape_named
from .llm_cost import LlmCost
from .model import GpuModel
from .power import GpuWork, attention_work, dense_work, head_work
from .specs import gpu_named

__all__ = ["LONGEST_PROMPT", "POWER_TABLE", "PowerFit", "fit_power", "request_work"]

POWER_TABLE = "splitwise_perf_model.csv.gz"
LONGEST_PROMPT = 512
_GPUS = {"A100": "a100-80gb"}
_BLOOM = ModelShape(
    name="BLOOM-176B", num_layers=70, hidden_size=14_336, num_q_heads=112, num_kv_heads=112, head_dim=128,
    ffn_size=57_344, gated_ffn=False, vocab_size=250_880, max_context=2048,
    source="BLOOM (arXiv 2211.05100), table 3",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PowerFit:
    """Result of a power fit.

    Parameters
    ----------
    gpu : str
    static_w, flop_pj, byte_pj : float
    rows : int
    rms_error, greatest_error : float
        Relative error of the energy of a row.
    """

    gpu: str
    static_w: float
    flop_pj: float
    byte_pj: float
    rows: int
    rms_error: float
    greatest_error: float


def request_work(cost: LlmCost, batch: int, prompt: int, output: int) -> GpuWork:
    """Work of one GPU: a prefill of `batch` prompts at once, then `output` - 1 decode steps."""
    layers = cost.shape.num_layers
    pairs, new = batch * prompt * (prompt + 1) / 2, batch * prompt
    work = (dense_work(cost, new) + attention_work(cost, new, pairs, float(new))).times(layers) + head_work(cost, batch)
    steps = output - 1
    context = batch * (steps * prompt + steps * (steps + 1) / 2)
    decode = dense_work(cost, batch).times(steps) + attention_work(cost, batch * steps, context, context)
    return work + decode.times(layers) + head_work(cost, batch).times(steps)


def fit_power(profiles: Path) -> list[PowerFit]:
    """Power fits of every GPU whose power is in the table.

    Parameters
    ----------
    profiles : Path
        Directory with :data:`POWER_TABLE`; without that file the result is empty.

    Raises
    ------
    ParameterError
        If the table is malformed.
    """
    path = profiles / POWER_TABLE
    if not path.is_file():
        return []
    try:
        with gzip.open(path, "rt", newline="") as table:
            rows = list(csv.DictReader(table))
        return [_fit(gpu, [row for row in rows if row["hardware"] == name]) for gpu, name in _GPUS.items()]
    except (OSError, KeyError, ValueError) as error:
        raise ParameterError(f"{path}: not a table of measured power: {error!r}") from None


def _fit(gpu: str, rows: list[dict[str, Any]]) -> PowerFit:
    tdp, model = gpu_named(gpu).tdp_w, GpuModel.named(gpu)
    shapes = {"llama2-70b": shape_named("Llama-2-70B"), "bloom-176b": _BLOOM}
    features, energy = [], []
    for row in rows:
        batch, prompt, output = (int(row[name]) for name in ("batch_size", "prompt_size", "token_size"))
        if float(row["average_power"] or 0) == 0 or prompt > LONGEST_PROMPT:  # 0: not measured
            continue
        cost = LlmCost(gpu=model, shape=shapes[row["model"]], tp_size=int(row["tensor_parallel"]))
        work, seconds = request_work(cost, batch, prompt, output), float(row["e2e_time"]) / 1e3
        features.append((seconds, float(work.flop) / 1e12, float(work.num_bytes) / 1e12))
        energy.append(float(row["average_power"]) * tdp * seconds)
    x, y = np.array(features), np.array(energy)
    found, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    error = x @ found / y - 1
    static_w, flop_pj, byte_pj = (float(f"{value:.4g}") for value in found)
    return PowerFit(
        gpu=gpu,
        static_w=static_w,
        flop_pj=flop_pj,
        byte_pj=byte_pj,
        rows=len(y),
        rms_error=float(np.sqrt((error**2).mean())),
        greatest_error=float(np.abs(error).max()),
    )
