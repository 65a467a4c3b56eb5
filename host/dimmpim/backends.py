"""A rank to measure clocks on: RTL, with data that is compared with the golden model, or its timing model, without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dimmpim.rank_run import open_rank, run_step, time_step
from pimhost.kv_file import DecodeStep, synthetic_step
from pimsim.rank.verilated import RankSimulator
from pimsim.timing.timing_model import TimingSimulator
from pimspec.attention.shape import AttentionShape
from pimspec.errors import RankError
from pimspec.golden.merge import Partial
from pimspec.params.dpa import DpaParams
from pimspec.params.pim_rank import PimRankParams

__all__ = ["BACKENDS", "decode_step", "open_backend", "require_golden", "step_clocks"]

BACKENDS = ("rtl", "timing")


def open_backend(
    backend: str,
    params: PimRankParams,
    dpa: DpaParams | None = None,
    *,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> RankSimulator | TimingSimulator:
    """The rank of one of BACKENDS; the first build of RTL takes minutes."""
    if backend == "timing":
        return TimingSimulator(params, dpa)
    progress("Verilog and Verilator build")
    return open_rank(params, dpa, threads=threads)


def decode_step(backend: str, shape: AttentionShape, tokens: int, seed: int) -> DecodeStep:
    """Synthetic data for RTL; the timing model needs none, and gets zeros that take no memory."""
    if backend == "rtl":
        return synthetic_step(shape, tokens, seed)
    q = np.zeros((shape.num_q_heads, shape.head_dim), np.float16)
    kv = np.broadcast_to(np.float16(0), (shape.num_kv_heads, tokens, shape.head_dim))
    return DecodeStep(shape=shape, q=q, k=kv, v=kv, source="none")


def step_clocks(
    sim: RankSimulator | TimingSimulator, step: DecodeStep, golden: Partial | None = None, *, static_order: bool = False
) -> int:
    """Of a decode step by descriptors; what RTL gives is compared with `golden`, if there is any.

    Raises
    ------
    RankError
        If they differ.
    """
    if isinstance(sim, TimingSimulator):
        return time_step(sim, step.shape, step.num_tokens, normalise=False, static_order=static_order).clocks
    run = run_step(sim, step, normalise=False, static_order=static_order)
    if golden is not None:
        require_golden(run.output, run.statistics, golden, step)
    return run.clocks


def require_golden(output: NDArray[np.int64], statistics: NDArray[np.int64], golden: Partial, step: DecodeStep) -> None:
    """Raise RankError unless o and l are those of the golden model."""
    if not (np.array_equal(output, golden.o) and np.array_equal(statistics[:, 1], golden.l)):
        raise RankError(f"RTL and golden model differ at {step.num_tokens} tokens")
