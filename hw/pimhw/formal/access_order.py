"""Proof of the order of accesses and items: no descriptor or configuration operation overtakes a data write."""

from __future__ import annotations

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Array, Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal, Value

from pimspec.params.pim_rank import PimRankParams

from ..host_side.access_queue import AccessQueue
from ..host_side.order_gate import OrderGate
from .opened import Opened

__all__ = ["AccessOrderProof"]


class AccessOrderProof(Elaboratable):
    """Access queue and the gate of a queue of items, for any accesses and items, and a command engine of any speed.

    Assumed: the rank's contract with its units. An access is pushed only with room; an item is accepted only if fewer
    than `depth` wait; it is released only through the open gate; the engine issues a task's command once, after it took
    the task (:class:`~pimhw.dram.command_engine.CommandEngine`). Proved, for any one access that is pushed and any one
    item that is accepted after it:

    - the item is not released before the access has left the queue;
    - the access leaves the queue only after its command has issued and its line is with the chips;
    - the gate opens when no access is left and the append buffer lets the item pass, and stays open until the item is
      released.

    Parameters
    ----------
    params : PimRankParams
    """

    def __init__(self, params: PimRankParams) -> None:
        self.params = params
        depth, bits = params.access_places, params.descriptor_queue.bit_length()
        # Of the access in each place: whether there is one, those before it, and its mark.
        self._ahead = [
            (Signal(name=f"there{k}"), Signal(range(depth), name=f"rank{k}"), Signal(bits, name=f"mark{k}"))
            for k in range(depth)
        ]
        self._chosen, self._left = Signal(), Signal()  # the access in any one place is tracked; it has left the queue
        self._mark = Signal(bits)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, depth = self.params, self.params.access_places
        dut, gate = AccessQueue(params=p), OrderGate(depth=p.descriptor_queue)
        opened, opened_gate = Opened(dut), Opened(gate)
        m.submodules.dut, m.submodules.gate = opened.fragment, opened_gate.fragment
        m.d.comb += [
            Assume(~ResetSignal()),
            dut.push.eq(AnySeq(1) & (dut.level != depth)),
            dut.access.eq(AnySeq(dut.access.shape().size)),
            *(task.ready.eq(AnySeq(1)) for task in dut.tasks),
            dut.marks.descriptors.eq(gate.count),
            gate.cleared.eq(AnySeq(len(gate.cleared))),
            gate.waiting.eq(dut.level != 0),
            gate.mark.eq(dut.oldest_marks.descriptors),
        ]
        items = Signal(range(p.descriptor_queue + 1))  # that wait
        m.d.comb += [
            gate.accepted.eq(AnySeq(1) & (items != p.descriptor_queue)),
            gate.released.eq(AnySeq(1) & (items != 0) & gate.open),
        ]
        m.d.sync += items.eq(items + gate.accepted - gate.released)
        passed = opened_gate.signal("passed")
        m.d.comb += [Assert(items <= p.descriptor_queue), Assert((gate.count - passed)[: len(passed)] == items)]
        # The append buffer keeps items back, and lets them pass one after the other.
        cleared, before, width = gate.cleared, Signal.like(gate.cleared), len(passed)
        m.d.sync += before.eq(cleared)
        m.d.comb += [
            Assume((cleared - passed)[:width] <= items),
            Assume((cleared - before)[:width] <= (gate.count - before)[:width]),
            Assert((before - passed)[:width] <= items),
        ]
        newest, next_out, oldest, waiting = (opened.signal(n) for n in ("newest", "next_out", "oldest", "waiting"))
        level = dut.level

        def after(place: Value | int, steps: Value | int) -> Value:
            total = Value.cast(place) + steps
            return Mux(total >= depth, total - depth, total)

        m.d.comb += [
            Assert((oldest < depth) & (newest < depth) & (next_out < depth) & (level <= depth) & (waiting <= level)),
            Assert(newest == after(oldest, level)),
            Assert(next_out == after(oldest, level - waiting)),
        ]
        self._marks(m, opened, depth, level, oldest, items, passed)
        retired = self._track(m, dut, opened, depth, level, waiting)
        self._item(m, gate, items, retired, cleared == passed)
        return m

    def _marks(
        self, m: Module, opened: Opened, depth: int, level: Value, oldest: Value, items: Signal, passed: Signal
    ) -> None:
        """Marks grow from the oldest access to the newest, between the items released and those accepted."""
        ahead = self._ahead
        for k, (there, rank, mark) in enumerate(ahead):
            m.d.comb += [
                rank.eq(Mux(k >= oldest, k - oldest, k + depth - oldest)),
                there.eq(rank < level),
                mark.eq(opened.cell(m, "marks", address=k).as_value()[: len(mark)] - passed),
                Assert(~there | (mark <= items)),
            ]
        for k in range(depth):
            there, _, mark = ahead[k]
            later_there, later_rank, later = ahead[(k + 1) % depth]
            m.d.comb += Assert(~(there & later_there & (later_rank != 0)) | (mark <= later))

    def _track(
        self, m: Module, dut: AccessQueue, opened: Opened, depth: int, level: Value, waiting: Value
    ) -> Value:  # fmt: skip
        """What becomes of the access in each place, and of any one of them; whether that has left the queue."""
        m.d.comb += [
            dut.written.eq(AnySeq(1)),
            dut.read.eq(AnySeq(1) & ~dut.written),
            dut.place.eq(AnySeq(len(dut.place))),
            Assume(dut.place < depth),
        ]
        retires = [self._place(m, dut, opened, k, level, waiting) for k in range(depth)]
        place = Signal(range(depth))
        m.d.comb += [place.eq(AnyConst(len(place))), Assume(place < depth)]
        there, _, mark = (Array(column)[place] for column in zip(*self._ahead, strict=True))
        retire = Array(retires)[place]
        chosen, left = self._chosen, self._left
        with m.If(dut.push & (opened.signal("newest") == place) & ~chosen & ~left & AnySeq(1)):
            m.d.sync += chosen.eq(1)
        with m.Elif(chosen & retire):
            m.d.sync += [chosen.eq(0), left.eq(1)]
        m.d.comb += [Assert(~chosen | there), Assert(~(chosen & left)), Cover(chosen & retire)]
        m.d.comb += self._mark.eq(mark)
        return left

    def _place(self, m: Module, dut: AccessQueue, opened: Opened, place: int, level: Value, waiting: Value) -> Value:
        """An access waits for its bank, for the engine, for its command to issue and for its line, in that order."""
        p = self.params
        there, rank, _ = self._ahead[place]
        held = [opened.signal(f"held{b}") & (opened.signal(f"place{b}") == place) for b in range(p.num_banks)]
        taken = [h & task.ready for h, task in zip(held, dut.tasks, strict=True)]
        issue = (dut.written | dut.read) & (dut.place == place)
        with_engine, issued = (Signal(name=f"{name}{place}") for name in ("with_engine", "issued"))
        done, retire, waits = opened.signal(f"done{place}"), Signal(), Signal()
        writes, reads = ("write", p.chip.write_clocks), ("read", p.chip.read_clocks)
        on_way = [
            opened.signal(name)[k] & (opened.signal(f"{name}_place{k}") == place)
            for name, clocks in (writes, reads)
            for k in range(clocks)
        ]
        m.d.comb += [
            Assume(~issue | with_engine),
            retire.eq(there & (rank == 0) & done),
            waits.eq(there & (rank >= level - waiting)),
            Assert(sum(held) + with_engine + issued + waits == there),
            Assert(sum(on_way) + done == issued),
        ]
        with m.If(sum(taken) != 0):
            m.d.sync += with_engine.eq(1)
        with m.Elif(issue):
            m.d.sync += with_engine.eq(0)
        with m.If(retire):
            m.d.sync += issued.eq(0)
        with m.Elif(issue):
            m.d.sync += issued.eq(1)
        return retire

    def _item(self, m: Module, gate: OrderGate, items: Signal, retired: Value, keeps_back: Value) -> None:
        """Any one item that is accepted after the tracked access; `keeps_back`: the append buffer lets none pass."""
        follows, ahead = Signal(), Signal.like(items)  # it waits; items in front of it
        with m.If(gate.accepted & self._chosen & ~follows & AnySeq(1)):
            m.d.sync += [follows.eq(1), ahead.eq(items - gate.released)]
        with m.Elif(follows & gate.released):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += follows.eq(0)
                m.d.comb += [Assert(retired), Cover(1)]
        m.d.comb += [
            Assert(~follows | (ahead < items)),
            Assert(~follows | self._chosen | self._left),
            # The access says that the item comes after it, as long as it is in the queue.
            Assert(~(follows & self._chosen) | (self._mark <= ahead)),
            Assert(gate.waiting | (items == 0) | gate.open | keeps_back),
        ]
        was_open = Signal()
        m.d.sync += was_open.eq(gate.open & (items != 0) & ~gate.released)
        m.d.comb += Assert(~was_open | gate.open)
