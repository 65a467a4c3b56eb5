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


class ResultReader(wiring.Component):
    """Reader of scores as they come, and of the sums of an item; a line a clock, without bubbles.

    Banks with a score take turns. Sums are read line of the group by line of the group, so that the first vectors are
    whole early, bank by bank. Scores go first, since the banks wait for their place; after ``SCORES_PER_SUM`` of them a
    bank's sums of a line of the group.

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
        busy, is_sum = Signal(), Signal()
        bank = Signal(banks)  # one-hot
        group_line, dim = Signal(index_bits(p.lines_per_group)), Signal(index_bits(p.dims_per_bank))
        entry_end, free = Signal(), Signal()

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
            self.o.valid.eq(busy),
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
            entry_end.eq(self.o.ready & busy & Mux(is_sum, dims_end, group_line == last_group_line)),
            free.eq(~busy | entry_end),
            self.drained.eq(bank & (entry_end & ~is_sum).replicate(banks)),
            self.task_drained.eq(bank & (entry_end & ~is_sum & row_end).replicate(banks)),
        ]
        with m.If(self.o.ready & busy):
            with m.If(is_sum):
                m.d.sync += dim.eq(Mux(dims_end, 0, dim + 1))
            with m.Else():
                m.d.sync += group_line.eq(group_line + 1)

        # Where the sums go on: bank by bank, then the next line of the group.
        ends_sum = entry_end & is_sum
        sum_bank, sum_group_line = Signal(banks, init=1), Signal.like(group_line)
        next_bank, next_group_line = Signal(banks), Signal.like(group_line)
        m.d.comb += [
            next_bank.eq(Mux(ends_sum, sum_bank.rotate_left(1), sum_bank)),
            next_group_line.eq(
                Mux(ends_sum & sum_bank[-1], Mux(group_line == last_group_line, 0, sum_group_line + 1), sum_group_line)
            ),
            self.sums_taken.eq(ends_sum & sum_bank[-1] & (group_line == last_group_line)),
        ]
        m.d.sync += [sum_bank.eq(next_bank), sum_group_line.eq(next_group_line)]

        # The next entry. What the bank being finished still has is known in the next clock only: it is left out.
        everything = Const((1 << banks) - 1, banks)
        finishing, scores, above = Signal(banks), Signal(banks), Signal(banks)
        to_sum, since_sum = Signal(), Signal(range(p.SCORES_PER_SUM + 1))
        lowest = Mux((scores & above).any(), lowest_set(scores & above), lowest_set(scores))
        m.d.comb += [
            finishing.eq(bank & busy.replicate(banks)),
            scores.eq(self.score & Mux(is_sum, everything, ~finishing)),
            to_sum.eq(self.sums & ~self.sums_taken & (~scores.any() | (since_sum == p.SCORES_PER_SUM))),
        ]
        with m.If(free):
            m.d.sync += [busy.eq(to_sum | scores.any()), is_sum.eq(to_sum), dim.eq(0)]
            with m.If(to_sum):
                m.d.sync += since_sum.eq(0)
            with m.Elif(scores.any() & (since_sum != p.SCORES_PER_SUM)):
                m.d.sync += since_sum.eq(since_sum + 1)
            with m.If(to_sum):
                m.d.sync += [bank.eq(next_bank), group_line.eq(next_group_line)]
            with m.Else():
                m.d.sync += [bank.eq(lowest), group_line.eq(0), above.eq(~(lowest | (lowest - 1))[:banks])]
        return m


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
