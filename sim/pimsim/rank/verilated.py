"""A PIM rank in simulation, with a host's memory controller in front of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.attention.placement import BurstWrites, relayout_line
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command
from pimspec.errors import RankError, require
from pimspec.fields import FieldTable
from pimspec.hostif.port import traced_commands
from pimspec.hostif.window import ControlOp
from pimspec.hostif.window_lines import Descriptor, RankStatus
from pimspec.params.dpa import ConfigOperation, DpaParams
from pimspec.params.pim_rank import PimRankParams

from .build import build_rank_library
from .library import LibraryRank

__all__ = ["HostedRank", "RankSimulator"]


class HostedRank(LibraryRank):
    """A rank in this process, and a host that speaks plain DDR4 to it.

    Notes
    -----
    The host keeps a timing that is legal and simple: one bank at a time, closed after use, and a refresh in time while
    it owns the DRAM.
    """

    def __init__(
        self, params: PimRankParams, dpa: DpaParams | None, path: Path, create: Callable[[ctypes.CDLL], int]
    ) -> None:
        super().__init__(params, dpa, path, create)
        self._host_ops: list[ctypes.Structure] = []
        self._host_clock = self._refreshed = 0  # when the last command given issues at the latest; the last REFab

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, clocks: int, *, until_finished: int = -1) -> int:
        """Run for `clocks`, or until so many descriptors have finished in all; the clocks that passed."""
        self._flush()
        return super().run(clocks, until_finished=until_finished)

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
        self.lines_read()
        self._access(Command.RD, bank, row, columns, None)
        self.host_done()
        self.run(self.params.chip.read_clocks + 4)
        lines = self.lines_read()
        if len(lines) != len(columns):
            raise RankError(f"{len(lines)} lines came for {len(columns)} reads")
        return lines

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
                raise RankError(f"the rank did not give the DRAM back within {limit} clocks")
            self.run(64)
        self._refreshed = self.clock - self.params.timing.nREFI // self.params.ck_per_clock

    def drain(self, *, limit: int = 100_000) -> None:
        """Wait until no access of the host is queued."""
        begin = self.clock
        while self.status().queued:
            if self.clock - begin > limit:
                raise RankError(f"accesses of the host wait for more than {limit} clocks")
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
        """See :attr:`pimspec.hostif.window.Window.dpa_state`."""
        return self.codec.dpa_state(self.read_window(2)[0])

    def slot_status(self, slot: int) -> dict[str, int]:
        """See :attr:`pimspec.params.dpa.DpaParams.status`."""
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

    def traced_commands(self, records: NDArray[np.void]) -> list[TracedCommand]:
        """See :func:`pimspec.hostif.port.traced_commands`."""
        return traced_commands(self.params, records)


class RankSimulator(HostedRank):
    """The RTL of a rank: the models of its chips, compiled by Verilator and joined in C++.

    Parameters
    ----------
    params : PimRankParams
    modules : mapping of module name to Verilog text
        As given by ``pimhw.pim_rank.rank_modules``.
    dpa : DpaParams, optional
        Of the rank's DPA controller, if it has one.
    threads : int
        1, or 2 to simulate half the DRAM chips in a second thread.
    """

    def __init__(
        self, params: PimRankParams, modules: Mapping[str, str], *, dpa: DpaParams | None = None, threads: int = 1
    ) -> None:
        require(threads in (1, 2), "threads", threads, "1 or 2")
        path = build_rank_library(params, modules)
        super().__init__(params, dpa, path, lambda library: int(library.rank_new(threads)))
