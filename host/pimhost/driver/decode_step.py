"""One decode step of one request by descriptors: written, run and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.placement import KvKind, KvLayout, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram import limits
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.organization import dram_preset
from pimspec.errors import RankError, require
from pimspec.golden.attention import attention_partial
from pimspec.golden.merge import Partial
from pimspec.hostif.port import CellPort, CommandCounts, CountingPort, RankPort, mac_accesses, traced_commands
from pimspec.hostif.window_lines import Descriptor
from pimspec.params.pim_rank import PimRankParams

from ..kv_file import DecodeStep
from .rank_host import RankHost

__all__ = ["RankRun", "RankTime", "golden_step", "legal_limit", "peak_clocks", "placement_of", "run_step", "time_step"]


@dataclass(frozen=True, kw_only=True)
class RankTime:
    """Time of a decode step on a rank, and its commands.

    Parameters
    ----------
    params : PimRankParams
    clocks : int
        Controller clocks from the first descriptor on the bus to the end of the last one.
    streamed_bytes : int
        Bytes that bank PUs read: K and V, and padding beside the last token.
    utilization_of_peak : float
        Bytes of K and V over those that all banks could have read in that time.
    records : array of :data:`pimspec.hostif.port.TRACE`, or None
        All commands, in clocks from reset on, if they were requested.
    refused : int
        Requests that the rank refused.
    counts : CommandCounts, optional
        Counts over the clocks of the step; otherwise the records give them.
    """

    params: PimRankParams
    clocks: int
    streamed_bytes: int
    utilization_of_peak: float
    records: NDArray[np.void] | None
    refused: int
    counts: CommandCounts | None = None

    @cached_property
    def commands(self) -> list[TracedCommand]:
        """Records as commands, in CK."""
        assert self.records is not None, "not traced"
        return traced_commands(self.params, self.records)

    @property
    def ns(self) -> float:
        """Time of `clocks`, in ns."""
        return float(self.params.timing.time_ps(self.clocks * self.params.ck_per_clock)) / 1000


@dataclass(frozen=True, kw_only=True)
class RankRun(RankTime):
    """Time and results of a decode step on RTL.

    Parameters
    ----------
    output : array of shape (num_q_heads, head_dim)
        FP16 or BF16 bits if normalised, else FP32 bits of o_partial.
    statistics : array of shape (num_q_heads, 2)
        FP32 bits of m and l.
    """

    output: NDArray[np.int64]
    statistics: NDArray[np.int64]


def golden_step(params: PimRankParams, step: DecodeStep) -> Partial:
    """Expected results, bit for bit: o of shape (num_q_heads, head_dim), m and l of shape (num_q_heads,)."""
    grouped = step.q.reshape(step.shape.num_kv_heads, -1, step.shape.head_dim)
    part = attention_partial(grouped, step.k, step.v, step.shape.scale_bits, params.attention_order())
    return Partial(part.o.reshape(step.q.shape), part.m.ravel(), part.l.ravel())


def placement_of(params: PimRankParams, shape: AttentionShape, tokens: int) -> KvPlacement:
    """Placement of K and V of one request from row 0 on, with a stack of rows for each kv_head and kind.

    Raises
    ------
    ParameterError
        If the rank has too few rows.
    """
    layout = KvLayout(organization=params.organization, shape=shape, mapping=TOKEN_PER_CHIP, kind=KvKind.K)
    rows = layout.num_rows(tokens)
    most = params.organization.rows // 2
    needed = 2 * shape.num_kv_heads * rows
    require(needed <= most, "rows of K and V", needed, f"at most {most}: fewer tokens or kv_heads")
    return KvPlacement(
        organization=params.organization,
        shape=shape,
        mapping=TOKEN_PER_CHIP,
        regions=[
            KvRegion(request=0, kind=kind, head_set=head, rank=0, rows=range(n * rows, (n + 1) * rows))
            for head in range(shape.num_kv_heads)
            for n, kind in enumerate(KvKind, start=2 * head)
        ],
    )


def legal_limit(params: PimRankParams, shape: AttentionShape) -> float:
    """Share of the peak at which K and V can stream, by :func:`pimspec.dram.limits.attention_efficiency`.

    It accounts for whole rows, tRCD, tRP and tRTP between them, refresh at its rate, the banks that may stream at once,
    and the bus, with its distance of writes, as far as it holds the banks up.
    """
    part = replace(dram_preset(params.dram), organization=params.organization)
    timing, group = part.timing, shape.gqa_group_size
    rows = limits.row_efficiency(timing, params.organization.column_accesses_per_row)
    write_distance = timing.nCCD_L / timing.nCCD_S if params.bus_tccd == "long" else 1.0
    return limits.attention_efficiency(
        min(rows, params.engine.streaming_limit / params.num_banks),
        1 - params.refresh_rate * timing.nRFC / timing.nREFI,
        limits.bus_load_k(part, partials_per_token=1, gqa_group_size=group, head_dim=shape.head_dim),
        write_distance * limits.bus_load_v(part, gqa_group_size=group, head_dim=shape.head_dim),
        overlapped=True,
    )


def peak_clocks(params: PimRankParams, shape: AttentionShape, tokens: int) -> float:
    """Clocks in which all banks could read K and V: a column access each nCCD_MAC, nothing in between."""
    p = params
    return shape.kv_bytes(tokens) / (p.num_banks * p.line_bytes) * p.timing.nCCD_MAC / p.ck_per_clock


def run_step(
    host: RankHost[CellPort],
    step: DecodeStep,
    *,
    normalise: bool = True,
    static_order: bool = False,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, clocks: None,
) -> RankRun:
    """Time and results of one decode step; commands, bytes and refusals count from the last step on.

    Parameters
    ----------
    host : RankHost
    step : DecodeStep
    normalise : bool
        True to deliver 16-bit outputs; otherwise FP32 o_partial.
    static_order : bool
        True to prevent overlap of banks and bus.
    limit : int, optional
        Most clocks for the whole step; the default is many times the expected number.
    progress : callable
        Called now and then with the number of finished kv_heads and the clocks so far.

    Raises
    ------
    ParameterError
        If the rank cannot compute the shape, or has too few rows.
    RankError
        If the rank does not finish, or refuses a request.
    """
    shape, tokens = step.shape, step.num_tokens
    host.params.require_shape(shape)
    placement = placement_of(host.params, shape, tokens)
    for kind, vectors in ((KvKind.K, step.k), (KvKind.V, step.v)):
        host.port.poke(placement.writes(0, kind, 0, vectors))
    queries = np.asarray(step.q).view(np.uint16)
    taken, results = _drive(host, shape, tokens, queries, normalise, static_order, limit, progress)
    output, statistics = (np.concatenate(part) for part in zip(*results, strict=True))
    return RankRun(**vars(taken), output=output, statistics=statistics)


def time_step(
    host: RankHost[CountingPort],
    shape: AttentionShape,
    tokens: int,
    *,
    normalise: bool = True,
    static_order: bool = False,
    trace: bool = False,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, clocks: None,
) -> RankTime:
    """Time of :func:`run_step` by the timing model, with its parameters, errors and clocks.

    The commands are only counted, unless `trace` asks for their records too: those since they were last taken.
    """
    host.params.require_shape(shape)
    placement_of(host.params, shape, tokens)
    queries = np.zeros((shape.num_q_heads, shape.head_dim), np.uint16)
    was, host.port.tracing = host.port.tracing, trace
    try:
        return _drive(host, shape, tokens, queries, normalise, static_order, limit, progress)[0]
    finally:
        host.port.tracing = was


def _drive(
    host: RankHost[RankPort],
    shape: AttentionShape,
    tokens: int,
    queries: NDArray[np.uint16],
    normalise: bool,
    static_order: bool,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> tuple[RankTime, list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Write queries and descriptors; return the time, and outputs and statistics of each kv_head."""
    p, port = host.params, host.port
    if not host.pim_owns:
        host.take()
        host.run(p.quiet_clocks + p.timing.nRFC // p.ck_per_clock)  # PIM begins with a refresh
    heads, places, group = shape.num_kv_heads, p.queries // p.queries_at_once, shape.gqa_group_size
    rows = -(-tokens // (p.row_lines * p.num_chips))
    ideal = heads * rows * 2 * p.organization.column_accesses_per_row * p.bank_pu.interval
    watch = _Watch(host, 100_000 + 40 * ideal if limit is None else limit, progress)
    results: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def collect(upto: int) -> None:
        """Read the results of kv_heads as they are done."""
        for head in range(len(results), upto):
            watch.until(head + 1)
            place = head % places * p.queries_at_once
            results.append((host.read_outputs(place, group), host.read_statistics(place, group)))

    timing = port if isinstance(port, CountingPort) else None
    begin, before = 0, None
    for head in range(heads):
        place = head % places * p.queries_at_once
        collect(head + 1 - places)  # the place must be free
        watch.until(head + 1 - p.descriptor_queue)
        host.write_queries(place, queries[head * group : (head + 1) * group])
        if head == 0:
            host.finish_writes()
            begin = host.clock
            before = timing.counts() if timing else None
        host.submit(
            Descriptor(
                k_row=2 * head * rows,
                v_row=(2 * head + 1) * rows,
                tokens=tokens,
                last_query=group - 1,
                query=place,
                output=place,
                scale=shape.scale_bits,
                normalise=int(normalise),
                static_order=int(static_order),
            )
        )
    collect(heads)
    clocks = watch.last - begin
    status = host.status()
    if status.refused or status.chip:
        raise RankError(f"the rank refused {status.refused} requests, chip status {status.chip:#x}")
    records = host.trace() if timing is None or timing.tracing else None
    counts = timing.counts(timing.num_finished - 1) - before if timing and before else None
    if counts is not None:
        accesses = counts.mac_accesses
    else:
        assert records is not None, "RTL is always traced"
        accesses = mac_accesses(records)
    time = RankTime(
        params=p,
        clocks=clocks,
        streamed_bytes=accesses * p.access_bytes * p.num_chips,
        utilization_of_peak=peak_clocks(p, shape, tokens) / clocks,
        records=records,
        refused=status.refused,
        counts=counts,
    )
    return time, results


class _Watch:
    """Wait for kv_heads to finish, in addition to those that had finished before."""

    def __init__(self, host: RankHost[RankPort], limit: int, progress: Callable[[int, int], None]) -> None:
        self._host, self._limit, self._progress = host, limit, progress
        self._before = host.num_finished
        # Clocks between two looks: some ms of wall time or more.
        self._look = 1 << 17 if isinstance(host.port, CountingPort) else 1 << 12

    def until(self, heads: int) -> None:
        """Run until `heads` kv_heads have finished."""
        host, begin = self._host, self._host.clock
        while heads > 0 and host.num_finished - self._before < heads:
            if host.clock - begin > self._limit:
                raise RankError(f"kv_head {heads - 1} has not finished after {self._limit} clocks")
            host.run(self._look, until_finished=self._before + heads)
            self._progress(host.num_finished - self._before, host.clock)

    @property
    def last(self) -> int:
        """Clock in which the last kv_head finished."""
        return self._host.finished[-1]
