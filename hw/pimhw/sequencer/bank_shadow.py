"""Bank shadow: the state of one bank's PU, derived from the commands alone, as DRAM chips report no readiness."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["BankShadow"]

CONTEXTS = 2
"""Tasks whose scores may lie in the result buffer at once; it is sized for them."""


class BankShadow(wiring.Component):
    """Shadow of a bank: counts the accesses of its MAC bursts, and with them its results.

    Timing model: ``struct BankShadows`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    accepted : In(1)
        The bank has taken a MAC task.
    issue, resume, last, count, mac : In
        A PIM_MAC for this bank is on the command bus; its fields, and the tag of its task.
    drained, task_drained : In(1)
        A score has been read; it was the last of its task.
    score : Out(1)
        A score can be read; `slot`, `step` and `token` (within the row) say which.
    row_done : Out(1)
        A V task is over: its probabilities have been used and its sums stand. `done_slot`, `done_segment`, `done_set`
        belong to it.
    hold : Out(1)
        The result buffer has no room for another task's scores.
    idle : Out(1)
        No MAC task is under way, and no score of one on its way to `score`.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        mac = layout_of(params.mac_tag)
        super().__init__(
            {
                "accepted": In(1),
                "issue": In(1),
                "resume": In(1),
                "last": In(1),
                "count": In(params.bank_pu.max_columns.bit_length()),
                "mac": In(mac),
                "drained": In(1),
                "task_drained": In(1),
                "score": Out(1),
                "slot": Out(1),
                "step": Out(params.row_step_bits),
                "token": Out(index_bits(params.tokens_per_turn)),
                "row_done": Out(1),
                "done_slot": Out(mac["slot"].width),
                "done_segment": Out(1),
                "done_set": Out(1),
                "hold": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, interval = self.params, self.params.bank_pu.interval
        left = Signal.like(self.count)
        gap = Signal(range(interval)) if interval > 1 else None
        step = Signal(range(p.accesses_per_k))
        mode, final = Signal(), Signal()
        slot, segment_end, sums = Signal.like(self.done_slot), Signal(), Signal()
        access, token_end = Signal(), Signal()
        m.d.comb += [
            access.eq((left != 0) & (gap == 0 if gap is not None else 1)),
            token_end.eq(step == p.accesses_per_k - 1),
        ]
        if gap is not None:
            m.d.sync += gap.eq(Mux(access, interval - 1, Mux(gap != 0, gap - 1, 0)))
        with m.If(access):
            m.d.sync += [left.eq(left - 1), step.eq(Mux(token_end, 0, step + 1))]
        with m.If(self.issue):
            m.d.sync += [left.eq(self.count), final.eq(self.last)]
            if gap is not None:
                m.d.sync += gap.eq(0)
            with m.If(~self.resume):
                m.d.sync += [
                    step.eq(0),
                    mode.eq(self.mac.mode),
                    slot.eq(self.mac.slot),
                    segment_end.eq(self.mac.segment_end),
                    sums.eq(self.mac.set),
                ]
        coming = self._scores(m, access & token_end & (mode == MODE_TREE))

        burst_end = Signal()
        m.d.comb += burst_end.eq(access & (left == 1) & final)
        # What a row was goes with it: two short rows on an open row may end within the wait of the first.
        ending, rows = Signal(p.row_wait_clocks), []
        m.d.sync += ending.eq(Cat(burst_end & (mode == MODE_LANE), ending))
        m.d.comb += self.row_done.eq(ending[-1])
        row = Cat(slot, segment_end, sums)
        for k in range(p.row_wait_clocks):
            rows.append(Signal(len(row), name=f"row{k}", reset_less=True))
            m.d.sync += rows[k].eq(rows[k - 1] if k else row)
        m.d.comb += Cat(self.done_slot, self.done_segment, self.done_set).eq(rows[-1])

        todo = Signal(range(4))
        m.d.sync += todo.eq(todo + self.accepted - (self.issue & self.last))
        m.d.comb += self.idle.eq((todo == 0) & (left == 0) & ~ending.any() & ~coming)
        return m

    def _scores(self, m: Module, produced: Signal) -> Value:
        """Waiting scores, oldest first, and a flag for scores on their way."""
        p = self.params
        under_way = Signal(p.score_wait_clocks)
        waiting = Signal(range(p.bank_pu.result_words + 1))
        token = Signal.like(self.token)
        m.d.sync += [
            under_way.eq(Cat(produced, under_way)),
            waiting.eq(waiting + under_way[-1] - self.drained),
        ]
        slots = Array(Signal(name=f"slot{k}") for k in range(CONTEXTS))
        steps = Array(Signal.like(self.step, name=f"step{k}") for k in range(CONTEXTS))
        newest, oldest, used = Signal(), Signal(), Signal(range(CONTEXTS + 1))
        starts = Signal()
        m.d.comb += [
            starts.eq(self.issue & ~self.resume & (self.mac.mode == MODE_TREE)),
            self.score.eq(waiting != 0),
            self.slot.eq(slots[oldest]),
            self.step.eq(steps[oldest]),
            self.token.eq(token),
            self.hold.eq(used == CONTEXTS),
        ]
        m.d.sync += used.eq(used + starts - self.task_drained)
        with m.If(starts):
            m.d.sync += [newest.eq(~newest), slots[newest].eq(self.mac.slot[0]), steps[newest].eq(self.mac.step)]
        with m.If(self.task_drained):
            m.d.sync += [oldest.eq(~oldest), token.eq(0)]
        with m.Elif(self.drained):
            m.d.sync += token.eq(token + 1)
        return under_way.any()
