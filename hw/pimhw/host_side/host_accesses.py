"""Host accesses: those that the host sends itself, and those of the vectors that it appends, in one queue."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of
from .access_queue import AccessQueue, access_layout, marks_layout
from .append_buffer import AppendBuffer, append_port

__all__ = ["HostAccesses"]


class HostAccesses(wiring.Component):
    """Access queue with an append buffer in front; the host's own accesses go first.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    append : In(append_port(params)); line_data : In
        The host port's side of :class:`~.append_buffer.AppendBuffer`, and the line on the host's data bus.
    push, access, data, mask, full, marks, oldest_marks, tasks, written, read, place, writing, write_data, write_mask
        As of :class:`~.access_queue.AccessQueue`.
    reading : Out(1); entry : Out
        The line of a RD of the host is on the data bus, `read_data` : In.
    queued : Out
        Accesses that are not done, and requests for the append buffer.
    waiting : Out(1)
        Accesses are not done.
    cleared : Out
        Items that no vector keeps waiting: see :class:`~.order_gate.OrderGate`.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        line = p.line_bytes
        super().__init__(
            {
                "append": In(append_port(p)),
                "line_data": In(line * 8),
                "push": In(1),
                "access": In(access_layout(p)),
                "data": In(line * 8),
                "mask": In(line),
                "full": Out(1),
                "marks": In(marks_layout(p)),
                "oldest_marks": Out(marks_layout(p)),
                "tasks": Out(stream.Signature(layout_of(p.engine.task))).array(p.num_banks),
                "written": In(1),
                "read": In(1),
                "place": In(index_bits(p.access_places)),
                "writing": Out(1),
                "write_data": Out(line * 8),
                "write_mask": Out(line),
                "reading": Out(1),
                "entry": Out(access_layout(p)["entry"].width),
                "read_data": In(line * 8),
                "queued": Out(range(p.access_places + p.host_queue + 1)),
                "waiting": Out(1),
                "cleared": Out(marks_layout(p)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.queue = queue = AccessQueue(params=p)
        m.submodules.appends = appends = AppendBuffer(params=p)
        wiring.connect(m, wiring.flipped(self.append), appends.host)
        for mine, its in zip(self.tasks, queue.tasks, strict=True):
            wiring.connect(m, wiring.flipped(mine), its)
        given = self.push
        m.d.comb += [
            queue.push.eq(given | appends.push),
            queue.access.eq(Mux(given, self.access.as_value(), appends.access.as_value())),
            queue.data.eq(Mux(given, self.data, appends.data)),
            queue.mask.eq(Mux(given, self.mask, appends.mask)),
            queue.marks.eq(self.marks),
            *(getattr(queue, name).eq(getattr(self, name)) for name in ("written", "read", "place")),
            *(
                getattr(self, name).eq(getattr(queue, name))
                for name in ("full", "oldest_marks", "writing", "write_data", "write_mask", "reading", "entry")
            ),
            appends.line_data.eq(self.line_data),
            appends.posted.eq(given & self.access.write),
            appends.marks.eq(self.marks),
            appends.room.eq(~given & ~Mux(appends.access.own, queue.own_full, queue.full)),
            appends.outstanding.eq(queue.own_level != 0),
            appends.filling.eq(queue.filling),
            appends.entry.eq(queue.entry),
            appends.read_data.eq(self.read_data),
            self.queued.eq(queue.level + appends.level),
            self.waiting.eq(queue.level != 0),
            self.cleared.eq(Mux(self.append.clean, self.marks.as_value(), appends.cleared.as_value())),
        ]
        return m
