"""A PIM rank in simulation, with a host's memory controller in front of it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.commands import Command
from pimspec.dpa_params import ConfigOperation, DpaParams
from pimspec.errors import require
from pimspec.fields import FieldTable
from pimspec.placement import BurstWrites, relayout_line
from pimspec.registers import ControlOp, Window
from pimspec.system import PimRankParams

from .command_trace import TracedCommand
from .rank_model import build_rank_library, host_op_type, read_line_type
from .window_lines import RankSimulationError, RankStatus, WindowLines

__all__ = ["Descriptor", "RankRecording", "RankSimulationError", "RankSimulator", "RankStatus"]

_TRACE = np.dtype(
    [("clock", "<i8"), *((n, "<i4") for n in ("code", "bank_group", "bank", "row", "column", "count", "mode", "last"))]
)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Attention of the queries of one kv_head; fields as in :attr:`pimspec.registers.Window.descriptor`."""

    k_row: int
    v_row: int
    tokens: int
    last_query: int
    query: int
    output: int
    scale: int
    normalise: int = 1
    serial: int = 0


@dataclass
class RankRecording:
    """What a host did to a rank from reset on, and what it saw: enough to do it again in another simulator.

    Set :attr:`RankSimulator.recording` to an empty one to fill it.
    """

    ops: list[Any] = field(default_factory=list)
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    pokes: list[tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.uint8]]] = field(default_factory=list)

    def document(self, issued: Sequence[int], clocks: int, access_bytes: int) -> dict[str, Any]:
        """As JSON: commands and lines with their clocks, and the cells, each access a number."""
        ops = [
            (clock, op.code, op.bank, op.row, op.column, bytes(op.data).hex(), bytes(op.mask).hex())
            for clock, op in zip(issued, self.ops, strict=True)
        ]
        cells = [
            (chip, int(bank[n]), int(row[n]), int(access[n]), int.from_bytes(data[n, chip].tobytes(), "little"))
            for (bank, row, access), chips, data in self.pokes
            for n in range(len(data))
            for chip in range(data.shape[1])
            if int(chips[n]) >> chip & 1
        ]
        lines = [(clock, data.hex()) for clock, data in self.lines]
        return {"ops": ops, "cells": cells, "lines": lines, "clocks": clocks, "access_bytes": access_bytes}


class RankSimulator:
    """A rank compiled by Verilator, in this process, and a host that speaks plain DDR4 to it.

    Parameters
    ----------
    params : PimRankParams
    modules : mapping of module name to Verilog text
        As given by ``pimhw.pim_rank.rank_modules``.
    dpa : DpaParams, optional
        Of the rank's DPA controller, if it has one.
    threads : int
        1, or 2 to simulate half the DRAM chips in a second thread.

    Notes
    -----
    The host keeps a timing that is legal and simple: one bank at a time, closed after use, and a refresh in time while
    it owns the DRAM.
    """

    def __init__(
        self, params: PimRankParams, modules: Mapping[str, str], *, dpa: DpaParams | None = None, threads: int = 1
    ) -> None:
        require(threads in (1, 2), "threads", threads, "1 or 2")
        self.params, self.dpa, self.window = params, dpa, Window(params, dpa)
        self.codec = WindowLines(self.window)
        self._handle: int | None = None
        self._op, self._line = host_op_type(params), read_line_type(params)
        library = self._library = ctypes.CDLL(str(build_rank_library(params, modules)))
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
        self._handle = library.rank_new(threads)
        self._host_ops: list[ctypes.Structure] = []
        self._host_clock = self._refreshed = 0  # when the last command given issues at the latest; the last REFab
        self.recording: RankRecording | None = None
        self.wall_seconds = 0.0
        """Spent in the simulation of clocks alone."""

    def close(self) -> None:
        """Free the models."""
        if self._handle is not None:
            self._library.rank_delete(self._handle)
            self._handle = None

    def __enter__(self) -> RankSimulator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def clock(self) -> int:
        """Controller clocks since reset."""
        return int(self._library.rank_clock(self._handle))

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        """Run for `clocks`, or until so many descriptors have finished in all; the clocks that passed."""
        self._flush()
        return self._run(clocks, until_finished, 0)

    def _run(self, clocks: int, until_finished: int, until_host_done: int) -> int:
        begin = time.perf_counter()
        passed = int(self._library.rank_run(self._handle, clocks, until_finished, until_host_done))
        self.wall_seconds += time.perf_counter() - begin
        return passed

    @property
    def num_finished(self) -> int:
        """Descriptors, or kv_heads of programs, that have finished."""
        return int(self._library.rank_finished(self._handle, None, 1 << 62))

    @property
    def finished(self) -> list[int]:
        """The clock in which each descriptor finished."""
        count = self._library.rank_finished(self._handle, None, 1 << 62)
        clocks = np.zeros(count, np.int64)
        self._library.rank_finished(self._handle, clocks.ctypes.data, count)
        return clocks.tolist()

    @property
    def issued(self) -> list[int]:
        """The clock in which each command of the host went out since the last call."""
        count = self._library.rank_issued(self._handle, None, 1 << 62)
        clocks = np.zeros(count, np.int64)
        self._library.rank_issued(self._handle, clocks.ctypes.data, count)
        return clocks.tolist()

    # The host's memory controller.

    def _clocks(self, ck: int) -> int:
        return -(-ck // self.params.ck_per_clock)

    def _issue(self, code: Command, wait: int, *, bank: int = 0, row: int = 0, column: int = 0) -> ctypes.Structure:
        op = self._op(wait=max(1, wait), code=int(code), bank=bank, row=row, column=column)
        self._host_clock = self._host_now() + max(1, wait)
        self._host_ops.append(op)
        return op

    def _host_now(self) -> int:
        """The clock of the last command given, or this one if all have issued."""
        waiting = self._host_ops or self._library.rank_host_left(self._handle)
        return self._host_clock if waiting else max(self._host_clock, self.clock)

    def _flush(self) -> None:
        if self._host_ops:
            if self.recording is not None:
                self.recording.ops += self._host_ops
            block = (self._op * len(self._host_ops))(*self._host_ops)
            self._library.rank_host(self._handle, ctypes.addressof(block), len(self._host_ops))
            self._host_ops = []

    @property
    def host_op_dtype(self) -> np.dtype[Any]:
        """Of commands for :meth:`enqueue`."""
        return np.dtype(self._op)

    @property
    def host_ops_left(self) -> int:
        """Commands of the host that have not gone out."""
        return int(self._library.rank_host_left(self._handle))

    def enqueue(self, ops: NDArray[Any]) -> None:
        """Commands of another memory controller than the one below, each `wait` clocks after the one before it."""
        if self.recording is not None:
            self.recording.ops += [self._op.from_buffer_copy(op.tobytes()) for op in ops]
        self._library.rank_host(self._handle, ops.ctypes.data, len(ops))

    def run_host(self, *, limit: int = 1 << 40) -> None:
        """Run until every command of the host is out, and every line that it writes."""
        self._run(limit, -1, 1)

    def host_done(self, *, limit: int = 1 << 40) -> None:
        """Run until every command of the host, and its data, are out."""
        self._flush()
        self._run(limit, -1, 1)
        self.run(self.params.chip.write_clocks + 2)

    def _refresh_if_due(self, clocks: int) -> None:
        """REFab, unless so many clocks and some more are left to it."""
        t = self.params.timing
        if self._host_now() - self._refreshed + clocks + 64 > t.nREFI // self.params.ck_per_clock:
            self._issue(Command.REFab, self._clocks(t.nRP))
            self._refreshed = self._host_clock

    def _access(
        self, code: Command, bank: int, row: int, columns: Sequence[int], lines: Iterable[tuple[bytes, int]] | None
    ) -> None:
        """Open a row, access columns, close it."""
        t = self.params.timing
        longest = t.nRCD + len(columns) * t.nCCD_L + t.nCWL + t.nBL + t.nWR + t.nRP
        self._refresh_if_due(self._clocks(longest))
        still = self._clocks(t.nRFC) - (self._host_now() - self._refreshed)
        self._issue(Command.ACT, max(still, self._clocks(max(t.nRC, t.nRP, t.nFAW))), bank=bank, row=row)
        given = iter(lines or ())
        for k, column in enumerate(columns):
            op = self._issue(code, self._clocks(t.nCCD_L if k else max(t.nRCD, t.nRCD_WR)), bank=bank, column=column)
            if lines is not None:
                data, mask = next(given)
                op.data[:] = data
                op.mask[:] = mask.to_bytes(len(op.mask), "little")
        end = t.nCWL + t.nBL + t.nWR if code is Command.WR else t.nRTP
        self._issue(Command.PREpb, self._clocks(max(end, t.nRAS)), bank=bank)

    def read_columns(self, bank: int, row: int, columns: Sequence[int]) -> list[bytes]:
        """Lines that a host reads; nothing else may be on its way."""
        self.host_done()
        self._library.rank_lines(self._handle, (self._line * 1)(), 0)
        self._access(Command.RD, bank, row, columns, None)
        self.host_done()
        self.run(self.params.chip.read_clocks + 4)
        block = (self._line * len(columns))()
        got = self._library.rank_lines(self._handle, ctypes.addressof(block), len(columns))
        if got != len(columns):
            raise RankSimulationError(f"{got} lines came for {len(columns)} reads")
        if self.recording is not None:
            self.recording.lines += [(line.clock, bytes(line.data)) for line in block]
        return [bytes(line.data) for line in block]

    def lines_read(self) -> list[bytes]:
        """Lines that have come for the host since the last call, in order."""
        count = self._library.rank_lines(self._handle, None, 0)
        block = (self._line * count)()
        self._library.rank_lines(self._handle, ctypes.addressof(block), count)
        if self.recording is not None:
            self.recording.lines += [(line.clock, bytes(line.data)) for line in block]
        return [bytes(line.data) for line in block]

    def write_columns(self, bank: int, row: int, columns: Sequence[int], lines: Sequence[bytes], mask: int = 0) -> None:
        """Write lines as a host sees them; DM bit 1 in `mask`: keep the byte."""
        self._access(Command.WR, bank, row, columns, [(line, mask) for line in lines])

    def write_window(self, first_line: int, lines: Sequence[bytes], *, mask: int = 0) -> None:
        """Write successive lines of the window."""
        per_row = self.params.organization.column_accesses_per_row
        done = 0
        while done < len(lines):
            row, bank, column = self.window.address(first_line + done)
            count = min(len(lines) - done, per_row - column)
            self.write_columns(bank, row, range(column, column + count), lines[done : done + count], mask)
            done += count

    def read_window(self, first_line: int, count: int = 1) -> list[bytes]:
        """Read successive lines of the window."""
        per_row = self.params.organization.column_accesses_per_row
        lines: list[bytes] = []
        while len(lines) < count:
            row, bank, column = self.window.address(first_line + len(lines))
            here = min(count - len(lines), per_row - column)
            lines += self.read_columns(bank, row, range(column, column + here))
        return lines

    def _word(self, table: FieldTable, values: Mapping[str, int]) -> bytes:
        return self.codec.packed(table, values)

    def control(self, op: ControlOp, **fields: int) -> None:
        """Write a control word."""
        self.write_window(0, [self.codec.control(op, **fields)])
        self.host_done()

    def status(self) -> RankStatus:
        """Read the status line."""
        return self.codec.status(self.read_window(0)[0])

    def take(self) -> None:
        """PIM takes the DRAM over; it begins with a REFab, tRFC or more after the host's last command."""
        self._refresh_if_due(2 * self._clocks(self.params.timing.nRFC))
        self.control(ControlOp.TAKE)

    def release(self, *, limit: int = 100_000) -> None:
        """PIM gives the DRAM back; waits for it."""
        self.control(ControlOp.RELEASE)
        begin = self.clock
        while self.status().owner:
            if self.clock - begin > limit:
                raise RankSimulationError(f"the rank did not give the DRAM back within {limit} clocks")
            self.run(64)
        self._refreshed = self.clock - self.params.timing.nREFI // self.params.ck_per_clock

    def drain(self, *, limit: int = 100_000) -> None:
        """Wait until no access of the host is queued."""
        begin = self.clock
        while self.status().queued:
            if self.clock - begin > limit:
                raise RankSimulationError(f"accesses of the host wait for more than {limit} clocks")
            self.run(64)

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

    def submit(self, descriptor: Descriptor) -> None:
        """Write a descriptor."""
        self.write_window(1, [self._word(self.window.descriptor, vars(descriptor))])

    # The DPA controller.

    def configure(self, operations: Iterable[ConfigOperation]) -> None:
        """Write configuration operations, as many at once as the controller has room for, and wait between."""
        waiting = list(operations)
        while waiting:
            now, waiting = waiting[: self.params.host_queue], waiting[self.params.host_queue :]
            for operation in now:
                self.write_window(2, [self.codec.config(operation)])
            self.host_done()
            while self.dpa_state()["queued"]:
                self.run(64)

    def dpa_state(self) -> dict[str, int]:
        """See :attr:`pimspec.registers.Window.dpa_state`."""
        return self.codec.dpa_state(self.read_window(2)[0])

    def slot_status(self, slot: int) -> dict[str, int]:
        """See :attr:`pimspec.dpa_params.DpaParams.status`."""
        base = self.window.regions["slots"].base
        return self.codec.slot(self.read_window(base + slot)[0])

    def write_queries(self, first: int, queries: ArrayLike) -> None:
        """Put query vectors, shape (n, head_dim) of 16-bit patterns, into the query buffer."""
        data = np.ascontiguousarray(queries, dtype="<u2").tobytes()
        size, base = self.params.line_bytes, self.window.regions["queries"].base
        lines = [data[k : k + size].ljust(size, b"\0") for k in range(0, len(data), size)]
        self.write_window(base + first * self.window.query_lines, lines)

    def read_outputs(self, first: int, count: int) -> NDArray[np.int64]:
        """Output vectors, shape (count, head_dim), 32-bit words."""
        base, each = self.window.regions["outputs"].base, self.window.output_lines
        data = b"".join(self.read_window(base + first * each, count * each))
        return np.frombuffer(data, "<u4").reshape(count, -1)[:, : self.params.head_dim].astype(np.int64)

    def read_statistics(self, first: int, count: int) -> NDArray[np.int64]:
        """`(m, l)` of outputs, shape (count, 2), FP32 bits."""
        lines = self.read_window(self.window.regions["statistics"].base + first, count)
        return np.array([np.frombuffer(line[:8], "<u4") for line in lines]).astype(np.int64)

    # The cells, past the host.

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
        """What the cells hold at the addresses of `writes`: shape (n, chips, access bytes)."""
        places = self._places(writes)
        data = np.zeros(np.shape(writes.data), np.uint8)
        arrays: list[NDArray[Any]] = [*places, data]
        self._library.rank_peek(self._handle, *(a.ctypes.data for a in arrays), len(data))
        return data

    def _places(self, writes: BurstWrites) -> list[NDArray[np.int32]]:
        org = self.params.organization
        bank = writes.bank_group * org.banks_per_group + writes.bank
        return [np.ascontiguousarray(a, np.int32) for a in (bank, writes.row, writes.column // org.burst_length)]

    def write_bursts(self, writes: BurstWrites) -> None:
        """Write bursts through the host's bus, row by row."""
        org, chips = self.params.organization, self.params.num_chips
        bank, row, access = self._places(writes)
        begin = 0
        for n in range(1, len(bank) + 1):
            if n < len(bank) and (bank[n], row[n]) == (bank[begin], row[begin]):
                continue
            lines = []
            for k in range(begin, n):
                data = relayout_line(np.asarray(writes.data[k]).T.tobytes(), chips)
                keep = [not int(writes.chip_mask[k]) >> c & 1 for c in range(chips)]
                kept = np.repeat(np.array(keep)[:, None], org.burst_length, axis=1)
                bits = np.frombuffer(relayout_line(kept.astype(np.uint8).T.tobytes(), chips), np.uint8)
                lines.append((data, int("".join(map(str, bits[::-1])), 2)))
            self._access(Command.WR, int(bank[begin]), int(row[begin]), [int(a) for a in access[begin:n]], lines)
            begin = n

    # What went over the command bus.

    def trace(self) -> NDArray[np.void]:
        """Commands since the last call: clock, code, bank_group, bank, row, column (access), count."""
        count = self._library.rank_trace(self._handle, None, 1 << 62)
        records = np.zeros(count, _TRACE)
        self._library.rank_trace(self._handle, records.ctypes.data, count)
        return records

    def traced_commands(self, records: NDArray[np.void]) -> list[TracedCommand]:
        """The records as commands, in CK; bus commands issue half a clock later."""
        p, burst = self.params, self.params.organization.burst_length
        late = p.engine.bus_phase_ck
        banked = (Command.ACT, Command.PREpb, Command.RD, Command.WR, Command.PIM_MAC)
        commands = []
        for r in records:
            code = Command(int(r["code"]))
            ck = int(r["clock"]) * p.ck_per_clock
            if code in (Command.PIM_WR_SB, Command.PIM_RD_RB):
                commands.append(TracedCommand(ck + late, code))
            elif code not in banked:
                commands.append(TracedCommand(ck, code))
            else:
                commands.append(
                    TracedCommand(
                        ck,
                        code,
                        0,
                        int(r["bank_group"]),
                        int(r["bank"]),
                        int(r["row"]) if code is Command.ACT else None,
                        None if code in (Command.ACT, Command.PREpb) else int(r["column"]) * burst,
                        int(r["count"]) if code is Command.PIM_MAC else 1,
                    )
                )
        return commands
