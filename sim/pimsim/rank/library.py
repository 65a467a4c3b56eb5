"""Simulated rank in a shared library with the C interface of ``rank_harness.cpp``."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pimsim.rank.recording import RankRecording
from pimspec.attention.placement import BurstWrites
from pimspec.hostif.port import TRACE, require_phases
from pimspec.params.pim_rank import PimRankParams

from .build import host_op_type, read_line_type

__all__ = ["LibraryRank"]


class LibraryRank:
    """A :class:`~pimspec.hostif.port.RankPort` in a shared library, which runs many clocks a call.

    Its commands and cells can be read too.

    Parameters
    ----------
    params : PimRankParams
    path : Path
        Path of the library.
    create : callable
        Makes a rank, given the loaded library; returns the handle.
    """

    def __init__(self, params: PimRankParams, path: Path, create: Callable[[ctypes.CDLL], int]) -> None:
        self.params = params
        self._handle: int | None = None
        self._op, self._line = host_op_type(params), read_line_type(params)
        library = self._library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        library.rank_new.restype = pointer
        library.rank_delete.argtypes = [pointer]
        signatures: dict[str, list[Any]] = {
            "rank_clock": [],
            "rank_host": [pointer, number],
            "rank_host_left": [],
            "rank_run": [number, number, ctypes.c_int],
            "rank_trace": [pointer, number],
            "rank_lines": [pointer, number],
            "rank_issued": [pointer, number],
            "rank_finished": [pointer, number],
            "rank_tracing": [ctypes.c_int],
            "rank_poke": [pointer] * 5 + [number],
            "rank_peek": [pointer] * 4 + [number],
        }
        for name, arguments in signatures.items():
            function = getattr(library, name)
            function.argtypes, function.restype = (pointer, *arguments), number
        self._handle = create(library)
        self.recording: RankRecording | None = None
        self.wall_seconds = 0.0
        """Spent in the simulation of clocks alone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the models."""
        if self._handle is not None:
            self._library.rank_delete(self._handle)
            self._handle = None

    @property
    def clock(self) -> int:
        """Controller clocks since reset."""
        return int(self._library.rank_clock(self._handle))

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        """Run for `clocks`, or until `until_finished` descriptors have finished in total; returns the clocks run."""
        return self._run(clocks, until_finished, 0)

    def _run(self, clocks: int, until_finished: int, until_host_done: int) -> int:
        begin = time.perf_counter()
        passed = int(self._library.rank_run(self._handle, clocks, until_finished, until_host_done))
        self.wall_seconds += time.perf_counter() - begin
        return passed

    @property
    def num_finished(self) -> int:
        """Number of descriptors, or kv_heads of programs, that have finished."""
        return int(self._library.rank_finished(self._handle, None, 1 << 62))

    @property
    def finished(self) -> list[int]:
        """Clock in which each descriptor finished."""
        count = self._library.rank_finished(self._handle, None, 1 << 62)
        clocks = np.zeros(count, np.int64)
        self._library.rank_finished(self._handle, clocks.ctypes.data, count)
        return clocks.tolist()

    @property
    def issued(self) -> list[int]:
        """Clock in which each command of the host went out since the last call."""
        count = self._library.rank_issued(self._handle, None, 1 << 62)
        clocks = np.zeros(count, np.int64)
        self._library.rank_issued(self._handle, clocks.ctypes.data, count)
        return clocks.tolist()

    @property
    def host_op_dtype(self) -> np.dtype[Any]:
        """Type of commands for :meth:`enqueue`."""
        return np.dtype(self._op)

    @property
    def host_ops_left(self) -> int:
        """Number of commands of the host that have not gone out."""
        return int(self._library.rank_host_left(self._handle))

    def enqueue(self, ops: NDArray[Any]) -> None:
        """Queue commands of a memory controller: see :meth:`pimspec.hostif.port.RankPort.enqueue`."""
        require_phases(ops, self.params.ck_per_clock)
        if self.recording is not None:
            self.recording.ops += [self._op.from_buffer_copy(op.tobytes()) for op in ops]
        self._library.rank_host(self._handle, ops.ctypes.data, len(ops))

    def run_host(self, *, limit: int = 1 << 40) -> None:
        """Run until every command of the host is out, and every line that it writes."""
        self._run(limit, -1, 1)

    def lines_read(self) -> list[bytes]:
        """Lines that have arrived for the host since the last call, in order."""
        count = self._library.rank_lines(self._handle, None, 0)
        block = (self._line * count)()
        self._library.rank_lines(self._handle, ctypes.addressof(block), count)
        if self.recording is not None:
            self.recording.lines += [(line.clock, bytes(line.data)) for line in block]
        return [bytes(line.data) for line in block]

    # Direct access to the cells, without the host.

    def poke(self, writes: BurstWrites) -> None:
        """Put bursts into the cells at once, as if the host had written them."""
        places = self._places(writes)
        chips = np.ascontiguousarray(writes.chip_mask, np.int32)
        data = np.ascontiguousarray(writes.data, np.uint8)
        arrays: list[NDArray[Any]] = [*places, chips, data]
        if self.recording is not None:
            self.recording.pokes.append((places, chips, data))
        pointers = [a.ctypes.data for a in arrays]
        self._library.rank_poke(self._handle, *pointers, len(data))

    def peek(self, writes: BurstWrites) -> NDArray[np.uint8]:
        """Content of the cells at the addresses of `writes`: shape (n, chips, access bytes)."""
        places = self._places(writes)
        data = np.zeros(np.shape(writes.data), np.uint8)
        arrays: list[NDArray[Any]] = [*places, data]
        self._library.rank_peek(self._handle, *(a.ctypes.data for a in arrays), len(data))
        return data

    def _places(self, writes: BurstWrites) -> list[NDArray[np.int32]]:
        org = self.params.organization
        bank = writes.bank_group * org.banks_per_group + writes.bank
        return [np.ascontiguousarray(a, np.int32) for a in (bank, writes.row, writes.column // org.burst_length)]

    def trace(self) -> NDArray[np.void]:
        """Commands since the last call: clock, code, bank_group, bank, row, column (access), count, phase."""
        count = self._library.rank_trace(self._handle, None, 1 << 62)
        records = np.zeros(count, TRACE)
        self._library.rank_trace(self._handle, records.ctypes.data, count)
        return records
