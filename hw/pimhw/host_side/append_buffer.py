"""Append buffer: new tokens of K and V, spread over chips and banks, that are merged into whole lines."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.params.pim_rank import PimRankParams

from ..arith.bits import lowest_set
from ..pipeline import layout_of
from .access_queue import access_layout, marks_layout

__all__ = ["AppendBuffer", "append_port"]


def append_port(params: PimRankParams) -> wiring.Signature:
    """Signature of the host port's side of an append buffer; the line is that of the host's data bus."""
    return wiring.Signature(
        {
            "line_en": Out(1),
            "line": Out(range(params.host_queue * params.window.query_lines)),
            "valid": Out(1),
            "request": Out(layout_of(params.append_request)),
            "row": Out(params.organization.row_bits),
            "leaving": Out(1),
            "full": In(1),
            "clean": In(1),
            "clash": In(1),
        }
    )


class AppendBuffer(wiring.Component):
    """Buffer of vectors that the host appends, in *groups*: neighbouring tokens of K or V, one for each chip.

    The tokens of a group share their lines: line j holds, of each chip's token, slice j of the vector (a column
    access). A vector waits in its entry until it is copied into its group. Lines are written with DM for chips whose
    token is not in the group. Without ``params.data_mask`` a group reads its lines when it begins, and writes them
    whole. The lines are written when

    - the last chip's token has come, or another group needs the place: the group then ends;
    - a descriptor, configuration operation or READ comes after its vectors, PIM gives the DRAM back, or no request has
      come for :attr:`PATIENCE` clocks: the group stays, and its next token needs no read.

    Requests are done in order. `cleared` counts descriptors and configuration operations that no vector accepted before
    them is missing for: its lines are in the cells.

    A posted write to the row of a group ends that group, and so does a vector of V in a row of K, or of K in one of V.
    While a group has lines to write, `clash` refuses posted writes to its row.

    Timing model: ``struct AppendBuffer`` of ``append_buffer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    host : In(append_port(params))
        `line_en`, `line`: a line of an entry, element after element. `valid`, `request`: APPEND of the vector of an
        entry, or READ; not while `full`. `row`: of a posted write; `clash` if it may not pass. `leaving`: PIM gives the
        DRAM back. `clean`: nothing waits, and all lines are in the cells.
    line_data : In
        The line on the host's data bus, in the host's order.
    level : Out
        Requests that wait.
    posted : In(1)
        A posted write is accepted; the buffer begins nothing in this clock.
    marks : In; cleared : Out
        Items accepted: see :class:`~.order_gate.OrderGate`; and those that no vector keeps waiting.
    push : Out(1); access, data, mask : Out; room : In(1); outstanding : In(1)
        An access for the queue, and its line, chip by chip; only with `room`. Accesses pushed that are not done.
    filling : In(1); entry : In; read_data : In
        A line that a group has read, chip by chip.
    """

    PATIENCE = 64
    """Clocks without a request after which lines are written, so that a START that comes later need not wait."""

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        super().__init__(
            {
                "host": In(append_port(p)),
                "line_data": In(p.line_bytes * 8),
                "level": Out(range(p.host_queue + 1)),
                "posted": In(1),
                "marks": In(marks_layout(p)),
                "cleared": Out(marks_layout(p)),
                "push": Out(1),
                "access": Out(access_layout(p)),
                "data": Out(p.line_bytes * 8),
                "mask": Out(p.line_bytes),
                "room": In(1),
                "outstanding": In(1),
                "filling": In(1),
                "entry": In(access_layout(p)["entry"].width),
                "read_data": In(p.line_bytes * 8),
            }
        )
        n = p.append_groups
        group = data.StructLayout({"v": 1, "row": p.organization.row_bits, "step_line": index_bits(p.row_lines)})
        self._groups = Array(Signal(group, name=f"group{k}", reset_less=True) for k in range(n))
        # chips whose token it has
        self._have = Array(Signal(p.num_chips, name=f"have{k}", reset_less=True) for k in range(n))
        self._held, self._dirty, self._ended = (Signal(n, name=name) for name in ("held", "dirty", "ended"))
        self._number = Signal(index_bits(n))  # the group at hand
        self._busy = Signal()  # it is at hand
        self._slice = Signal(range(p.accesses_per_k))
        self._loads = Signal()  # a vector is copied into the group at hand

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        head, head_marks, pop = self._requests(m)
        chip_bits = (p.num_chips - 1).bit_length()
        chip = head.token[:chip_bits] if chip_bits else Signal(1)
        next_number = Signal.like(self._number)
        at_hand = Mux(self._busy, Const(1) << self._number, 0)
        touched = Cat(self._held[k] & (group.row == self.host.row) for k, group in enumerate(self._groups))
        m.d.comb += [
            self.host.clash.eq((touched & (self._dirty | at_hand)).any()),
            self.host.clean.eq(~self._busy & (self.level == 0) & ~self._dirty.any() & ~self.outstanding),
        ]
        with m.If(self.posted):
            m.d.sync += self._held.eq(self._held & ~touched)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += next_number.eq(self._number)
                m.d.sync += [self._number.eq(next_number), self._slice.eq(0), self._busy.eq(0)]
                with m.If(~self.posted):
                    self._choose(m, head, head_marks, pop, next_number)
            if not p.data_mask:
                with m.State("FILL"):
                    self._fill(m)
            with m.State("COPY"):
                m.d.comb += self._loads.eq(1)
                m.d.sync += self._slice.eq(self._slice + 1)
                with m.If(self._slice == p.window.query_lines - 1):
                    m.d.comb += pop.eq(1)
                    m.d.sync += [self._of(self._dirty, self._number).eq(1), self._busy.eq(0)]
                    m.d.sync += self._of(self._have[self._number], chip).eq(1)
                    with m.If(chip == p.num_chips - 1):
                        m.d.sync += self._of(self._ended, self._number).eq(1)
                    m.next = "IDLE"
            with m.State("WRITE"):
                m.d.comb += self.push.eq(self.room)
                self._place(m, write=True)
                with m.If(self.room):
                    m.d.sync += self._slice.eq(self._slice + 1)
                    with m.If(self._slice == p.accesses_per_k - 1):
                        ended = self._of(self._ended, self._number)
                        m.d.sync += [self._of(self._dirty, self._number).eq(0), self._busy.eq(0)]
                        m.d.sync += self._of(self._held, self._number).eq(~ended)
                        m.next = "IDLE"
        with m.If(self.host.leaving & self.host.clean):
            m.d.sync += self._held.eq(0)
        self._lines(m, head, chip, next_number)
        return m

    def _choose(
        self, m: Module, head: data.View, head_marks: data.View, pop: Signal, next_number: Signal
    ) -> None:  # fmt: skip
        """Choice of what to do next: lines to write come first, then the oldest request."""
        n, groups = self.params.append_groups, self._groups
        chip_bits = (self.params.num_chips - 1).bit_length()
        wanted, victim = Signal(groups[0].shape()), Signal.like(self._number)
        m.d.comb += [wanted.v.eq(head.v), wanted.row.eq(head.row), wanted.step_line.eq(head.token >> chip_bits)]
        waits, held, dirty, leaving = self.level != 0, self._held, self._dirty, self.host.leaving
        hits = Cat(held[k] & (group == wanted) for k, group in enumerate(groups))
        others = Cat(held[k] & (group.row == head.row) & (group.v != head.v) for k, group in enumerate(groups))
        idle = Signal(range(self.PATIENCE + 1))  # clocks without a request since there are lines to write
        with m.If(waits | ~dirty.any()):
            m.d.sync += idle.eq(0)
        with m.Elif(idle != self.PATIENCE):
            m.d.sync += idle.eq(idle + 1)
        tired = idle == self.PATIENCE
        late, early = waits & (head_marks != self.cleared), ~waits & (self.marks != self.cleared)
        complete = self._ended & dirty
        with m.If(complete.any()):
            self._begin(m, next_number, complete, "WRITE")
        with m.Elif((late | early | ((leaving | tired) & ~waits) | (waits & head.read)) & dirty.any()):
            self._begin(m, next_number, dirty, "WRITE")
        with m.Elif(late | early), m.If(~self.outstanding):
            m.d.sync += self.cleared.eq(Mux(late, head_marks.as_value(), self.marks.as_value()))
        with m.Elif(waits & head.read):
            m.d.comb += [self.push.eq(self.room), pop.eq(self.room)]
            m.d.comb += [self.access[name].eq(head[name]) for name in ("bank", "row", "column", "entry")]
        with m.Elif(waits & others.any()):
            m.d.sync += [self._ended.eq(self._ended | others), held.eq(held & (~others | dirty))]
        with m.Elif(waits & hits.any()):
            self._begin(m, next_number, hits, "COPY")
        with m.Elif(waits & ~held.all()):
            self._begin(m, next_number, ~held, "COPY" if self.params.data_mask else "FILL")
            m.d.sync += [groups[next_number].eq(wanted), self._have[next_number].eq(0)]
            m.d.sync += [self._of(flags, next_number).eq(0) for flags in (dirty, self._ended)]
            m.d.sync += self._of(held, next_number).eq(1)
        with m.Elif(waits):
            m.d.sync += victim.eq(Mux(victim == n - 1, 0, victim + 1))
            m.d.sync += [self._of(self._ended, victim).eq(1), self._of(held, victim).eq(self._of(dirty, victim))]

    def _fill(self, m: Module) -> None:
        """Reads of the lines of the group at hand."""
        last = self.params.accesses_per_k - 1
        asked, came = Signal(), Signal.like(self._slice)
        m.d.comb += self.push.eq(self.room & ~asked)
        self._place(m, write=False)
        with m.If(self.push):
            m.d.sync += [self._slice.eq(self._slice + 1), asked.eq(self._slice == last)]
        with m.If(self.filling):
            m.d.sync += came.eq(came + 1)
            with m.If(came == last):
                m.d.sync += [came.eq(0), self._slice.eq(0), asked.eq(0)]
                m.next = "COPY"

    @staticmethod
    def _of(flags: Signal, number: Value) -> Value:
        """Flag of a group, to read or to assign."""
        return Value.cast(Array(flags)[number])

    def _begin(self, m: Module, number: Signal, among: Value, state: str) -> None:
        """Take the first group of `among` in hand."""
        first = lowest_set(among)
        for k in range(self.params.append_groups):
            with m.If(first[k]):
                m.d.comb += number.eq(k)
        m.d.sync += self._busy.eq(1)
        m.next = state

    def _requests(self, m: Module) -> tuple[data.View, data.View, Signal]:
        """Queue of requests: the oldest, its marks, and whether it leaves."""
        p, host = self.params, self.host
        layout = data.StructLayout({"request": layout_of(p.append_request), "marks": marks_layout(p)})
        m.submodules.requests = requests = memory.Memory(shape=layout, depth=p.host_queue, init=[])
        put, get = requests.write_port(), requests.read_port(domain="comb")
        oldest, newest = Signal(range(p.host_queue)), Signal(range(p.host_queue))  # depth: a power of two
        pop = Signal()
        m.d.comb += [
            put.en.eq(host.valid),
            put.addr.eq(newest),
            put.data.request.eq(host.request),
            put.data.marks.eq(self.marks),
            get.addr.eq(oldest),
            host.full.eq(self.level == p.host_queue),
        ]
        m.d.sync += [
            newest.eq(newest + host.valid),
            oldest.eq(oldest + pop),
            self.level.eq(self.level + host.valid - pop),
        ]
        return get.data.request, get.data.marks, pop

    def _place(self, m: Module, *, write: bool) -> None:
        """Place of a line of the group at hand: see :mod:`pimspec.attention.placement`."""
        p, group, number = self.params, self._groups[self._number], self._slice
        turn_bits, vector_bits, bank_bits = (
            (count - 1).bit_length() for count in (p.tokens_per_turn, p.accesses_per_k, p.accesses_per_v)
        )
        in_row = group.step_line[:turn_bits] if turn_bits else 0
        in_bank = number[:bank_bits] if bank_bits else 0
        m.d.comb += [
            self.access.own.eq(1),
            self.access.write.eq(int(write)),
            self.access.fill.eq(int(not write)),
            self.access.entry.eq(number),
            self.access.row.eq(group.row),
            self.access.bank.eq(Mux(group.v, number >> bank_bits, group.step_line >> turn_bits)),
            self.access.column.eq(
                Mux(group.v, (group.step_line << bank_bits) + in_bank, (in_row << vector_bits) + number)
            ),
        ]

    def _lines(self, m: Module, head: data.View, chip: Value, next_number: Value) -> None:
        """Memories: entries that the host writes, and of each chip its tokens of all groups."""
        p, each = self.params, self.params.window.query_lines
        slices, bits = p.num_chips, p.access_bytes * 8
        line_bits, slice_bits = (each - 1).bit_length(), (slices - 1).bit_length()

        def address(entry: Value, line: Value) -> Value:
            """Address of a line of an entry, or of a group."""
            return Cat(line[:line_bits], entry) if line_bits else Cat(entry)

        m.submodules.entries = entries = memory.Memory(shape=p.line_bytes * 8, depth=p.host_queue * each, init=[])
        put, get = entries.write_port(), entries.read_port()
        next_line, next_slice = Signal.like(self._slice), Signal.like(self._slice)
        m.d.comb += [
            next_line.eq(Mux(self._loads, self._slice + 1, 0)),
            next_slice.eq(Mux(self._busy, self._slice + self.push, 0)),
            put.en.eq(self.host.line_en),
            put.addr.eq(self.host.line),
            put.data.eq(self.line_data),
            get.addr.eq(address(head.entry, next_line)),
        ]
        shown = self._slice[:slice_bits] if slice_bits else Signal(1)
        arrived = self.entry[:slice_bits] if slice_bits else Signal(1)
        at, not_there = Signal.like(self._number), ~self._have[self._number]
        m.d.comb += at.eq(Mux(self._busy, self._number, next_number))
        for c in range(p.num_chips):
            shape = data.ArrayLayout(bits, slices)
            m.submodules[f"chip{c}"] = cells = memory.Memory(shape=shape, depth=p.append_groups * each, init=[])
            write, read = cells.write_port(granularity=1), cells.read_port()
            m.d.comb += [
                read.addr.eq(address(at, next_slice >> slice_bits)),
                self.mask.word_select(c, p.access_bytes).eq((not_there[c] & p.data_mask).replicate(p.access_bytes)),
                self.data.word_select(c, bits).eq(Array(read.data[j] for j in range(slices))[shown]),
            ]
            with m.If(self._loads):
                m.d.comb += [
                    write.en.eq(Mux(chip == c, (1 << slices) - 1, 0)),
                    write.addr.eq(address(self._number, self._slice)),
                    write.data.eq(get.data),
                ]
            with m.Else():
                m.d.comb += [
                    write.en.eq(Mux(self.filling, 1 << arrived, 0)),
                    write.addr.eq(address(self._number, self.entry >> slice_bits)),
                    write.data.eq(Cat(self.read_data.word_select(c, bits) for _ in range(slices))),
                ]
