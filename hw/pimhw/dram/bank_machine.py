"""Bank machine: the state of one bank, and the command it wants next."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimhw.pipeline import layout_of
from pimspec.params.command_engine import CommandEngineParams, RowTaskKind

__all__ = ["BankMachine"]


class BankMachine(wiring.Component):
    """State of one bank, and the command it wants next; at most one `want` is set.

    A task is taken when the last column command of the previous task has issued, whether its burst still runs or not.

    Timing model: ``struct CommandEngine`` of ``command_engine.h``.

    Parameters
    ----------
    params : CommandEngineParams

    Members
    -------
    task : In(stream.Signature(params.task))
    enable : In(1)
        Tasks are taken only while it is set.
    act, pre, issue : In(1)
        The ACT, the PREpb or PREab, or the column command of the bank issues in this clock.
    issue_count : In(count_bits)
        Column accesses of that column command.
    want_act, want_pre, want_column : Out(1)
    kind : Out(2)
    row, column, count, tag : Out
        Remainder of the current task.
    resume : Out(1)
        A column command of the current task has issued.
    is_open : Out(1)
    streaming : Out(1)
        An access of a burst is in this clock or a later one.
    in_flight_next : Out(1)
        A burst that has issued is in flight in the next clock: a whole access lasts ``params.mac_interval_clocks``.
    idle : Out(1)
        No task, no open row, and none is being taken.
    """

    def __init__(self, *, params: CommandEngineParams) -> None:
        self.params = params
        org = params.organization
        super().__init__(
            {
                "task": In(stream.Signature(layout_of(params.task))),
                "enable": In(1),
                "act": In(1),
                "pre": In(1),
                "issue": In(1),
                "issue_count": In(params.count_bits),
                "want_act": Out(1),
                "want_pre": Out(1),
                "want_column": Out(1),
                "kind": Out(2),
                "row": Out(org.row_bits),
                "column": Out(org.column_access_bits),
                "count": Out(params.count_bits),
                "tag": Out(params.tag_bits),
                "resume": Out(1),
                "is_open": Out(1),
                "streaming": Out(1),
                "in_flight_next": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        task, interval = self.task.payload, self.params.mac_interval_clocks
        busy, hit = Signal(), Signal()
        current = Signal.like(task, reset_less=True)
        open_row = Signal.like(self.row, reset_less=True)
        stream_left = Signal(range(self.params.column_accesses * interval))  # clocks that the burst is in flight yet
        m.d.comb += [
            self.task.ready.eq(self.enable & ~busy),
            self.kind.eq(current.kind),
            self.row.eq(current.row),
            self.column.eq(current.column),
            self.count.eq(current.count),
            self.tag.eq(Value.cast(current.tag)),
            self.streaming.eq(stream_left >= interval),
            self.in_flight_next.eq(stream_left > 1),
            self.want_act.eq(busy & ~self.is_open),
            self.want_column.eq(busy & self.is_open & hit & ~self.streaming),
            self.want_pre.eq(self.is_open & ~self.streaming & Mux(busy, ~hit, ~self.task.valid)),
            self.idle.eq(~busy & ~self.is_open & ~(self.task.valid & self.task.ready)),
        ]
        with m.If(stream_left != 0):
            m.d.sync += stream_left.eq(stream_left - 1)
        with m.If(self.task.valid & self.task.ready):
            m.d.sync += [busy.eq(1), current.eq(task), hit.eq(task.row == open_row), self.resume.eq(0)]
        with m.If(self.act):
            m.d.sync += [self.is_open.eq(1), open_row.eq(current.row), hit.eq(1)]
        with m.If(self.pre):
            m.d.sync += self.is_open.eq(0)
        with m.If(self.issue):
            m.d.sync += [
                current.column.eq(current.column + self.issue_count),
                current.count.eq(current.count - self.issue_count),
                busy.eq(current.count != self.issue_count),
                self.resume.eq(1),
            ]
            with m.If(current.kind == RowTaskKind.MAC):
                m.d.sync += stream_left.eq(self.issue_count * interval - 1)
        return m
