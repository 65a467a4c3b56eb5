"""Ranks and devices by backend: generated, compiled and opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

import pimhw
import pimspec
from pimhost.devices.stored import GoldenDevice, ReferenceDevice
from pimhost.driver.decode_step import run_step, time_step
from pimhost.driver.program_rank import StepResult
from pimhost.driver.rank_device import RankDevice
from pimhost.driver.rank_host import RankHost
from pimhost.kv_file import DecodeStep, synthetic_step
from pimsim.build_cache import cached_text, content_key, sources_key
from pimsim.rank.verilated import RankSimulator
from pimsim.timing.timing_model import TimingSimulator
from pimsim.tools import toolchain
from pimspec.attention.shape import AttentionShape
from pimspec.errors import RankError, UnknownNameError
from pimspec.golden.merge import Partial
from pimspec.hostif.device import PimDevice
from pimspec.params.pim_rank import PimRankParams

__all__ = ["DEVICES", "RANKS", "AnyRank", "decode_step", "open_backend", "open_device", "open_rank", "open_timing"]
__all__ += ["rank_top_verilog", "rank_verilog_modules", "require_golden", "step_clocks", "wait_for_phase"]

RANKS = ("rtl", "timing")
"""Backends with clocks."""

DEVICES = ("reference", "golden", "rtl")
"""Backends of a :class:`~pimspec.hostif.device.PimDevice`."""

AnyRank: TypeAlias = RankHost[RankSimulator] | RankHost[TimingSimulator]


def rank_verilog_modules(params: PimRankParams) -> dict[str, str]:
    """Verilog of a rank by module, as from :func:`pimhw.pim_rank.rank_modules`; kept in the build folder."""
    import amaranth  # noqa: PLC0415 - slow to import

    from pimhw.pim_rank import rank_modules  # noqa: PLC0415

    key = content_key(sources_key(pimspec, pimhw), amaranth.__version__, repr(params))
    text = cached_text("verilog", f"rank-{key}", lambda: json.dumps(rank_modules(params)))
    modules: dict[str, str] = json.loads(text)
    return modules


def rank_top_verilog(params: PimRankParams) -> str:
    """Verilog of the whole rank, module ``pim_rank``; kept in the build folder."""
    import amaranth  # noqa: PLC0415 - slow to import

    from pimhw.hierarchy import hierarchical_verilog  # noqa: PLC0415
    from pimhw.pim_rank import PimRank  # noqa: PLC0415

    key = content_key(sources_key(pimspec, pimhw), amaranth.__version__, repr(params))
    modules = rank_verilog_modules(params)
    top = cached_text(
        "verilog", f"rank-top-{key}", lambda: hierarchical_verilog(PimRank(params=params), "pim_rank", {})
    )
    return "\n".join([*modules.values(), top])


def open_rank(params: PimRankParams, *, threads: int = 1) -> RankHost[RankSimulator]:
    """A rank in RTL, to be closed by the caller; its Verilog and models are generated, and cached."""
    toolchain()  # the Verilog of a rank takes half a minute: what is missing is told before
    return RankHost(RankSimulator(params, rank_verilog_modules(params), threads=threads))


def open_timing(params: PimRankParams) -> RankHost[TimingSimulator]:
    """Timing model of a rank."""
    return RankHost(TimingSimulator(params))


def open_backend(
    backend: str,
    params: PimRankParams,
    *,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> AnyRank:
    """Rank of one of the backends RANKS; the first build of RTL takes minutes."""
    if backend == "timing":
        return open_timing(params)
    progress("Verilog and Verilator build")
    return open_rank(params, threads=threads)


def open_device(backend: str, rank: PimRankParams, shape: AttentionShape, num_layers: int) -> PimDevice:
    """Device without requests, to be closed by the caller; raises :class:`UnknownNameError`."""
    if backend == "reference":
        return ReferenceDevice(rank, shape, num_layers)
    if backend == "golden":
        return GoldenDevice(rank, shape, num_layers)
    if backend == "rtl":
        return RankDevice(open_rank(rank), shape, num_layers)
    raise UnknownNameError("backend", backend, DEVICES)


def decode_step(backend: str, shape: AttentionShape, tokens: int, seed: int) -> DecodeStep:
    """Decode step with synthetic data for RTL; the timing model needs none, and gets zeros that take no memory."""
    if backend == "rtl":
        return synthetic_step(shape, tokens, seed)
    q = np.zeros((shape.num_q_heads, shape.head_dim), np.float16)
    kv = np.broadcast_to(np.float16(0), (shape.num_kv_heads, tokens, shape.head_dim))
    return DecodeStep(shape=shape, q=q, k=kv, v=kv, source="none")


def wait_for_phase(host: AnyRank, phase: int, phases: int) -> None:
    """Run until the refresh schedule of a rank that PIM owns is at one of `phases` equal steps of its interval."""
    interval = host.params.engine.refresh_clocks
    host.run((phase * interval // phases - host.clock) % interval)


def step_clocks(
    host: AnyRank,
    step: DecodeStep,
    golden: Partial | None = None,
    *,
    static_order: bool = False,
    normalise: bool = False,
) -> int:
    """Clocks of a decode step by descriptors; the results of RTL are compared with `golden`, if it is given.

    `golden` is not normalised.

    Raises
    ------
    RankError
        If the results differ.
    """
    if isinstance(host.port, TimingSimulator):
        return time_step(host, step.shape, step.num_tokens, normalise=normalise, static_order=static_order).clocks
    run = run_step(host, step, normalise=normalise, static_order=static_order)
    if golden is not None:
        require_golden(StepResult(output=run.output, statistics=run.statistics), golden, step)
    return run.clocks


def require_golden(result: StepResult, golden: Partial, step: DecodeStep) -> None:
    """Raise RankError unless o and l equal those of the golden model."""
    statistics = result.statistics
    same_l = statistics is not None and np.array_equal(statistics[:, 1], golden.l)
    if not (np.array_equal(result.output, golden.o) and same_l):
        raise RankError(f"RTL and golden model differ at {step.num_tokens} tokens")
