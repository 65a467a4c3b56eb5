"""A rank with a DPA controller in RTL as a device: everything goes over the host's DDR4 bus.

A call of :meth:`RtlDevice.attend` is made of phases, which whoever shares a channel among ranks may ask for one by one.
K and V (:meth:`RtlDevice.write_kv`), :meth:`RtlDevice.send`, :meth:`RtlDevice.start` and :meth:`RtlDevice.collect` use
the host's bus; between the last two, clocks pass (:meth:`RtlDevice.run_until`) until :meth:`RtlDevice.finished_at`
knows when all was done. Requests may be sent and started while those of another call are still being computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pimcompiler.attention import AttentionProgram, compile_attention, region_of
from pimhost.devices.base import DeviceBase
from pimhost.driver.kv_cache import Intervention
from pimhost.driver.memory_controller import HostController, Places
from pimspec.attention.placement import BurstWrites, KvKind, KvPlacement, KvRegion
from pimspec.attention.shape import TOKEN_PER_CHIP, AttentionShape
from pimspec.dram.commands import Command
from pimspec.errors import RankError, require
from pimspec.hostif.device import Attention, DeviceCost, Float16s, Float32s
from pimspec.hostif.port import RankPort
from pimspec.params.dpa import ConfigOp, ConfigOperation, DpaParams, SlotState

__all__ = ["PATIENCE", "POSTED_TOKENS", "RtlDevice"]

POSTED_TOKENS = 4
"""Up to so many tokens of a layer are written while PIM owns the DRAM; for more it is given back."""

_Result = TypeVar("_Result")

_CHUNK = 1 << 13
"""Clocks between two moments in which Python may act, so that Ctrl-C is heard."""

PATIENCE = 1 << 17
"""Clocks without a result after which the device is asked whether it still works; doubled each time."""


class RtlDevice(DeviceBase):
    """The Verilated rank. A call of :meth:`attend` starts a program for each request and waits once.

    Each layer has a program; the last one counts the token. A slot is told by SET_REQUEST which program comes next, and
    of T if it is not what the device has counted. Prefill is written while the host owns the DRAM, single tokens are
    posted beside PIM. More requests than the rank has places for queries take turns.

    Parameters
    ----------
    dpa : DpaParams
    shape : AttentionShape
    num_layers : int
    sim : RankPort
        The rank, just reset. It is closed with the device.

    Attributes
    ----------
    interventions : int
        Configuration operations but for START.
    observe : callable or None
        Given the trace (:meth:`pimsim.rank.verilated.RankSimulator.trace`) of each call.

    Raises
    ------
    ParameterError
        If the programs of all layers do not fit into the program memory.
    """

    name = "rtl"

    def __init__(
        self,
        dpa: DpaParams,
        shape: AttentionShape,
        num_layers: int,
        *,
        sim: RankPort,
    ) -> None:
        super().__init__(dpa, shape, num_layers)
        self._programs = _programs(dpa, shape, num_layers)
        self._places = self._programs[0].num_entries
        self.interventions = 0
        self._interrupted = False
        self._due = 0  # kv_heads that have been started in all
        self.observe: Callable[[NDArray[np.void]], None] | None = None
        self._set: dict[int, tuple[int, int, int]] = {}  # by request: layer of the program, T, first place
        self.sim = sim
        try:
            self.host = HostController(self.sim)
            for layer, program in enumerate(self._programs):
                self._configure(program.load(layer * len(program.words)))
        except BaseException:
            self.sim.close()
            raise

    def close(self) -> None:
        super().close()
        self.sim.close()

    def _open(self, request: int) -> None:
        pass

    def _release(self, request: int, granted: Intervention | None) -> None:
        self._set.pop(request, None)
        if granted is not None and not self._interrupted:
            with self._at_work():
                before = self._now()
                self._configure(granted.operations)
                self.total += self._since(before)

    def _write(
        self,
        request: int,
        layer: int,
        first_token: int,
        k: Float16s,
        v: Float16s,
        granted: Sequence[Intervention],
    ) -> DeviceCost:
        with self._at_work():
            before = self._now()
            self._configure([operation for intervention in granted for operation in intervention.operations])
            if self.host.pim_owns and k.shape[1] > POSTED_TOKENS:
                self.host.release()
            self.host.post(self._bursts(request, layer, first_token, k, v))
            self.host.settle()
            return self._since(before)

    def _attend(self, layer: int, queries: Mapping[int, Float16s]) -> tuple[Mapping[int, Float32s], DeviceCost]:
        outputs: dict[int, Float32s] = {}
        requests, at_once = list(queries), self.dpa.rank.queries // self._places
        with self._at_work():
            before = self._now()
            if not self.host.pim_owns:
                self.host.take()
            for first in range(0, len(requests), at_once):
                turn = requests[first : first + at_once]
                outputs |= self._turn(layer, {request: queries[request] for request in turn})
            return outputs, self._since(before)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Once the bus was left in the middle of something, by Ctrl-C or an error, nothing more can be asked for."""
        if self._interrupted:
            raise RankError("an earlier call of the device did not come to its end")
        self._interrupted = True
        yield
        self._interrupted = False

    # The phases of a call. Requests keep their places from `send` to `collect`.

    @property
    def requests_at_once(self) -> int:
        """Requests for whose queries and outputs the rank has places."""
        return self.dpa.rank.queries // self._places

    def send(self, layer: int, queries: Mapping[int, Float16s], places: Mapping[int, int]) -> DeviceCost:
        """Send q, and all that the slots must be told. They may be started once :meth:`writes_done`.

        Parameters
        ----------
        layer : int
        queries : mapping of int to array of shape (num_q_heads, head_dim)
        places : mapping of int to int
            Below :attr:`requests_at_once`: where queries and outputs of each request are. No other one that is not
            collected yet may have the same.
        """
        self._require_layer(layer)
        for request, q in queries.items():
            self._request(request)
            self._require_array("q", q, (self.shape.num_q_heads, self.shape.head_dim))
            place, most = places[request], self.requests_at_once - 1
            require(0 <= place <= most, f"place of request {request}", place, f"0..{most}")
        return self._phase(lambda: self._send(layer, queries, places))[1]

    def writes_done(self) -> bool:
        """Look whether K and V that were posted are in the cells."""
        return self._phase(lambda: not self.host.status().queued)[0]

    def start(self, requests: Sequence[int]) -> tuple[int, DeviceCost]:
        """Start the programs of requests; how many kv_heads will have finished in all when they are done."""
        return self._phase(lambda: self._start(requests))

    def finished_at(self, count: int) -> int | None:
        """The clock in which so many kv_heads had finished in all; None if they have not."""
        return self.sim.finished[count - 1] if self.sim.num_finished >= count else None

    def run_until(self, clock: int) -> None:
        """Let clocks pass without anything on the bus; PIM owns the DRAM and refreshes it."""
        require(self.host.pim_owns, "owner", "the host", "PIM")
        while self.sim.clock < clock:
            self.sim.run(min(_CHUNK, clock - self.sim.clock))

    def ask_whether_running(self) -> DeviceCost:
        """Raise unless programs are at work."""
        return self._phase(self._require_running)[1]

    def collect(self, layer: int, requests: Sequence[int]) -> Attention:
        """Outputs of requests that have finished."""
        outputs, cost = self._phase(lambda: self._results(layer, requests))
        return Attention(outputs=outputs, cost=cost)

    def _phase(self, work: Callable[[], _Result]) -> tuple[_Result, DeviceCost]:
        with self._at_work():
            before = self._now()
            if not self.host.pim_owns:
                self.host.take()
            result = work()
            cost = self._since(before)
            self.total += cost
            return result, cost

    def _turn(self, layer: int, queries: Mapping[int, Float16s]) -> dict[int, Float32s]:
        """Attention of as many requests as have places."""
        self._send(layer, queries, {request: n for n, request in enumerate(queries)})
        self.host.drain()
        self._wait(self._start(list(queries)))
        return self._results(layer, list(queries))

    def _send(self, layer: int, queries: Mapping[int, Float16s], places: Mapping[int, int]) -> None:
        host = self.host
        first_entry = {request: places[request] * self._places for request in queries}
        vectors = np.concatenate([np.ascontiguousarray(q).view(np.uint8) for q in queries.values()])
        lines = np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % self.dpa.rank.line_bytes)))
        where = self._vectors("queries", first_entry.values())
        host.write(where, lines.reshape(len(where), -1))
        self._configure([o for request in queries for o in self._ready(request, layer, first_entry[request])])

    def _start(self, requests: Sequence[int]) -> int:
        self._due += len(requests) * self.shape.num_kv_heads
        self.host.configure([ConfigOperation(op=ConfigOp.START, slot=request) for request in requests])
        return self._due

    def _ready(self, request: int, layer: int, first_entry: int) -> list[ConfigOperation]:
        """What the slot must be told before a start."""
        tokens, program = self.tokens(request, layer), self._programs[layer]
        before = self._set.get(request)
        self._set[request] = layer, tokens, first_entry
        if before == self._set[request]:
            return []
        address = layer * len(program.words)
        first, scale = program.request(request, tokens, address=address, first_entry=first_entry)
        return [first] if before else [first, scale]

    def _wait(self, expected: int) -> None:
        """Run until so many kv_heads have finished in all."""
        begin, patience = self.sim.clock, PATIENCE
        while self.sim.num_finished < expected:
            self.sim.run(_CHUNK, until_finished=expected)
            if self.sim.clock - begin > patience:
                self._require_running()
                patience *= 2

    def _require_running(self) -> None:
        state = self.host.dpa_state()
        if not state["running"] and not self.host.status().busy:
            raise RankError(f"programs have stopped with kv_heads unfinished: {state}")

    def _results(self, layer: int, requests: Sequence[int]) -> dict[int, Float32s]:
        """Outputs, if rank and slots are well; the slots then know one token more after the last layer."""
        host, window, codec = self.host, self.sim.window, self.sim.codec
        first_entry = {request: self._set[request][2] for request in requests}
        slots = window.regions["slots"].base
        status = [host.window(0), host.window(2), *(host.window(slots + request) for request in first_entry)]
        outputs = self._vectors("outputs", first_entry.values())
        lines = host.read(np.concatenate([*status, outputs]))
        rank, controller = codec.status(lines[0].tobytes()), codec.dpa_state(lines[1].tobytes())
        if rank.refused or rank.chip or controller["refused"]:
            raise RankError(f"the rank is not well: {rank}, {controller}")
        words = np.ascontiguousarray(lines[len(status) :]).view("<u4").reshape(len(first_entry), -1)
        results: dict[int, Float32s] = {}
        for n, request in enumerate(first_entry):
            slot = codec.slot(lines[2 + n].tobytes())
            if slot["state"] != SlotState.READY or slot["pending"]:
                raise RankError(f"slot {request} is not ready: {slot}")
            last = layer == self.num_layers - 1
            program, tokens, place = self._set[request]
            self._set[request] = program, tokens + last, place
            vectors = words[n].reshape(self.shape.num_q_heads, -1)[:, : self.shape.head_dim]
            results[request] = vectors.astype(np.uint16).view(np.float16).astype(np.float32)
        return results

    def _vectors(self, region: str, first_places: Iterable[int]) -> Places:
        """Lines of the queries, or outputs, of all heads of requests."""
        window, rows, group = self.sim.window, self.dpa.rank.queries_at_once, self.shape.gqa_group_size
        each = window.query_lines if region == "queries" else window.output_lines
        base, heads = window.regions[region].base, range(self.shape.num_kv_heads)
        parts = [self.host.window(base + (place + head * rows) * each, group * each)
                 for place in first_places for head in heads]  # fmt: skip
        return np.concatenate(parts)

    def _bursts(self, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> BurstWrites:
        """K and V of tokens where the chunks of the request have them."""
        each, shape = self.dpa.row_step_tokens, self.shape
        skipped = first_token % each
        blocks = range(first_token - skipped, first_token + k.shape[1], each)
        regions = []
        for kind in KvKind:
            for head in range(shape.num_kv_heads):
                region = region_of(shape, layer, head, v=kind is KvKind.V)
                rows = [self.cache.physical_row(request, max(token, first_token), region) for token in blocks]
                regions.append(KvRegion(request=request, kind=kind, head_set=head, rank=0, rows=rows))
        placement = KvPlacement(
            organization=self.dpa.rank.organization, shape=shape, mapping=TOKEN_PER_CHIP, regions=regions
        )
        parts = [placement.writes(request, kind, skipped, x) for kind, x in ((KvKind.K, k), (KvKind.V, v))]
        return BurstWrites(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _configure(self, operations: Sequence[ConfigOperation]) -> None:
        self.host.configure(operations)
        self.interventions += len(operations)

    def _now(self) -> tuple[int, int]:
        """Clocks, and lines over the bus."""
        return self.sim.clock, self.host.lines

    def _since(self, before: tuple[int, int]) -> DeviceCost:
        """What has been done since then; takes the trace of commands."""
        records = self.sim.trace()
        if self.observe:
            self.observe(records)
        accesses = int(records["count"][records["code"] == int(Command.PIM_MAC)].sum())
        rank = self.dpa.rank
        return DeviceCost(
            cycles=self.sim.clock - before[0],
            bytes_streamed=accesses * rank.access_bytes * rank.num_chips,
            host_bus_bytes=(self.host.lines - before[1]) * rank.line_bytes,
        )


def _programs(dpa: DpaParams, shape: AttentionShape, num_layers: int) -> list[AttentionProgram]:
    """One program for each layer, all of one length."""
    programs = [
        compile_attention(dpa, shape, num_layers=num_layers, layers=[layer], advance=layer == num_layers - 1)
        for layer in range(num_layers)
    ]
    words = sum(len(program.words) for program in programs)
    require(words <= dpa.program_words, "words of the programs of all layers", words, f"at most {dpa.program_words}")
    return programs
