"""Host side of one rank: its window, the hand-over of its DRAM, descriptors and configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.attention.placement import BurstWrites, relayout_line
from pimspec.dram.command_trace import TracedCommand
from pimspec.errors import RankError, require
from pimspec.hostif.port import RankPort, traced_commands
from pimspec.hostif.window import ControlOp
from pimspec.hostif.window_lines import Descriptor, RankStatus, WindowLines
from pimspec.params.dpa import ConfigOperation

from .memory_controller import Lines, MemoryController, Places

__all__ = ["RankHost", "in_turns"]

_FIRST_PAUSE, _LONGEST_PAUSE = 32, 1024
"""Clocks between two looks at the status, at first and at last."""

Port_co = TypeVar("Port_co", bound=RankPort, covariant=True)


class RankHost(Generic[Port_co]):
    """Host of one rank; everything crosses the DDR4 bus as plain reads and writes.

    Parameters
    ----------
    port : RankPort
        A rank that has just been reset. It is closed with the host.

    Attributes
    ----------
    memory : MemoryController
    params : PimRankParams
    window : Window
    codec : WindowLines
    pim_owns : bool
        True while PIM owns the DRAM.
    """

    def __init__(self, port: Port_co) -> None:
        self.port, self.params, self.window = port, port.params, port.params.window
        self.codec, self.memory, self.pim_owns = WindowLines(port.params), MemoryController(port), False
        self._appended = 0  # entries of the region `append` that may be in use

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port."""
        self.port.close()

    # The simulated rank.

    @property
    def clock(self) -> int:
        """Controller clocks since reset."""
        return self.port.clock

    @property
    def num_finished(self) -> int:
        """Number of descriptors, or kv_heads of programs, that have finished."""
        return self.port.num_finished

    @property
    def finished(self) -> list[int]:
        """Clock in which each of them finished."""
        return self.port.finished

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        """Run for `clocks`, or until `until_finished` descriptors have finished in total; returns the clocks run."""
        return self.port.run(clocks, until_finished=until_finished)

    def trace(self) -> NDArray[np.void]:
        """Commands to the chips since the last call; see :meth:`pimspec.hostif.port.RankPort.trace`."""
        return self.port.trace()

    def traced_commands(self, records: NDArray[np.void]) -> list[TracedCommand]:
        """Records of :meth:`trace` as commands, in CK."""
        return traced_commands(self.params, records)

    def settle(self) -> None:
        """Run until all commands of the host are out, and the lines that they write."""
        self.memory.settle()

    def finish_writes(self) -> None:
        """Run until all writes of the host are in the cells, or in the queues of the buffer chip."""
        self.memory.settle()
        self.port.run(self.params.chip.write_clocks + 2)

    # Data rows.

    def write_columns(self, bank: int, row: int, columns: Sequence[int], lines: Sequence[bytes], mask: int = 0) -> None:
        """Write lines of one row; a byte is kept if its bit of `mask` (DM) is 1."""
        self.memory.write(_places_of(bank, row, columns), self._lines(lines), self._keep(mask, len(lines)))

    def read_columns(self, bank: int, row: int, columns: Sequence[int]) -> list[bytes]:
        """Lines of one row; no other read may be under way."""
        return [line.tobytes() for line in self.memory.read(_places_of(bank, row, columns))]

    def write_bursts(self, writes: BurstWrites) -> None:
        """Write bursts of data rows; while PIM owns the DRAM they are posted, paced by the access queue.

        Posted writes are in the cells once :meth:`drain` has returned.
        """
        places, lines, keep = self._bus_lines(writes)
        if not self.pim_owns:
            self.memory.write(places, lines, keep)
            return
        order, begin, most = in_turns(places[:, 0]), 0, self.params.host_queue
        while begin < len(order):
            room = most - self.status().queued
            if not room:
                self._wait_for(lambda: self.status().queued < most, "there is room for writes of the host", 100_000)
                continue
            part = order[begin : begin + room]
            self.memory.write(places[part], lines[part], keep[part])
            begin += room
            self.memory.settle()

    def append(self, rows: ArrayLike, tokens: ArrayLike, v: ArrayLike, vectors: ArrayLike) -> None:
        """Append vectors of K and V while PIM owns the DRAM: whole vectors cross the bus, and a control word for each.

        They are in the cells before a descriptor, START or READ that comes later.

        Parameters
        ----------
        rows : array of shape (n,)
            Row of each vector's row step.
        tokens : array of shape (n,)
            Number of each vector's token in its row step.
        v : array of shape (n,)
            True for V, false for K.
        vectors : array of shape (n, head_dim)
            16-bit patterns.
        """
        lines, each, most = self.query_lines(vectors), self.window.query_lines, self.params.host_queue
        base, control = self.window.regions["append"].base, self.window_places(0)
        columns = (np.asarray(rows).tolist(), np.asarray(tokens).tolist(), np.asarray(v).astype(int).tolist())
        requests = list(zip(*columns, strict=True))
        begin = 0
        while begin < len(requests):
            if self._appended == most:
                self.drain()
            part = requests[begin : begin + most - self._appended]
            entries = range(self._appended, self._appended + len(part))
            places = self.window_places(base + entries.start * each, len(part) * each)
            self.memory.write(places, lines[begin * each : (begin + len(part)) * each])
            words = [
                self.codec.control(ControlOp.APPEND, entry=entry, row=row, token=token, v=is_v)
                for entry, (row, token, is_v) in zip(entries, part, strict=True)
            ]
            self.memory.write(np.repeat(control, len(part), axis=0), self._lines(words))
            self._appended += len(part)
            begin += len(part)

    def read_split(self, places: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Lines at `(bank, row, column access)`, read while PIM owns the DRAM; those of a bank in order."""
        entries, base = self.params.host_queue, self.window.regions["reads"].base
        lines: list[bytes] = []
        for first in range(0, len(places), entries):
            part = places[first : first + entries]
            self.drain()
            for entry, (bank, row, column) in enumerate(part):
                self.control(ControlOp.READ, entry=entry, bank=bank, row=row, column=column)
            self.drain()
            lines += self.read_window(base, len(part))
        return lines

    def wait_until_clean(self) -> None:
        """Wait until vectors that were appended are in the cells: a READ waits for them."""
        self.read_split([(0, 0, 0)])

    def drain(self, *, limit: int = 100_000) -> None:
        """Wait until no access of the host is queued."""
        self._wait_for(lambda: not self.status().queued, "accesses of the host are done", limit)

    # The window.

    def window_places(self, first_line: int, count: int = 1) -> Places:
        """Places of successive lines of the window."""
        places = (self.window.address(line) for line in range(first_line, first_line + count))
        return np.array([(bank, row, column) for row, bank, column in places], np.int64).reshape(-1, 3)

    def write_window(self, first_line: int, lines: Sequence[bytes], *, mask: int = 0) -> None:
        """Write successive lines of the window."""
        places = self.window_places(first_line, len(lines))
        self.memory.write(places, self._lines(lines), self._keep(mask, len(lines)))

    def read_window(self, first_line: int, count: int = 1) -> list[bytes]:
        """Successive lines of the window."""
        return [line.tobytes() for line in self.memory.read(self.window_places(first_line, count))]

    def control(self, op: ControlOp, **fields: int) -> None:
        """Write a control word."""
        self.write_window(0, [self.codec.control(op, **fields)])
        self.finish_writes()

    def status(self) -> RankStatus:
        """Status line of the rank."""
        return self.status_in(self.read_window(0)[0])

    def status_in(self, line: bytes) -> RankStatus:
        """Status in a status line that was just read."""
        status = self.codec.status(line)
        if not status.queued:
            self._appended = 0
        return status

    def take(self) -> None:
        """Give the DRAM to PIM, which begins with a REFab."""
        require(not self.pim_owns, "owner", "PIM", "the host")
        self.memory.prepare_hand_over()
        self.write_window(0, [self.codec.control(ControlOp.TAKE)])
        self.memory.settle()
        self.memory.refreshing, self.pim_owns = False, True

    def release(self, *, limit: int = 100_000) -> None:
        """Take the DRAM back from PIM, and wait for it."""
        require(self.pim_owns, "owner", "the host", "PIM")
        self.memory.close_all()
        self.write_window(0, [self.codec.control(ControlOp.RELEASE)])
        self._wait_for(lambda: not self.status().owner, "the DRAM is given back", limit)
        self.memory.take_back()
        self.pim_owns = False

    def submit(self, descriptor: Descriptor) -> None:
        """Write a descriptor."""
        self.write_window(1, [self.codec.packed(self.window.descriptor, vars(descriptor))])

    # Queries and results. An entry of the query buffer, or of the output buffer, holds one vector.

    def query_places(self, first_entry: int, count: int) -> Places:
        """Places of successive entries of the query buffer."""
        each = self.window.query_lines
        return self.window_places(self.window.regions["queries"].base + first_entry * each, count * each)

    def output_places(self, first_entry: int, count: int) -> Places:
        """Places of successive entries of the output buffer."""
        each = self.window.output_lines
        return self.window_places(self.window.regions["outputs"].base + first_entry * each, count * each)

    def query_lines(self, queries: ArrayLike) -> Lines:
        """Vectors of 16-bit patterns, shape (n, head_dim), as lines of the query buffer."""
        data = np.ascontiguousarray(queries, dtype="<u2").view(np.uint8)
        size = self.params.line_bytes
        return np.pad(data, ((0, 0), (0, -data.shape[1] % size))).reshape(-1, size)

    def output_vectors(self, lines: Lines) -> NDArray[np.int64]:
        """Lines of the output buffer as vectors of 32-bit words, shape (n, head_dim)."""
        words = (
            np.ascontiguousarray(lines).view("<u4").reshape(-1, self.window.output_lines * self.params.line_bytes // 4)
        )
        return words[:, : self.params.head_dim].astype(np.int64)

    def write_queries(self, first_entry: int, queries: ArrayLike) -> None:
        """Write vectors of 16-bit patterns, shape (n, head_dim), into the query buffer."""
        lines = self.query_lines(queries)
        self.memory.write(self.query_places(first_entry, len(lines) // self.window.query_lines), lines)

    def read_outputs(self, first_entry: int, count: int) -> NDArray[np.int64]:
        """Output vectors, shape (count, head_dim), 32-bit words."""
        return self.output_vectors(self.memory.read(self.output_places(first_entry, count)))

    def read_statistics(self, first_entry: int, count: int) -> NDArray[np.int64]:
        """`(m, l)` of outputs, shape (count, 2), FP32 bits."""
        lines = self.memory.read(self.window_places(self.window.regions["statistics"].base + first_entry, count))
        return np.ascontiguousarray(lines[:, :8]).view("<u4").astype(np.int64)

    # The DPA controller.

    def configure(self, operations: Iterable[ConfigOperation], *, limit: int = 1 << 22) -> None:
        """Do configuration operations, as many at once as the controller has room for, and wait until all are done.

        After reset the controller clears its tables before the first one.
        """
        words, most = [self.codec.config(operation) for operation in operations], self.params.host_queue
        for first in range(0, len(words), most):
            part = words[first : first + most]
            self.memory.write(np.repeat(self.window_places(2), len(part), axis=0), self._lines(part))
            self.memory.settle()
            self._wait_for(lambda: not self.dpa_state()["queued"], "configuration operations are done", limit)

    def dpa_state(self) -> dict[str, int]:
        """State of the DPA controller: fields of :data:`pimspec.hostif.window.DPA_STATE`."""
        return self.codec.dpa_state(self.read_window(2)[0])

    def slot_status(self, slot: int) -> dict[str, int]:
        """Status of a slot: fields of :attr:`pimspec.params.dpa.DpaParams.status`."""
        return self.codec.slot(self.read_window(self.window.regions["slots"].base + slot)[0])

    # Helpers.

    def _wait_for(self, done: Callable[[], bool], what: str, limit: int) -> None:
        """Look repeatedly, at growing intervals."""
        begin, pause = self.clock, _FIRST_PAUSE
        while not done():
            if self.clock - begin > limit:
                raise RankError(f"{limit} clocks have passed before {what}")
            self.memory.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _lines(self, lines: Sequence[bytes]) -> Lines:
        size = self.params.line_bytes
        return np.frombuffer(b"".join(line.ljust(size, b"\0") for line in lines), np.uint8).reshape(-1, size)

    def _keep(self, mask: int, count: int) -> Lines | None:
        """Mask that keeps the same bytes in each of `count` lines; None to keep none."""
        if not mask:
            return None
        bits = np.frombuffer(mask.to_bytes(-(-self.params.line_bytes // 8), "little"), np.uint8)
        return np.tile(bits, (count, 1))

    def _bus_lines(self, writes: BurstWrites) -> tuple[Places, Lines, Lines]:
        """Places of bursts, their lines on the host's bus, and the bytes to keep."""
        org, chips = self.params.organization, self.params.num_chips
        bank = writes.bank_group * org.banks_per_group + writes.bank
        places = np.stack([bank, writes.row, writes.column // org.burst_length], axis=1)
        data = relayout_line(np.ascontiguousarray(np.asarray(writes.data).transpose(0, 2, 1)).tobytes(), chips)
        skip = ~(writes.chip_mask[:, None] >> np.arange(chips)) & 1
        kept = np.repeat(skip[:, None, :], org.burst_length, axis=1).astype(np.uint8)
        bits = np.frombuffer(relayout_line(kept.tobytes(), chips), np.uint8).reshape(len(bank), -1)
        lines = np.frombuffer(data, np.uint8).reshape(len(bank), -1)
        return places, lines, np.packbits(bits, axis=1, bitorder="little")


def _places_of(bank: int, row: int, columns: Sequence[int]) -> Places:
    """Places of column accesses of one row."""
    return np.array([(bank, row, column) for column in columns], np.int64).reshape(-1, 3)


def in_turns(banks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order in which the lines of each bank follow one another, and banks take turns."""
    turn = np.zeros(len(banks), np.int64)
    for bank in np.unique(banks):
        here = banks == bank
        turn[here] = np.arange(int(here.sum()))
    return np.lexsort((banks, turn))
