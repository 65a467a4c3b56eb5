"""What dynamic scheduling and programs bring and cost, on a rank with a DPA controller: its RTL, or its timing model.

* **static order**: the commands of a program in its own order; transfers on the bus and banks wait for one another.
* **dynamic**: transfers and MACs leave their queues as soon as what they depend on is there.
* **ideal issue**: banks never wait but for DRAM timing: :func:`dimmpim.rank_run.legal_limit`.
* **descriptors**: the same attention without programs, one descriptor a kv_head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from dimmpim.backends import decode_step, open_backend, require_golden, step_clocks
from dimmpim.program_rank import ProgramRank
from dimmpim.rank_run import golden_step, legal_limit, peak_clocks
from pimhost.kv_file import DecodeStep
from pimsim.rank.verilated import HostedRank, RankSimulator
from pimspec.attention.shape import AttentionShape
from pimspec.errors import RankError, require
from pimspec.params.dpa import ConfigOp, ConfigOperation, DpaParams

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


def _batch_clocks(sim: HostedRank, steps: Sequence[DecodeStep], static_order: bool) -> int:
    """Start a program for each step at once; every result of RTL is compared with the golden model."""
    shape, params, is_rtl = steps[0].shape, sim.params, isinstance(sim, RankSimulator)
    rank = ProgramRank(sim, shape, static_order=static_order, data=is_rtl)
    places = shape.num_kv_heads * params.queries_at_once
    for slot, step in enumerate(steps):
        rank.open(slot, step, first_entry=slot * places)
    for slot, step in enumerate(steps):
        rank.write_queries(slot, step)
    sim.host_done()
    before, begin = len(sim.finished), sim.clock
    heads = before + len(steps) * shape.num_kv_heads
    sim.configure([ConfigOperation(op=ConfigOp.START, slot=slot) for slot in range(len(steps))])
    rank.wait(limit=20_000 + 100 * int(peak_clocks(params, shape, steps[0].num_tokens) * len(steps)))
    if len(sim.finished) != heads:
        raise RankError(f"{len(sim.finished) - before} of {heads - before} kv_heads have finished")
    for slot, step in enumerate(steps):
        result = rank.result(slot)
        if is_rtl:
            require_golden(result.output, result.statistics, golden_step(params, step), step)
    for slot in range(len(steps)):
        rank.close(slot)
    sim.trace()
    return sim.finished[-1] - begin


def measure(
    params: DpaParams,
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
    params : DpaParams
        Of a rank that can compute the shape.
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
    params.rank.require_shape(shape)
    places, most = requests * shape.num_kv_heads, params.rank.queries // params.rank.queries_at_once
    require(places <= most, "requests x kv_heads", places, f"at most {most}, what the rank's query buffer holds")
    require(
        requests <= params.num_slots, "requests", requests, f"at most {params.num_slots}, the slots of the controller"
    )
    with open_backend(backend, params.rank, params, threads=threads, progress=progress) as sim:
        sim.take()
        for count in tokens:
            steps = [decode_step(backend, shape, count, seed + n) for n in range(requests)]
            found: dict[str, list[int]] = {way: [] for way in ("static order", "dynamic", "program", "descriptors")}
            for phase in range(phases):
                for way, clocks in found.items():
                    progress(f"{count} tokens, {way}")
                    sim.run(phase * params.rank.engine.refresh_clocks // phases)
                    if way == "descriptors":
                        clocks.append(step_clocks(sim, steps[0]))
                    else:
                        clocks.append(
                            _batch_clocks(sim, steps[:1] if way == "program" else steps, way == "static order")
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
                peak_clocks=requests * peak_clocks(params.rank, shape, count),
                ideal_share=legal_limit(params.rank, shape),
            )
