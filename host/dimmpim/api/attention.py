"""One decode step of attention on a backend: outputs, statistics, error against float64, clocks and energy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dimmpim.api.attention_result import AttentionResult, Floats
from dimmpim.api.presets import Preset, preset_under
from dimmpim.ranks import AnyRank, open_rank, open_timing
from dimmpim.studies.rank_energy import current_figures, energy_figures
from pimhost.driver.decode_step import RankTime, golden_step, legal_limit, run_step, time_step
from pimhost.driver.rank_host import RankHost
from pimhost.kv_file import MAX_TOKENS, DecodeStep, synthetic_step
from pimhost.reference import reference_attention, relative_l2_error
from pimsim.rank.recording import RankRecording
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.shape import LOG2_E, AttentionShape
from pimspec.errors import RankError, UnknownNameError, require
from pimspec.golden.merge import Partial, normalise
from pimspec.params.pim_rank import PimRankParams

__all__ = ["BACKENDS", "AttentionResult", "Progress", "attention", "decode_step_of", "run_attention", "synthetic_qkv"]

BACKENDS = ("golden", "rtl", "timing", "reference")

Progress = Callable[[str, int, int], None]
"""Called with the work at hand, the kv_heads that are done, and the clocks so far."""


def synthetic_qkv(
    *, num_q_heads: int, num_kv_heads: int, head_dim: int, num_tokens: int, seed: int = 1
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16]]:
    """Random data for attention, whose scores are spread as those of models are.

    Parameters
    ----------
    num_q_heads, num_kv_heads, head_dim, num_tokens : int
    seed : int
        0 or more; equal seeds give equal data.

    Returns
    -------
    q : float16 array of shape (num_q_heads, head_dim)
    k, v : float16 arrays of shape (num_kv_heads, num_tokens, head_dim)

    Raises
    ------
    ParameterError

    Examples
    --------
    >>> import dimmpim
    >>> q, k, v = dimmpim.synthetic_qkv(num_q_heads=4, num_kv_heads=2, head_dim=16, num_tokens=100)
    >>> q.shape, k.shape
    ((4, 16), (2, 100, 16))
    """
    require(1 <= num_tokens <= MAX_TOKENS, "num_tokens", num_tokens, f"1..{MAX_TOKENS}")
    require(seed >= 0, "seed", seed, "0 or more")
    shape = AttentionShape(num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
    step = synthetic_step(shape, num_tokens, seed)
    return step.q, step.k, step.v


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    backend: str = "golden",
    preset: Preset | str = "ddr4-3200-x8-8gb",
    softmax_scale: float | None = None,
    static_order: bool = False,
    bus_tccd: str | None = None,
    max_streaming_banks: int | None = None,
    max_current_ma: float | None = None,
    refresh: int | None = None,
    threads: int = 1,
    trace: bool = False,
    waves: Path | None = None,
) -> AttentionResult:
    """One decode step of attention: ``softmax(q k^T * softmax_scale) v`` for one query token of every q_head.

    Parameters
    ----------
    q : float16 array of shape (num_q_heads, head_dim)
        q_head h attends to kv_head ``h // (num_q_heads // num_kv_heads)``. RoPE applied, not scaled.
    k, v : float16 arrays of shape (num_kv_heads, num_tokens, head_dim)
    backend : {"golden", "rtl", "timing", "reference"}
        The bit-exact model, the RTL of a rank, its timing model (clocks without outputs), or float64.
    preset : Preset or str
        Its rank is fitted to the shape of the data.
    softmax_scale : float, optional
        ``head_dim ** -0.5`` if left out.
    static_order : bool
        ``rtl``, ``timing``: no overlap of banks and bus, for comparison.
    bus_tccd : {"long", "short"}, optional
        ``rtl``, ``timing``, as the next three: whether lines to and from the bank PUs keep tCCD_L; the default is that
        of the preset, "long".
    max_streaming_banks : int, optional
        Most banks of a chip that may stream at once; 0 for no limit.
    max_current_ma : float, optional
        Most supply current of a chip, kept as a number of banks that may stream; 0 for no limit.
    refresh : {1, 2}, optional
        Refresh rate: 2 for twice the rate, as above 85 degC.
    threads : int
        ``rtl``: CPU cores to use, 1 or 2.
    trace : bool
        ``rtl``, ``timing``: keep every DRAM and PIM command in `commands`.
    waves : Path, optional
        ``rtl``: run it again under Icarus, and write a waveform into this folder.

    Returns
    -------
    AttentionResult

    Raises
    ------
    ParameterError
        If arrays do not fit one another, or the rank cannot hold or compute them.
    UnknownNameError
    RankError
        If the rank does not finish.
    ToolError
        If a compiler or simulator is missing.

    Notes
    -----
    The first run of ``rtl`` with a preset generates and compiles its Verilog: some seconds for ``tiny``, minutes for a
    full rank. Builds are kept.

    Examples
    --------
    >>> import dimmpim
    >>> q, k, v = dimmpim.synthetic_qkv(num_q_heads=4, num_kv_heads=2, head_dim=16, num_tokens=100)
    >>> result = dimmpim.attention(q, k, v, preset="tiny")
    >>> result.output.shape, result.max_error < 1e-3
    ((4, 16), True)
    >>> dimmpim.attention(q, k, v, backend="timing", preset="tiny").clocks > 0
    True
    """
    step = decode_step_of(q, k, v, softmax_scale)
    rules = (bus_tccd, max_streaming_banks, max_current_ma, refresh)
    timed = backend in ("rtl", "timing") or all(given is None for given in rules)
    require(timed, "backend", backend, "rtl or timing, with other rules for the DRAM")
    chosen = preset_under(
        preset,
        bus_tccd=bus_tccd,
        max_streaming_banks=max_streaming_banks,
        max_current_ma=max_current_ma,
        refresh=refresh,
    )
    return run_attention(
        step.shape,
        step.num_tokens,
        step=step,
        source=step.source,
        backend=backend,
        preset=chosen,
        static_order=static_order,
        threads=threads,
        trace=trace,
        waves=waves,
    )


def decode_step_of(q: ArrayLike, k: ArrayLike, v: ArrayLike, softmax_scale: float | None = None) -> DecodeStep:
    """Arrays as one decode step; parameters and errors as of :func:`attention`."""
    queries, keys, values = (_float16(what, array) for what, array in (("q", q), ("k", k), ("v", v)))
    require(queries.ndim == 2, "q.shape", queries.shape, "(num_q_heads, head_dim)")
    fits = keys.ndim == 3 and keys.shape == values.shape and keys.shape[1] >= 1
    require(fits, "k.shape and v.shape", (keys.shape, values.shape), "equal, (num_kv_heads, num_tokens, head_dim)")
    require(keys.shape[2] == queries.shape[1], "head_dim of k", keys.shape[2], f"that of q, {queries.shape[1]}")
    shape = AttentionShape(
        num_q_heads=len(queries), num_kv_heads=len(keys), head_dim=queries.shape[1], softmax_scale=softmax_scale
    )
    return DecodeStep(shape=shape, q=queries, k=keys, v=values, source="arrays")


def _float16(what: str, array: ArrayLike) -> NDArray[np.float16]:
    given = np.asarray(array)
    require(given.dtype == np.float16, f"{what}.dtype", str(given.dtype), "float16")
    require(bool(np.isfinite(given).all()), what, "an array with NaN or infinity", "finite")
    return given


def run_attention(
    shape: AttentionShape,
    tokens: int,
    *,
    step: DecodeStep | None,
    source: str,
    backend: str,
    preset: Preset,
    static_order: bool = False,
    threads: int = 1,
    trace: bool = False,
    waves: Path | None = None,
    progress: Progress = lambda stage, done, clocks: None,
) -> AttentionResult:
    """As :func:`attention`; the timing model needs no `step`.

    Parameters
    ----------
    shape : AttentionShape
    tokens : int
    step : DecodeStep or None
        The data.
    source : str
    backend, preset, static_order, threads, trace, waves
        As for :func:`attention`.
    progress : callable
    """
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    require(not (static_order or trace) or backend in ("rtl", "timing"), "backend", backend, "rtl or timing")
    require(not (waves or threads > 1) or backend == "rtl", "backend", backend, "rtl")
    require(preset.format == shape.format, "format of the preset", preset.format.name, "fp16, that of the data")
    figures: dict[str, Any] = {
        "backend": backend,
        "preset": preset.name,
        "source": source,
        "num_q_heads": shape.num_q_heads,
        "num_kv_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "num_tokens": tokens,
    }
    params = preset.rank_for(shape)
    if backend == "timing":
        return AttentionResult(**figures, **_on_timing(shape, tokens, params, static_order, trace, progress))
    assert step is not None, "only the timing model does without data"
    expected = reference_attention(step.q, step.k, step.v, shape.scale).output
    output: Floats = expected
    if backend == "reference":
        computed = _by_reference(step)
    else:
        progress(f"golden model, {tokens} tokens", 0, 0)
        start = time.perf_counter()
        golden = result = golden_step(params, step)
        computed = {"streamed_bytes": shape.kv_bytes(tokens), "wall_seconds": time.perf_counter() - start}
        if backend == "rtl":
            result, computed = _on_rtl(step, params, golden, static_order, threads, trace, waves, progress)
        output = _float32(normalise(result))
        computed["statistics"] = _float32(np.stack([result.m, result.l], axis=1))
    error = relative_l2_error(output, expected)
    return AttentionResult(**figures, **computed, output=output, relative_l2_error=error)


def _float32(bits: NDArray[np.int64]) -> NDArray[np.float32]:
    return bits.astype(np.uint32).view(np.float32)


def _by_reference(step: DecodeStep) -> dict[str, Any]:
    """Statistics in float64, of the same meaning as those of a rank."""
    start, shape = time.perf_counter(), step.shape
    queries = step.q.astype(np.float64).reshape(shape.num_kv_heads, -1, shape.head_dim)
    x = shape.scale * float(LOG2_E) * (queries @ step.k.astype(np.float64).swapaxes(1, 2))
    m = x.max(axis=-1)
    total = np.exp2(x - m[..., None]).sum(axis=-1)
    return {
        "streamed_bytes": shape.kv_bytes(step.num_tokens),
        "statistics": np.stack([m.ravel(), total.ravel()], axis=1),
        "wall_seconds": time.perf_counter() - start,
    }


def _measured(run: RankTime, host: AnyRank, shape: AttentionShape, tokens: int, trace: bool) -> dict[str, Any]:
    """What both the RTL and its timing model tell of a run."""
    return {
        "clocks": run.clocks,
        "ns": run.ns,
        "streamed_bytes": run.streamed_bytes,
        "utilization_of_peak": run.utilization_of_peak,
        "utilization_of_legal_limit": run.utilization_of_peak / legal_limit(run.params, shape),
        "energy": energy_figures(run, host.finished[-1], shape, tokens),
        "current_ma": current_figures(run, host.finished[-1]),
        "simulated_clocks_per_second": host.clock / host.port.wall_seconds,
        "commands": run.commands if trace else None,
    }


def _on_timing(
    shape: AttentionShape, tokens: int, params: PimRankParams, static_order: bool, trace: bool, progress: Progress
) -> dict[str, Any]:
    stage = f"timing model, {tokens} tokens"
    with open_timing(params) as host:
        start = time.perf_counter()
        run = time_step(
            host,
            shape,
            tokens,
            normalise=False,
            static_order=static_order,
            trace=True,
            progress=lambda done, clocks: progress(stage, done, clocks),
        )
        seconds = time.perf_counter() - start
        return {**_measured(run, host, shape, tokens, trace), "wall_seconds": seconds}


def _on_rtl(
    step: DecodeStep,
    params: PimRankParams,
    golden: Partial,
    static_order: bool,
    threads: int,
    trace: bool,
    waves: Path | None,
    progress: Progress,
) -> tuple[Partial, dict[str, Any]]:
    stage = f"RTL, {step.num_tokens} tokens"
    progress("Verilog and Verilator build", 0, 0)
    with open_rank(params, threads=threads) as host:
        host.port.recording = RankRecording() if waves else None
        start = time.perf_counter()
        run = run_step(
            host,
            step,
            normalise=False,
            static_order=static_order,
            progress=lambda done, clocks: progress(stage, done, clocks),
        )
        seconds = time.perf_counter() - start
        figures = {**_measured(run, host, step.shape, step.num_tokens, trace), "wall_seconds": seconds}
        if host.port.recording and waves:
            progress("again under Icarus, for the waveform", step.shape.num_kv_heads, run.clocks)
            figures["waveform"] = _waveform(host, host.port.recording, waves)
    result = Partial(run.output, run.statistics[:, 0], run.statistics[:, 1])
    mismatches = sum(int(np.count_nonzero(a != b)) for a, b in zip(result, golden, strict=True))
    return result, {**figures, "golden_mismatches": mismatches}


def _waveform(host: RankHost[RankSimulator], recording: RankRecording, folder: Path) -> Path:
    """Do the run again with the rank as one Verilog top, and write down every signal."""
    from pimhw.pim_rank import rank_verilog  # noqa: PLC0415 - Amaranth is slow to import
    from pimsim.rank.replay import replay  # noqa: PLC0415

    document = recording.document(host.port.issued, host.clock, host.params.access_bytes)
    outcome = replay(host.params, rank_verilog(host.params), document, simulator="icarus", folder=folder, waves=True)
    if outcome.num_failures or outcome.waveform is None:
        raise RankError(f"Icarus and Verilator differ; see {outcome.log}")
    return outcome.waveform
