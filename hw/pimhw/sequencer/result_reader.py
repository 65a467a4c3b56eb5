"""Result reader: chooses the result, and the bank, that is read next."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.params.pim_rank import PimRankParams

from ..arith.bits import lowest_set

__all__ = ["ResultReader", "request_layout", "route_layout"]


def route_layout(params: PimRankParams) -> data.StructLayout:
    """Layout of a line of results: a score (slot, line, line of the group) or a sum (dim, line of the group)."""
    return data.StructLayout(
        {
            "sum": 1,
            "slot": 1,
            "line": index_bits(params.segment_lines),
            "dim": index_bits(params.head_dim),
            "group_line": index_bits(params.lines_per_group),
        }
    )


def request_layout(params: PimRankParams) -> data.StructLayout:
    """Layout of a PIM_RD_RB: the fields of its bus command, and the route of its line."""
    return data.StructLayout(
        {
            "bank": index_bits(params.num_banks),
            "set": 1,
            "index": index_bits(params.lines_per_group),
            "address": index_bits(params.dims_per_bank),
            "pop": 1,
            "route": route_layout(params),
        }
    )


class _Way:
    """A result that is being read: `bank`, one-hot, and the next line of the group."""

    def __init__(self, *, params: PimRankParams, name: str) -> None:
        self.busy, self.is_sum = Signal(name=f"{name}_busy"), Signal(name=f"{name}_is_sum")
        self.bank = Signal(params.num_banks, name=f"{name}_bank")
        self.group_line = Signal(index_bits(params.lines_per_group), name=f"{name}_group_line")

    @property
    def offer(self) -> tuple[Value, Value, Value]:
        return self.is_sum, self.bank, self.group_line

    @property
    def scored(self) -> Value:
        """Mask of the bank whose score is being read."""
        return self.bank & (self.busy & ~self.is_sum).replicate(len(self.bank))


class ResultReader(wiring.Component):
    """Reader of scores as they come, and of the sums of an item; a line a clock, without bubbles.

    Two results are read side by side, a line of each in turn, from banks of different bank_groups. For lines of one
    bank_group are tCCD_L apart, and those of two only tCCD_S. A result that finds no partner is read alone.

    Banks take turns, and so do bank_groups: the first bank of each, then the second of each. Sums are read line of the
    group by line of the group, so that the first vectors are whole early, bank by bank. Scores go first, since the
    banks wait for their place; after ``SCORES_PER_SUM`` of them a bank's sums of a line of the group.

    Timing model: ``struct ResultReader`` of ``bus.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    score : In(num_banks); slot, step, token : In, arrays of a bank each
        Results of each bank; see :class:`~.bank_shadow.BankShadow`.
    drained, task_drained : Out(num_banks)
    lines, last_group_line : In, arrays of a slot each
        Token lines and the last line of the group of the item in a slot of the score memory.
    sums : In(1)
        The sums of all banks stand and are to be read; `sum_set` says which, `sum_last_group_line` belongs to their
        item.
    sums_taken : Out(1)
        The last of them is being read.
    o : Out(stream.Signature(request_layout(params)))
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        p, banks = params, params.num_banks
        super().__init__(
            {
                "score": In(banks),
                "slot": In(banks),
                "step": In(p.row_step_bits).array(banks),
                "token": In(index_bits(p.tokens_per_turn)).array(banks),
                "drained": Out(banks),
                "task_drained": Out(banks),
                "lines": In(p.segment_lines.bit_length()).array(2),
                "last_group_line": In(index_bits(p.lines_per_group)).array(2),
                "sums": In(1),
                "sum_set": In(1),
                "sum_last_group_line": In(index_bits(p.lines_per_group)),
                "sums_taken": Out(1),
                "o": Out(stream.Signature(request_layout(p))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, banks = self.params, self.params.num_banks
        ways = [_Way(params=p, name=f"way{w}") for w in range(2)]
        turn, offered = Signal(), Signal()  # whose turn it is, and the way whose line is offered
        dim = Signal(index_bits(p.dims_per_bank))
        read, entry_end, free = Signal(), Signal(), Signal(2)
        m.d.comb += offered.eq(Mux(turn, ways[1].busy | ~ways[0].busy, ways[1].busy & ~ways[0].busy))
        m.d.sync += turn.eq(offered ^ read)  # a line that is not taken stays
        is_sum, bank, group_line = (Mux(offered, b, a) for a, b in zip(*(way.offer for way in ways), strict=True))

        number = _number(bank)
        slot = (self.slot & bank).any()
        step, token = _picked(bank, list(self.step)), _picked(bank, list(self.token))
        line = Signal(index_bits(p.segment_lines))
        m.d.comb += line.eq(_concat((token, p.tokens_per_turn), (number, banks), (step, p.segment_rows)))
        last_group_line = Mux(is_sum, self.sum_last_group_line, Array(self.last_group_line)[slot])
        dims_end = dim == p.dims_per_bank - 1 if p.dims_per_bank > 1 else Const(1)
        row_end = (token == p.tokens_per_turn - 1) | (line + 1 == Array(self.lines)[slot])
        request = self.o.payload
        m.d.comb += [
            self.o.valid.eq(ways[0].busy | ways[1].busy),
            read.eq(self.o.valid & self.o.ready),
            request.bank.eq(number),
            request.set.eq(self.sum_set),
            request.index.eq(group_line),
            request.address.eq(dim),
            request.pop.eq(~is_sum & (group_line == last_group_line)),
            request.route.sum.eq(is_sum),
            request.route.slot.eq(slot),
            request.route.line.eq(line),
            request.route.dim.eq(_concat((dim, p.dims_per_bank), (number, banks))),
            request.route.group_line.eq(group_line),
            entry_end.eq(read & Mux(is_sum, dims_end, group_line == last_group_line)),
            free.eq(Cat(~way.busy | (entry_end & (offered == w)) for w, way in enumerate(ways))),
            self.drained.eq(bank & (entry_end & ~is_sum).replicate(banks)),
            self.task_drained.eq(bank & (entry_end & ~is_sum & row_end).replicate(banks)),
        ]
        with m.If(read & is_sum):
            m.d.sync += dim.eq(Mux(dims_end, 0, dim + 1))
        for w, way in enumerate(ways):
            with m.If(read & ~is_sum & (offered == w)):
                m.d.sync += way.group_line.eq(way.group_line + 1)
        next_sum = self._next_sum(m, entry_end & is_sum, group_line, last_group_line)
        self._choose(m, ways, offered, free, *next_sum)
        return m

    def _turns(self) -> list[int]:
        """Banks in the order of their turns."""
        org = self.params.organization
        return [g * org.banks_per_group + b for b in range(org.banks_per_group) for g in range(org.bank_groups)]

    def _next_sum(self, m: Module, ends_sum: Value, group_line: Value, last_group_line: Value) -> tuple[Value, Value]:
        """Where the sums go on, as bank and line of the group: bank by bank, then the next line of the group."""
        banks, order = self.params.num_banks, self._turns()
        sum_place, sum_group_line = Signal(banks, init=1), Signal.like(self.o.payload.index)  # one-hot, by turns
        next_place, next_group_line = Signal(banks), Signal.like(sum_group_line)
        m.d.comb += [
            next_place.eq(Mux(ends_sum, sum_place.rotate_left(1), sum_place)),
            next_group_line.eq(
                Mux(ends_sum & sum_place[-1], Mux(group_line == last_group_line, 0, sum_group_line + 1), sum_group_line)
            ),
            self.sums_taken.eq(ends_sum & sum_place[-1] & (group_line == last_group_line)),
        ]
        m.d.sync += [sum_place.eq(next_place), sum_group_line.eq(next_group_line)]
        return Cat(next_place[order.index(b)] for b in range(banks)), next_group_line

    def _choose(
        self, m: Module, ways: Sequence[_Way], offered: Value, free: Value, next_bank: Value, next_group_line: Value
    ) -> None:
        """The next result, for a way that idles or else for the one that ends; not of the other way's bank_group.

        What the bank being finished still has is known in the next clock only: it is left out.
        """
        p, banks, order = self.params, self.params.num_banks, self._turns()
        into = Mux(ways[0].busy, Mux(ways[1].busy, offered, 1), 0)
        scores, above = Signal(banks), Signal(banks)  # `above`: by turns
        to_sum, since_sum = Signal(), Signal(range(p.SCORES_PER_SUM + 1))
        other = Signal(banks)
        m.d.comb += other.eq(
            Mux(into, ways[0].bank & ~free[0].replicate(banks), ways[1].bank & ~free[1].replicate(banks))
        )
        size = p.organization.banks_per_group
        elsewhere = ~Cat(other[first : first + size].any().replicate(size) for first in range(0, banks, size))
        summing = Cat(way.busy & way.is_sum & ~free[w] for w, way in enumerate(ways)).any()
        by_turns = Cat(scores[b] for b in order)
        first = Mux((by_turns & above).any(), lowest_set(by_turns & above), lowest_set(by_turns))
        lowest = Cat(first[order.index(b)] for b in range(banks))
        m.d.comb += [
            scores.eq(self.score & elsewhere & ~ways[0].scored & ~ways[1].scored),
            to_sum.eq(
                self.sums
                & ~self.sums_taken
                & ~summing
                & (next_bank & elsewhere).any()
                & (~scores.any() | (since_sum == p.SCORES_PER_SUM))
            ),
        ]
        chosen = free.any() & (to_sum | scores.any())
        for w, way in enumerate(ways):
            with m.If(chosen & (into == w)):
                m.d.sync += [
                    way.busy.eq(1),
                    way.is_sum.eq(to_sum),
                    way.bank.eq(Mux(to_sum, next_bank, lowest)),
                    way.group_line.eq(Mux(to_sum, next_group_line, 0)),
                ]
            with m.Elif(free[w]):
                m.d.sync += way.busy.eq(0)
        with m.If(chosen & to_sum):
            m.d.sync += since_sum.eq(0)
        with m.Elif(chosen):
            m.d.sync += [
                above.eq(~(first | (first - 1))[:banks]),
                since_sum.eq(since_sum + (since_sum != p.SCORES_PER_SUM)),
            ]


def _number(one_hot: Value) -> Value:
    bits = []
    for k in range(index_bits(len(one_hot))):
        bits.append(Cat(one_hot[i] for i in range(len(one_hot)) if i >> k & 1).any())
    return Cat(bits)


def _picked(one_hot: Value, values: Sequence[Value]) -> Value:
    total: Value = Const(0)
    for k, value in enumerate(values):
        total = total | (value & one_hot[k].replicate(len(value)))
    return total


def _concat(*parts: tuple[Value, int]) -> Value:
    """Numbers below the given powers of two as one number, the first lowest."""
    return Cat(value[: (count - 1).bit_length()] for value, count in parts if count > 1)
