"""Rank with a DPA controller as a device: everything goes over the host's DDR4 bus.

A call of :meth:`RankDevice.attend` has phases, which a caller that shares a channel among ranks may request one by one.
K and V (:meth:`RankDevice.write_kv`), :meth:`RankDevice.send`, :meth:`RankDevice.start` and :meth:`RankDevice.collect`
use the host's bus. Between the last two, clocks pass (:meth:`RankDevice.run_until`) until
:meth:`RankDevice.finished_at` knows when all was done. Requests may be sent and started while those of another call are
still being computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pimhost.driver.program_rank import RUN_CLOCKS, ProgramRank
from pimspec.attention.shape import AttentionShape
from pimspec.errors import RankError, require
from pimspec.hostif.device import Attention, DeviceCost, Float16s, Float32s
from pimspec.hostif.port import RankPort, mac_accesses

from ..devices.base import DeviceBase
from .kv_cache import Intervention
from .rank_host import RankHost

__all__ = ["APPENDED_TOKENS", "RankDevice"]

APPENDED_TOKENS = 4
"""Most tokens of a layer that are appended while PIM owns the DRAM; for more it is given back."""

_Result = TypeVar("_Result")


class RankDevice(DeviceBase):
    """A rank with a DPA controller as a :class:`~pimspec.hostif.device.PimDevice`.

    A call of :meth:`attend` starts a program for each request and waits once. Prefill is written while the host owns
    the DRAM; single tokens are appended beside PIM. Requests beyond the rank's buffer entries take turns.

    Parameters
    ----------
    host : RankHost
        A rank that has just been reset. It is closed with the device.
    shape : AttentionShape
    num_layers : int

    Attributes
    ----------
    programs : ProgramRank
    observe : callable or None
        Called with the trace (:meth:`pimspec.hostif.port.RankPort.trace`) of each call.

    Raises
    ------
    ParameterError
        If the rank has no DPA controller, or the programs of all layers do not fit into the program memory.
    """

    name = "rtl"

    def __init__(self, host: RankHost[RankPort], shape: AttentionShape, num_layers: int) -> None:
        self.host, self._interrupted = host, False
        self.observe: Callable[[NDArray[np.void]], None] | None = None
        try:
            super().__init__(host.params, shape, num_layers)
            self.programs = ProgramRank(host, shape, num_layers)
        except BaseException:
            host.close()
            raise

    @property
    def interventions(self) -> int:
        """Number of configuration operations other than START."""
        return self.programs.interventions

    def close(self) -> None:
        super().close()
        self.host.close()

    def _open(self, request: int) -> None:
        pass

    def _release(self, request: int, granted: Intervention | None) -> None:
        self.programs.forget(request)
        if granted is not None and not self._interrupted:
            with self._at_work():
                before = self._now()
                self.programs.grant([granted])
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
            self.programs.grant(granted)
            if self.host.pim_owns and k.shape[1] > APPENDED_TOKENS:
                self.host.release()
            self.programs.write_kv(self.cache, request, layer, first_token, k, v)
            self.host.settle()
            return self._since(before)

    def _attend(self, layer: int, queries: Mapping[int, Float16s]) -> tuple[Mapping[int, Float32s], DeviceCost]:
        outputs: dict[int, Float32s] = {}
        requests, at_once = list(queries), self.requests_at_once
        with self._at_work():
            before = self._now()
            if not self.host.pim_owns:
                self.host.take()
            for first in range(0, len(requests), at_once):
                turn = requests[first : first + at_once]
                self._send(layer, {request: queries[request] for request in turn}, {r: n for n, r in enumerate(turn)})
                self.host.drain()
                self.programs.wait(self.programs.start(turn))
                outputs |= self._results(layer, turn)
            return outputs, self._since(before)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Guard of the bus: after Ctrl-C or an error in the middle of a transfer, every further call is refused."""
        if self._interrupted:
            raise RankError("an earlier call of the device did not come to its end")
        self._interrupted = True
        yield
        self._interrupted = False

    # Phases of a call. Requests keep their buffer entries from `send` to `collect`.

    @property
    def requests_at_once(self) -> int:
        """Number of requests for whose queries and outputs the rank has buffer entries."""
        return self.programs.requests_at_once

    def send(self, layer: int, queries: Mapping[int, Float16s], places: Mapping[int, int]) -> DeviceCost:
        """Send q, and configure the slots. They may be started once :meth:`writes_done`.

        Parameters
        ----------
        layer : int
        queries : mapping of int to array of shape (num_q_heads, head_dim)
        places : mapping of int to int
            Place of each request's queries and outputs, below :attr:`requests_at_once`. No other request that is not
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
        """True if no appended K and V wait at the buffer chip; reads the status."""
        return self._phase(lambda: not self.host.status().queued)[0]

    def start(self, requests: Sequence[int]) -> tuple[int, DeviceCost]:
        """Start the programs of requests; returns the total of finished kv_heads when they are done, and the cost."""
        return self._phase(lambda: self.programs.start(requests))

    def finished_at(self, count: int) -> int | None:
        """Clock in which `count` kv_heads had finished in total; None if they have not."""
        return self.host.finished[count - 1] if self.host.num_finished >= count else None

    def run_until(self, clock: int) -> None:
        """Let clocks pass without traffic on the bus; PIM owns the DRAM and refreshes it."""
        require(self.host.pim_owns, "owner", "the host", "PIM")
        while self.host.clock < clock:
            self.host.run(min(RUN_CLOCKS, clock - self.host.clock))

    def ask_whether_running(self) -> DeviceCost:
        """Raise unless programs are at work."""
        return self._phase(self.programs.require_running)[1]

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

    def _send(self, layer: int, queries: Mapping[int, Float16s], places: Mapping[int, int]) -> None:
        bits = {request: np.ascontiguousarray(q).view(np.uint16) for request, q in queries.items()}
        tokens = {request: self.tokens(request, layer) for request in queries}
        entry = {request: places[request] * self.programs.entries for request in queries}
        self.programs.send(layer, bits, tokens, entry)

    def _results(self, layer: int, requests: Sequence[int]) -> dict[int, Float32s]:
        """Outputs as numbers."""
        results = self.programs.results(layer, requests)
        return {
            request: result.output.astype(np.uint16).view(np.float16).astype(np.float32)
            for request, result in results.items()
        }

    def _now(self) -> tuple[int, int]:
        """Clocks, and lines over the bus."""
        return self.host.clock, self.host.memory.lines

    def _since(self, before: tuple[int, int]) -> DeviceCost:
        """Cost since then; takes the trace of commands."""
        records = self.host.trace()
        if self.observe:
            self.observe(records)
        rank = self.rank
        return DeviceCost(
            cycles=self.host.clock - before[0],
            bytes_streamed=mac_accesses(records) * rank.access_bytes * rank.num_chips,
            host_bus_bytes=(self.host.memory.lines - before[1]) * rank.line_bytes,
        )
