"""Decode attention of resident requests on a rank with a DPA controller: its RTL, or its timing model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimcompiler.attention import compile_attention, region_of
from pimhost.driver.kv_cache import Intervention, LazyKvCache
from pimhost.kv_file import DecodeStep
from pimsim.rank.verilated import HostedRank
from pimspec.attention.placement import KvKind, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.errors import RankError, require
from pimspec.params.dpa import ConfigOp, ConfigOperation, SlotState

__all__ = ["ProgramRank", "StepResult"]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Output bits of shape (num_q_heads, head_dim), and m and l, shape (num_q_heads, 2)."""

    output: NDArray[np.int64]
    statistics: NDArray[np.int64]


class ProgramRank:
    """Requests of one shape on a rank; the program is loaded once.

    Parameters
    ----------
    sim : HostedRank
        A rank with a DPA controller, which PIM owns.
    shape : AttentionShape
        The kv_heads that lie in this rank, of one layer.
    normalise, static_order : bool
        Deliver 16-bit outputs; no overlap of banks and bus.
    data : bool
        Write K and V into the cells. The timing model has none.

    Attributes
    ----------
    interventions : int
        Times that the host had to act but for delivering data: new requests, new chunks, releases.
    """

    def __init__(
        self,
        sim: HostedRank,
        shape: AttentionShape,
        *,
        normalise: bool = False,
        static_order: bool = False,
        data: bool = True,
    ) -> None:
        require(sim.dpa is not None, "rank", "one without", "one with a DPA controller")
        assert sim.dpa is not None
        self.sim, self.shape, self.params = sim, shape, sim.dpa
        self.program = compile_attention(self.params, shape)
        self.cache = LazyKvCache(self.params, self.program.regions)
        self.interventions = 0
        self._normalise, self._static_order, self._data = normalise, static_order, data
        self._places: dict[int, int] = {}
        sim.configure(self.program.load())

    def open(self, slot: int, step: DecodeStep, *, first_entry: int = 0) -> None:
        """A new request: grant its chunks, write K and V of `step` into them, make it ready."""
        self._do(self.cache.open(slot, step.num_tokens))
        self.write(slot, step, range(step.num_tokens))
        operations = self.program.request(
            slot, step.num_tokens, first_entry=first_entry, normalise=self._normalise, static_order=self._static_order
        )
        self.sim.configure(operations)
        self.interventions += 1
        self._places[slot] = first_entry

    def append(self, slot: int, step: DecodeStep) -> None:
        """The last token of `step` is new: write its K and V, into a new chunk if there is need of one."""
        self._do(self.cache.grow(slot, step.num_tokens))
        self.write(slot, step, range(step.num_tokens - 1, step.num_tokens))

    def close(self, slot: int) -> None:
        """The request is gone."""
        self._do([self.cache.release(slot)])
        del self._places[slot]

    def start(self, slot: int, step: DecodeStep) -> None:
        """Deliver the queries of `step` and start the program."""
        self.write_queries(slot, step)
        self.sim.configure([ConfigOperation(op=ConfigOp.START, slot=slot)])

    def write_queries(self, slot: int, step: DecodeStep) -> None:
        """Deliver the queries of `step`."""
        group = self.shape.gqa_group_size
        for head in range(self.shape.num_kv_heads):
            place = self._places[slot] + head * self.params.rank.queries_at_once
            self.sim.write_queries(place, step.q[head * group : (head + 1) * group].view(np.uint16))

    def wait(self, *, limit: int = 2_000_000) -> None:
        """Run until no program waits or runs, and all that they have begun is done."""
        begin = self.sim.clock
        while self.sim.dpa_state()["running"] or self.sim.status().busy:
            if self.sim.clock - begin > limit:
                raise RankError(f"programs have not finished after {limit} clocks")
            self.sim.run(256)

    def result(self, slot: int) -> StepResult:
        """Outputs of the last program of a slot."""
        status = self.sim.slot_status(slot)
        if status["state"] != SlotState.READY:
            raise RankError(f"slot {slot} is not ready: {status}")
        group, parts = self.shape.gqa_group_size, []
        for head in range(self.shape.num_kv_heads):
            place = self._places[slot] + head * self.params.rank.queries_at_once
            parts.append((self.sim.read_outputs(place, group), self.sim.read_statistics(place, group)))
        output, statistics = (np.concatenate(part) for part in zip(*parts, strict=True))
        return StepResult(output=output, statistics=statistics)

    def step(self, slot: int, step: DecodeStep) -> StepResult:
        """One decode step of one request."""
        self.start(slot, step)
        self.wait()
        return self.result(slot)

    def _do(self, interventions: list[Intervention]) -> None:
        for intervention in interventions:
            self.sim.configure(intervention.operations)
        self.interventions += len(interventions)

    def write(self, slot: int, step: DecodeStep, tokens: range) -> None:
        """Put K and V of some tokens into the cells, block by block."""
        if not self._data:
            return
        p, each = self.params, self.params.row_step_tokens
        for head in range(self.shape.num_kv_heads):
            for kind, vectors in ((KvKind.K, step.k), (KvKind.V, step.v)):
                region = region_of(self.shape, 0, head, v=kind is KvKind.V)
                for first in range(tokens.start // each * each, tokens.stop, each):
                    part = range(max(first, tokens.start), min(first + each, tokens.stop))
                    row = self.cache.physical_row(slot, part.start, region)
                    placement = KvPlacement(
                        organization=p.rank.organization,
                        shape=AttentionShape(
                            num_q_heads=self.shape.gqa_group_size, num_kv_heads=1, head_dim=self.shape.head_dim
                        ),
                        mapping=TOKEN_PER_CHIP,
                        regions=[KvRegion(request=0, kind=kind, head_set=0, rank=0, rows=range(row, row + 1))],
                    )
                    chosen = np.asarray(vectors)[head : head + 1, part.start : part.stop]
                    self.sim.poke(placement.writes(0, kind, part.start - first, chosen))
