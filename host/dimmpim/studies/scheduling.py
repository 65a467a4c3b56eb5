"""Gain and cost of dynamic scheduling and of programs, on a rank with a DPA controller: its RTL, or its timing model.

* **static order**: the commands of a program in its own order; transfers on the bus and banks wait for one another.
* **dynamic**: transfers and MACs leave their queues as soon as their dependencies are met.
* **ideal issue**: banks wait for DRAM timing only: :func:`pimhost.driver.decode_step.legal_limit`.
* **descriptors**: the same attention without programs, one descriptor for each kv_head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dimmpim.ranks import AnyRank, decode_step, open_backend, require_golden, step_clocks, wait_for_phase
from pimhost.driver.decode_step import golden_step, legal_limit, peak_clocks
from pimhost.driver.kv_cache import LazyKvCache
from pimhost.driver.program_rank import ProgramRank
from pimhost.kv_file import DecodeStep
from pimsim.rank.verilated import RankSimulator
from pimspec.attention.shape import AttentionShape
from pimspec.errors import RankError, require
from pimspec.params.pim_rank import PimRankParams

__all__ = ["SchedulingPoint", "measure"]


@dataclass(frozen=True, kw_only=True)
class SchedulingPoint:
    """Clocks of one decode step of a batch of equal requests.

    Parameters
    ----------
    shape : AttentionShape
        Shape of a request.
    tokens : int
        Tokens of each request.
    requests : int
    static_clocks, dynamic_clocks : float
        Clocks from the first start to the last result; means, if there was more than one refresh phase.
    descriptor_clocks, program_clocks : float
        Clocks of one request alone, by descriptors and by a program.
    peak_clocks : float
        Clocks in which all banks could read K and V of the batch: a column access each nCCD_MAC.
    ideal_share : float
        Share of the peak with ideal issue.
    """

    shape: AttentionShape
    tokens: int
    requests: int
    static_clocks: float
    dynamic_clocks: float
    descriptor_clocks: float
    program_clocks: float
    peak_clocks: float
    ideal_share: float

    @property
    def static_share(self) -> float:
        """Share of time in which the MAC units work, in static order."""
        return self.peak_clocks / self.static_clocks

    @property
    def dynamic_share(self) -> float:
        return self.peak_clocks / self.dynamic_clocks

    @property
    def of_ideal(self) -> float:
        """Ratio of dynamic scheduling to ideal issue."""
        return self.dynamic_share / self.ideal_share

    @property
    def overhead(self) -> float:
        """Relative excess of a program's clocks over those of descriptors."""
        return self.program_clocks / self.descriptor_clocks - 1


def _batch_clocks(host: AnyRank, steps: Sequence[DecodeStep], static_order: bool) -> int:
    """Clocks of programs that start at once, one for each step; RTL results are compared with the golden model."""
    shape, params, is_rtl = steps[0].shape, host.params, isinstance(host.port, RankSimulator)
    rank = ProgramRank(host, shape, normalise=False, static_order=static_order, kv="cells" if is_rtl else "none")
    cache, slots = LazyKvCache(rank.dpa, rank.num_regions), range(len(steps))
    for slot, step in enumerate(steps):
        rank.grant(cache.open(slot, step.num_tokens))
        rank.write_kv(cache, slot, 0, 0, step.k, step.v)
    rank.send(
        0,
        {slot: steps[slot].q.view(np.uint16) for slot in slots},
        {slot: steps[slot].num_tokens for slot in slots},
        {slot: slot * rank.entries for slot in slots},
    )
    host.finish_writes()
    before, begin = host.num_finished, host.clock
    due = rank.start(slots)
    rank.wait_idle(limit=20_000 + 100 * int(peak_clocks(params, shape, steps[0].num_tokens) * len(steps)))
    if host.num_finished != due:
        raise RankError(f"{host.num_finished - before} of {due - before} kv_heads have finished")
    results = rank.results(0, slots, statistics=True)
    for slot, step in enumerate(steps):
        if is_rtl:
            require_golden(results[slot], golden_step(params, step), step)
        rank.grant([cache.release(slot)])
    host.trace()
    return host.finished[-1] - begin


def measure(
    params: PimRankParams,
    shape: AttentionShape,
    tokens: Sequence[int],
    *,
    requests: int = 1,
    backend: str = "rtl",
    phases: int = 1,
    threads: int = 1,
    seed: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[SchedulingPoint]:
    """Points of each context, run in each way.

    Parameters
    ----------
    params : PimRankParams
        A rank with a DPA controller that can compute the shape.
    shape : AttentionShape
        Shape of a request.
    tokens : sequence of int
    requests : int
        Requests that run back to back.
    backend : str
        ``rtl``, or ``timing`` for the same clocks without data.
    phases : int
        Repetitions at other refresh phases: one refresh more or less in a short run matters.
    threads : int
        CPU cores to use, 1 or 2.
    seed : int
    progress : callable
        Called with the current activity.

    Raises
    ------
    ParameterError
        If the requests find no buffer entries, or the rank has too few rows.
    RankError
        If results differ from the golden model.
    """
    dpa = params.require_dpa()
    params.require_shape(shape)
    entries, most = requests * shape.num_kv_heads, params.queries // params.queries_at_once
    require(entries <= most, "requests x kv_heads", entries, f"at most {most}, what the rank's query buffer holds")
    require(requests <= dpa.num_slots, "requests", requests, f"at most {dpa.num_slots}, the slots of the controller")
    with open_backend(backend, params, threads=threads, progress=progress) as host:
        host.take()
        for count in tokens:
            steps = [decode_step(backend, shape, count, seed + n) for n in range(requests)]
            found: dict[str, list[int]] = {way: [] for way in ("static order", "dynamic", "program", "descriptors")}
            for phase in range(phases):
                for way, clocks in found.items():
                    progress(f"{count} tokens, {way}")
                    wait_for_phase(host, phase, phases)
                    if way == "descriptors":
                        clocks.append(step_clocks(host, steps[0]))
                    else:
                        clocks.append(
                            _batch_clocks(host, steps[:1] if way == "program" else steps, way == "static order")
                        )
            static, dynamic, alone, descriptors = map(fmean, found.values())
            yield SchedulingPoint(
                shape=shape,
                tokens=count,
                requests=requests,
                static_clocks=static,
                dynamic_clocks=dynamic,
                descriptor_clocks=descriptors,
                program_clocks=alone,
                peak_clocks=requests * peak_clocks(params, shape, count),
                ideal_share=legal_limit(params, shape),
            )
