"""What dynamic scheduling and programs bring and cost, on a rank with a DPA controller: its RTL, or its timing model.

* **static order**: the commands of a program in its own order; transfers on the bus and banks wait for one another.
* **dynamic**: transfers and MACs leave their queues as soon as what they depend on is there.
* **ideal issue**: banks never wait but for DRAM timing: :func:`pimhost.driver.decode_step.legal_limit`.
* **descriptors**: the same attention without programs, one descriptor a kv_head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dimmpim.ranks import AnyRank, decode_step, open_backend, require_golden, step_clocks
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
        Of a request.
    tokens : int
        Of each request.
    requests : int
    static_clocks, dynamic_clocks : float
        From the first start to the last result; means, if there was more than one refresh phase.
    descriptor_clocks, program_clocks : float
        Of one request alone, by descriptors and by a program.
    peak_clocks : float
        In which all banks could read K and V of the batch: a column access each nCCD_MAC.
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
        """Dynamic scheduling against ideal issue."""
        return self.dynamic_share / self.ideal_share

    @property
    def overhead(self) -> float:
        """Clocks that a program takes longer than descriptors, over those of descriptors."""
        return self.program_clocks / self.descriptor_clocks - 1


def _batch_clocks(host: AnyRank, steps: Sequence[DecodeStep], static_order: bool) -> int:
    """Start a program for each step at once; every result of RTL is compared with the golden model."""
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
    """Run each context in each way.

    Parameters
    ----------
    params : PimRankParams
        A rank with a DPA controller that can compute the shape.
    shape : AttentionShape
        Of a request.
    tokens : sequence of int
    requests : int
        That run back to back.
    backend : str
        ``rtl``, or ``timing`` for the same clocks without data.
    phases : int
        Times that all is done, at other refresh phases: whether a refresh more or less falls into a short run matters.
    threads : int
        CPU cores to use, 1 or 2.
    seed : int
    progress : callable
        Called with what is being done.

    Raises
    ------
    ParameterError
        If the requests find no places, or the rank has not the rows.
    RankError
        If the rank does not deliver what the golden model says.
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
                    host.run(phase * params.engine.refresh_clocks // phases)
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
