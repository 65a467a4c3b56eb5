"""DPA programs: written, assembled, and run on the golden model, on RTL or on its timing model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dimmpim.api.attention import decode_step_of
from dimmpim.api.presets import Preset, preset_of
from dimmpim.api.program_backends import Ran, Setting, on_golden, on_rank
from dimmpim.api.program_result import ProgramResult
from dimmpim.ranks import decode_step, open_backend
from pimcompiler.assembler import assemble, disassemble
from pimcompiler.attention import compile_attention
from pimhost.driver.kv_cache import LazyKvCache
from pimhost.kv_file import MAX_TOKENS, DecodeStep
from pimhost.reference import reference_attention, relative_l2_error
from pimspec.attention.regions import num_regions
from pimspec.attention.shape import AttentionShape
from pimspec.errors import UnknownNameError, require
from pimspec.formats import FP16
from pimspec.golden.sequencer import MergedOutput
from pimspec.params.pim_rank import PimRankParams

__all__ = ["BACKENDS", "ProgramResult", "assemble", "attention_program", "disassemble", "program_data", "run_program"]
__all__ += ["run_words"]

BACKENDS = ("golden", "rtl", "timing")


def attention_program(
    *,
    num_q_heads: int = 8,
    num_kv_heads: int = 8,
    head_dim: int | None = None,
    num_layers: int = 1,
    preset: Preset | str = "tiny",
) -> str:
    """The text of a DPA program that computes one decode step of attention, to read or to change.

    Parameters
    ----------
    num_q_heads, num_kv_heads : int
        Heads of a layer that lie in the rank.
    head_dim : int, optional
        That of the preset if left out.
    num_layers : int
        Layers whose K and V the request holds, all of which are computed.
    preset : Preset or str

    Returns
    -------
    str
        What :func:`assemble` and :func:`run_program` take.

    Raises
    ------
    ParameterError
        If the rank cannot compute the shape, or the buffers of queries and outputs do not suffice.
    UnknownNameError

    Examples
    --------
    >>> import dimmpim
    >>> text = dimmpim.attention_program(num_q_heads=4, num_kv_heads=2)
    >>> len(dimmpim.assemble(text))
    17
    """
    chosen = preset_of(preset)
    shape = _shape(chosen, num_q_heads, num_kv_heads, head_dim)
    return compile_attention(_rank(chosen, shape), shape, num_layers=num_layers).text


def _shape(preset: Preset, num_q_heads: int, num_kv_heads: int, head_dim: int | None) -> AttentionShape:
    require(preset.format == FP16, "format of the preset", preset.format.name, "fp16, that of the data")
    dim = preset.head_dim if head_dim is None else head_dim
    return AttentionShape(num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=dim)


def _rank(preset: Preset, shape: AttentionShape) -> PimRankParams:
    """The rank, fitted to the shape, with a DPA controller."""
    return preset.rank_for(shape).with_dpa()


def run_program(
    program: str | Sequence[int],
    *,
    tokens: int | None = None,
    num_q_heads: int = 8,
    num_kv_heads: int = 8,
    head_dim: int | None = None,
    data: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    seed: int = 1,
    backend: str = "golden",
    preset: Preset | str = "tiny",
    normalise: bool = True,
    static_order: bool = False,
    threads: int = 1,
    trace: bool = False,
) -> ProgramResult:
    """Run a DPA program once for one resident request.

    K and V of the request lie in its virtual rows block by block: row ``block * regions + region``. Region ``2 * h`` is
    K of kv_head h, and ``2 * h + 1`` its V. The queries of kv_head h are entries ``h * queries_at_once`` and on. The
    kv_heads of several layers count on.

    Parameters
    ----------
    program : str or sequence of int
        Text, or words of 64 bits.
    tokens : int, optional
        Tokens of the synthetic request, 300 if left out.
    num_q_heads, num_kv_heads : int
        Heads of the synthetic request that lie in the rank, of all its layers together.
    head_dim : int, optional
        That of the preset if left out.
    data : tuple of q, k and v, optional
        float16 arrays of shapes (num_q_heads, head_dim), (num_kv_heads, tokens, head_dim) twice, instead.
    seed : int
        Of synthetic data, 0 or more.
    backend : {"golden", "rtl", "timing"}
        The bit-exact model, the RTL of a rank, or its timing model, which gives clocks without outputs.
    preset : Preset or str
        Its rank is fitted to the shape of the data.
    normalise : bool
        Deliver outputs in the rank's format; otherwise FP32 bits of o_partial.
    static_order : bool
        No overlap of banks and bus.
    threads : int
        ``rtl``: CPU cores to use, 1 or 2.
    trace : bool
        ``rtl``, ``timing``: keep every DRAM and PIM command in `commands`.

    Returns
    -------
    ProgramResult
        Also if the program has a fault.

    Raises
    ------
    ParameterError
        If the text is not a program, or the rank has no room for program or data.
    UnknownNameError
    RankError
        If RTL or timing model do not finish, or disagree with the golden model about a fault.

    Examples
    --------
    >>> import dimmpim
    >>> program = dimmpim.attention_program(num_q_heads=4, num_kv_heads=2)
    >>> result = dimmpim.run_program(program, num_q_heads=4, num_kv_heads=2, tokens=100)
    >>> result.fault.name, result.output.shape, result.max_error < 1e-2
    ('NONE', (4, 16), True)
    >>> dimmpim.run_program("mac tree, x0").fault.name
    'ORDER'
    """
    chosen = preset_of(preset)
    if data is None:
        step = program_data(
            chosen,
            backend,
            tokens=300 if tokens is None else tokens,
            num_q_heads=num_q_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            seed=seed,
        )
    else:
        require(tokens is None and head_dim is None, "tokens and head_dim", (tokens, head_dim), "left out beside data")
        step = decode_step_of(*data)
    return run_words(
        assemble(program) if isinstance(program, str) else program,
        step,
        backend=backend,
        preset=chosen,
        normalise=normalise,
        static_order=static_order,
        threads=threads,
        trace=trace,
    )


def program_data(
    preset: Preset,
    backend: str,
    *,
    tokens: int = 300,
    num_q_heads: int = 8,
    num_kv_heads: int = 8,
    head_dim: int | None = None,
    seed: int = 1,
) -> DecodeStep:
    """Synthetic data for a program, as :func:`run_program` takes them; the timing model gets shapes alone."""
    require(isinstance(tokens, int) and 1 <= tokens <= MAX_TOKENS, "tokens", tokens, f"1..{MAX_TOKENS}")
    require(seed >= 0, "seed", seed, "0 or more")
    shape = _shape(preset, num_q_heads, num_kv_heads, head_dim)
    LazyKvCache(_rank(preset, shape).require_dpa(), num_regions(shape)).open(
        0, tokens
    )  # too many are told before they are made
    return decode_step("timing" if backend == "timing" else "rtl", shape, tokens, seed)


def run_words(
    words: Sequence[int],
    step: DecodeStep,
    *,
    backend: str,
    preset: Preset,
    normalise: bool = True,
    static_order: bool = False,
    threads: int = 1,
    trace: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> ProgramResult:
    """As :func:`run_program`, with the words and the data at hand.

    Parameters
    ----------
    words : sequence of int
    step : DecodeStep
        The timing model looks at its shapes only.
    backend, preset, normalise, static_order, threads, trace
        As for :func:`run_program`.
    progress : callable
        Told what is being done.
    """
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    require(preset.format == step.shape.format, "format of the preset", preset.format.name, "fp16, that of the data")
    require(not trace or backend != "golden", "backend", backend, "rtl or timing, for a trace")
    require(threads == 1 or backend == "rtl", "backend", backend, "rtl, for more threads")
    shape, rank = step.shape, _rank(preset, step.shape)
    dpa, places = rank.require_dpa(), shape.num_kv_heads * rank.queries_at_once
    require(places <= rank.queries, "places of queries", places, f"at most {rank.queries}: fewer kv_heads")
    require(1 <= len(words) <= dpa.program_words, "words of the program", len(words), f"1..{dpa.program_words}")
    for word in words:
        require(isinstance(word, int) and 0 <= word < 1 << 64, "a word", word, "64 bits wide")
    setting = Setting(rank=rank, words=tuple(words), step=step, normalise=normalise, static_order=static_order)
    start = time.perf_counter()
    progress("golden model")
    outcome, outputs = on_golden(setting, compute=backend != "timing")
    ran = Ran(outputs=None if backend == "timing" else outputs)
    if backend != "golden":
        with open_backend(backend, rank, threads=threads, progress=progress) as host:
            start = time.perf_counter()
            progress(backend)
            ran = on_rank(host, setting, outcome, outputs, trace)
    return ProgramResult(
        backend=backend,
        preset=preset.name,
        source=step.source,
        num_q_heads=shape.num_q_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        num_tokens=step.num_tokens,
        words=setting.words,
        instructions=outcome.instructions,
        fault=outcome.fault,
        fault_pc=outcome.fault_pc,
        fault_row=outcome.fault_row,
        micro_ops=tuple(outcome.micro_ops),
        tokens_after=step.num_tokens + outcome.advance,
        wall_seconds=time.perf_counter() - start,
        **(_delivered(rank, shape, ran.outputs) if ran.outputs is not None else {}),
        golden_mismatches=ran.golden_mismatches,
        clocks=ran.clocks,
        ns=None if ran.clocks is None else ran.clocks * preset.clock_ns,
        utilization_of_peak=ran.utilization_of_peak,
        commands=ran.commands,
    )


def _delivered(rank: PimRankParams, shape: AttentionShape, outputs: list[MergedOutput]) -> dict[str, Any]:
    """Outputs by entry, with their error against float64."""
    last = sorted({output.entry: output for output in outputs}.values(), key=lambda output: output.entry)
    if not last:
        none = np.zeros((0, rank.head_dim))
        return {
            "entries": np.zeros(0, np.int64),
            "output": none,
            "output_bits": none.astype(np.int64),
            "statistics_bits": np.zeros((0, 2), np.int64),
            "relative_l2_error": np.zeros(0),
        }
    values = [output.values(shape.format) for output in last]
    errors = []
    for output, value in zip(last, values, strict=True):
        q, k, v = (bits.view(np.float16) for bits in output.operands)
        expected = reference_attention(q, k[None], v[None], shape.scale).output
        errors.append(relative_l2_error(value, expected))
    return {
        "entries": np.concatenate([output.entry + np.arange(len(output.output)) for output in last]),
        "output": np.concatenate(values),
        "output_bits": np.concatenate([output.output for output in last]),
        "statistics_bits": np.concatenate([output.statistics for output in last]),
        "relative_l2_error": np.concatenate(errors),
    }
