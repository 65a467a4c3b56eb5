"""Comparison of every rank that these tests run in RTL with the timing model, command by command."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.rank.recording import RankRecording
from pimsim.rank.verilated import RankSimulator
from pimsim.timing.timing_model import TimingSimulator
from pimspec.dram.commands import Command

_ROWS = (Command.ACT,)
_COLUMNS = (Command.RD, Command.RDA, Command.WR, Command.WRA, Command.PIM_MAC)
_BANKED = (*_ROWS, *_COLUMNS, Command.PREpb, Command.PIM_RD_RB)


def comparable(records):
    """Records without values in fields that their commands do not have."""
    records = records.copy()
    for name, commands in (("bank_group", _BANKED), ("bank", _BANKED), ("row", _ROWS), ("column", _COLUMNS)):
        records[name][~np.isin(records["code"], [int(c) for c in commands])] = 0
    records["count"][records["code"] != int(Command.PIM_MAC)] = 0
    return records[["clock", "code", "bank_group", "bank", "row", "column", "count", "phase"]]


def replayed(sim, ops, issued):
    """Timing model that was given the same commands of the host in the same clocks."""
    twin = TimingSimulator(sim.params)
    twin.recording = RankRecording()
    if len(ops):
        given = np.frombuffer(b"".join(bytes(op) for op in ops), twin.host_op_dtype).copy()
        given["wait"] = np.diff(np.array(issued), prepend=-1)
        twin.enqueue(given)
    twin.run(sim.clock)
    return twin


def comparable_lines(sim, ops, lines, complete):
    """Lines that the host read, with their clocks; without the data but for status lines of rank, controller, slots.

    They are `complete` if every read was answered; if not, it is not known here which line is which.
    """
    window = sim.params.window
    status = {window.address(window.regions["control"].base + n) for n in (0, 2)}
    if "slots" in window.regions:
        slots = window.regions["slots"]
        status |= {window.address(slots.base + n) for n in range(slots.size)}
    read, rows = [], {}
    for op in ops:
        if op.code == Command.ACT:
            rows[op.bank] = op.row
        elif op.code in (Command.RD, Command.RDA):
            read.append((rows.get(op.bank), op.bank, op.column) in status)
    if not complete:
        return [(clock, None) for clock, _ in lines]
    assert len(lines) <= len(read)
    return [(clock, data if known else None) for (clock, data), known in zip(lines, read, strict=False)]


@pytest.fixture(autouse=True, scope="module")
def timing_model_beside_rtl():
    """Compare the timing model with each rank when it is closed."""
    patch = pytest.MonkeyPatch()
    opened, trace, issued, close = (
        RankSimulator.__init__, RankSimulator.trace, RankSimulator.issued, RankSimulator.close,
    )  # fmt: skip

    def open_with_recording(self, *args, **kwargs):
        opened(self, *args, **kwargs)
        self.recording, self.all_records, self.all_issued = RankRecording(), [], []

    def trace_and_keep(self):
        records = trace(self)
        self.all_records.append(records)
        return records

    def issued_and_kept(self):
        clocks = issued.fget(self)
        self.all_issued += clocks
        return clocks

    def close_after_comparison(self):
        if self._handle is None or self.upsets:  # the timing model knows no faults of a chip
            close(self)
            return
        self.trace()
        _ = self.issued, self.lines_read()
        try:
            ops = self.recording.ops[: len(self.all_issued)]
            with replayed(self, ops, self.all_issued) as twin:
                expected, got = comparable(np.concatenate(self.all_records)), comparable(twin.trace())
                assert twin.clock == self.clock
                assert twin.finished == self.finished
                np.testing.assert_array_equal(got, expected)
                twin.lines_read()
                complete = getattr(self, "all_reads_answered", True)
                lines = comparable_lines(self, ops, self.recording.lines, complete)
                assert comparable_lines(self, ops, twin.recording.lines, complete) == lines
                if not complete:  # the model has zeros where it knows nothing
                    both = zip(twin.recording.lines, self.recording.lines, strict=True)
                    assert [t for (_, t), (_, r) in both if any(t) and t != r] == []
        finally:
            close(self)

    patch.setattr(RankSimulator, "__init__", open_with_recording)
    patch.setattr(RankSimulator, "trace", trace_and_keep)
    patch.setattr(RankSimulator, "issued", property(issued_and_kept))
    patch.setattr(RankSimulator, "close", close_after_comparison)
    yield
    patch.undo()
