"""Driver of a rank with a DPA controller: programs, K and V of resident requests, starts and results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pimcompiler.attention import AttentionProgram, compile_attention
from pimspec.attention.placement import BurstWrites, KvKind, KvPlacement, KvRegion
from pimspec.attention.regions import region_of
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.errors import RankError, require
from pimspec.hostif.device import Float16s
from pimspec.hostif.port import CellPort, RankPort
from pimspec.params.dpa import ConfigOp, ConfigOperation, SlotState

from .kv_cache import Intervention, KvCache
from .rank_host import RankHost

__all__ = ["PATIENCE", "RUN_CLOCKS", "KvPath", "ProgramRank", "StepResult"]

KvPath: TypeAlias = Literal["bus", "cells", "none"]
"""Path of K and V to the cells: over the host's bus, directly (in no time), or none (the timing model)."""

RUN_CLOCKS = 1 << 13
"""Clocks between two returns to Python, so that Ctrl-C is seen."""

PATIENCE = 1 << 17
"""Clocks without a result after which the device is asked whether it still works; doubled each time."""

MOST_CLOCKS = 1 << 26
"""Clocks without a result that no kv_head takes: one that fills the largest rank takes about half as many."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Results of one request.

    Parameters
    ----------
    output : array of shape (num_q_heads, head_dim)
        32-bit words of the output buffer: 16-bit numbers if normalised, else FP32 bits of ``o_partial``.
    statistics : array of shape (num_q_heads, 2), or None
        FP32 bits of m and l, if they were requested.
    """

    output: NDArray[np.int64]
    statistics: NDArray[np.int64] | None = None


class ProgramRank:
    """Resident requests of one model shape on a rank, one program for each layer.

    A request is a slot of the DPA controller. The last layer's program counts the token. SET_REQUEST tells a slot its
    next program, and T unless it is what the device has counted.

    Parameters
    ----------
    host : RankHost
        A rank with a DPA controller.
    shape : AttentionShape
        Shape of one layer, with the kv_heads that lie in this rank.
    num_layers : int
    normalise, static_order : bool
        True to deliver 16-bit outputs; true to prevent overlap of banks and bus.
    kv : {"bus", "cells", "none"}
        See KvPath.

    Attributes
    ----------
    programs : list of AttentionProgram
        Programs by layer, all of one length.
    interventions : int
        Number of configuration operations other than START.

    Raises
    ------
    ParameterError
        If the rank has no DPA controller, cannot compute the shape, or has no room for the programs.
    """

    def __init__(
        self,
        host: RankHost[RankPort],
        shape: AttentionShape,
        num_layers: int = 1,
        *,
        normalise: bool = True,
        static_order: bool = False,
        kv: KvPath = "bus",
    ) -> None:
        self.host, self.rank, self.shape, self.num_layers = host, host.params, shape, num_layers
        self.dpa = self.rank.require_dpa()
        self.programs = _programs(self, shape, num_layers)
        self.interventions = 0
        self._normalise, self._static_order, self._kv = normalise, static_order, kv
        self._due = host.num_finished  # kv_heads that have been started in all
        self._set: dict[int, tuple[int, int, int]] = {}  # by request: layer of the program, T, first buffer entry
        for layer, program in enumerate(self.programs):
            self.configure(program.load(layer * len(program.words)))

    @property
    def num_regions(self) -> int:
        """Regions of virtual rows of a request: those of K and V, for each kv_head and layer."""
        return self.programs[0].regions

    @property
    def entries(self) -> int:
        """Buffer entries of a request."""
        return self.programs[0].num_entries

    @property
    def requests_at_once(self) -> int:
        """Number of requests for whose queries and outputs the rank has buffer entries."""
        return self.rank.queries // self.entries

    def configure(self, operations: Sequence[ConfigOperation]) -> None:
        """Do configuration operations, and count them."""
        self.host.configure(operations)
        self.interventions += len(operations)

    def grant(self, interventions: Iterable[Intervention]) -> None:
        """Tell the device of chunks that a cache has granted or taken back."""
        self.configure([operation for intervention in interventions for operation in intervention.operations])

    def forget(self, request: int) -> None:
        """Forget the state of a request's slot, which is empty or must be configured anew."""
        self._set.pop(request, None)

    def write_kv(self, cache: KvCache, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> None:
        """Write tokens into the chunks that `cache` has granted the request; while PIM owns the DRAM they are appended.

        Parameters
        ----------
        cache : KvCache
        request, layer, first_token : int
        k, v : arrays of shape (num_kv_heads, n, head_dim)
        """
        if self._kv == "none":
            return
        if self._kv == "bus" and self.host.pim_owns:
            self._append(cache, request, layer, first_token, k, v)
            return
        bursts = self._bursts(cache, request, layer, first_token, k, v)
        if self._kv == "bus":
            self.host.write_bursts(bursts)
        else:
            cast("CellPort", self.host.port).poke(bursts)

    def _append(self, cache: KvCache, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> None:
        """Append tokens, those of a kv_head next to one another, so that the buffer chip merges neighbours."""
        each, tokens = self.dpa.row_step_tokens, range(first_token, first_token + k.shape[1])
        rows = [
            cache.physical_row(request, token, region_of(self.shape, layer, head, v=is_v))
            for is_v in (False, True)
            for head in range(self.shape.num_kv_heads)
            for token in tokens
        ]
        heads = len(rows) // len(tokens)
        vectors = np.concatenate([np.asarray(x).view(np.uint16).reshape(-1, self.shape.head_dim) for x in (k, v)])
        is_v = np.repeat([False, True], len(rows) // 2)
        self.host.append(rows, np.tile(np.array(tokens) % each, heads), is_v, vectors)

    def send(
        self, layer: int, queries: Mapping[int, NDArray[np.uint16]], tokens: Mapping[int, int], entry: Mapping[int, int]
    ) -> None:
        """Send queries, and configure the slots for a start.

        Parameters
        ----------
        layer : int
        queries : mapping of int to array of shape (num_q_heads, head_dim)
            16-bit patterns, by request.
        tokens : mapping of int to int
            Tokens of each request in this layer.
        entry : mapping of int to int
            First buffer entry of each request.
        """
        host = self.host
        lines = host.query_lines(np.concatenate(list(queries.values())))
        host.memory.write(np.concatenate([self._query_places(entry[request]) for request in queries]), lines)
        self.configure([o for request in queries for o in self._ready(request, layer, tokens[request], entry[request])])

    def start(self, requests: Sequence[int]) -> int:
        """Start the programs of requests; returns the total of finished kv_heads when they are done."""
        self._due += len(requests) * self.shape.num_kv_heads
        self.host.configure([ConfigOperation(op=ConfigOp.START, slot=request) for request in requests])
        return self._due

    def wait(self, expected: int, *, limit: int = MOST_CLOCKS) -> None:
        """Run until `expected` kv_heads have finished in total.

        Raises
        ------
        RankError
            If programs stop before, or no kv_head finishes for `limit` clocks.
        """
        host, patience = self.host, PATIENCE
        begin = last = host.clock
        while (finished := host.num_finished) < expected:
            host.run(min(RUN_CLOCKS, limit), until_finished=expected)
            if host.num_finished > finished:
                last = host.clock
            if host.clock - last >= limit:
                raise RankError(f"{finished} of {expected} kv_heads have finished, and no other for {limit} clocks")
            if host.clock - begin > patience:
                self.require_running()
                patience *= 2

    def wait_idle(self, *, limit: int = 2_000_000) -> None:
        """Run until no program waits or runs, and all work that programs have begun is done."""
        begin = self.host.clock
        while self.host.dpa_state()["running"] or self.host.status().busy:
            if self.host.clock - begin > limit:
                raise RankError(f"programs have not finished after {limit} clocks")
            self.host.run(256)

    def require_running(self) -> None:
        """Raise RankError unless programs are at work."""
        state = self.host.dpa_state()
        if not state["running"] and not self.host.status().busy:
            raise RankError(f"programs have stopped with kv_heads unfinished: {state}")

    def results(self, layer: int, requests: Sequence[int], *, statistics: bool = False) -> dict[int, StepResult]:
        """Results by request, if rank and slots report no error; the last layer adds a token to the slots' counts."""
        host, codec = self.host, self.host.codec
        entry = {request: self._set[request][2] for request in requests}
        slots = host.window.regions["slots"].base
        status = [host.window_places(0), host.window_places(2)]
        status += [host.window_places(slots + request) for request in entry]
        outputs = [self._output_places(first) for first in entry.values()]
        lines = host.memory.read(np.concatenate([*status, *outputs]))
        rank, controller = host.status_in(lines[0].tobytes()), codec.dpa_state(lines[1].tobytes())
        if rank.refused or rank.chip or controller["refused"]:
            raise RankError(f"the rank is not well: {rank}, {controller}")
        words = host.output_vectors(lines[len(status) :]).reshape(len(entry), self.shape.num_q_heads, -1)
        results: dict[int, StepResult] = {}
        for n, request in enumerate(entry):
            slot = codec.slot(lines[2 + n].tobytes())
            if slot["state"] != SlotState.READY or slot["pending"]:
                raise RankError(f"slot {request} is not ready: {slot}")
            program, tokens, first = self._set[request]
            self._set[request] = program, tokens + (layer == self.num_layers - 1), first
            results[request] = StepResult(output=words[n], statistics=self._statistics(first) if statistics else None)
        return results

    def _statistics(self, first_entry: int) -> NDArray[np.int64]:
        rows, group = self.rank.queries_at_once, self.shape.gqa_group_size
        parts = [self.host.read_statistics(first_entry + head * rows, group) for head in range(self.shape.num_kv_heads)]
        return np.concatenate(parts)

    def _ready(self, request: int, layer: int, tokens: int, first_entry: int) -> list[ConfigOperation]:
        """Operations that a slot needs before a start."""
        program, before = self.programs[layer], self._set.get(request)
        self._set[request] = layer, tokens, first_entry
        if before == self._set[request]:
            return []
        first, scale = program.request(
            request,
            tokens,
            address=layer * len(program.words),
            first_entry=first_entry,
            normalise=self._normalise,
            static_order=self._static_order,
        )
        return [first] if before else [first, scale]

    def _query_places(self, first_entry: int) -> NDArray[np.int64]:
        return self._head_places(self.host.query_places, first_entry)

    def _output_places(self, first_entry: int) -> NDArray[np.int64]:
        return self._head_places(self.host.output_places, first_entry)

    def _head_places(self, places: Callable[[int, int], NDArray[np.int64]], first_entry: int) -> NDArray[np.int64]:
        """Lines of the vectors of all heads of a request."""
        each, group = self.rank.queries_at_once, self.shape.gqa_group_size
        return np.concatenate([places(first_entry + head * each, group) for head in range(self.shape.num_kv_heads)])

    def _bursts(
        self, cache: KvCache, request: int, layer: int, first_token: int, k: Float16s, v: Float16s
    ) -> BurstWrites:
        """K and V of tokens as bursts, in the chunks of the request."""
        each, shape = self.dpa.row_step_tokens, self.shape
        skipped = first_token % each
        blocks = range(first_token - skipped, first_token + k.shape[1], each)
        regions = []
        for kind in KvKind:
            for head in range(shape.num_kv_heads):
                region = region_of(shape, layer, head, v=kind is KvKind.V)
                rows = [cache.physical_row(request, max(token, first_token), region) for token in blocks]
                regions.append(KvRegion(request=request, kind=kind, head_set=head, rank=0, rows=rows))
        placement = KvPlacement(
            organization=self.rank.organization, shape=shape, mapping=TOKEN_PER_CHIP, regions=regions
        )
        parts = [placement.writes(request, kind, skipped, x) for kind, x in ((KvKind.K, k), (KvKind.V, v))]
        return BurstWrites(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _programs(rank: ProgramRank, shape: AttentionShape, num_layers: int) -> list[AttentionProgram]:
    """Programs of all layers, all of one length."""
    programs = [
        compile_attention(rank.rank, shape, num_layers=num_layers, layers=[layer], advance=layer == num_layers - 1)
        for layer in range(num_layers)
    ]
    words, most = sum(len(program.words) for program in programs), rank.dpa.program_words
    require(words <= most, "words of the programs of all layers", words, f"at most {most}")
    return programs
