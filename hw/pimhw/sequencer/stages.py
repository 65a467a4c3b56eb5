"""Stages of an item: the loading of its queries, then the row steps of K, and later those of V."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of
from .lines import line_layout
from .row_feeder import step_layout

__all__ = ["KStage", "QueryLoader", "VStage"]


class QueryLoader(wiring.Component):
    """Loader of a kv_head's queries into every operand buffer, ahead of its first item.

    The operand buffers hold two sets of queries. A set is loaded into the one that the last but one kv_head has left;
    an item passes when its lines are in the line queue. Further items of the same kv_head pass at once.

    Timing model: ``struct QueryLoader`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i, o : In, Out(stream.Signature(params.item))
    set : Out(1)
        Query set of the item at `o`.
    freed : In(1)
        The oldest set is not needed any more.
    urgent : In(1)
        Load a line a clock. Otherwise a line now and then, so that they fill gaps of a bus that has more to do.
    lines : Out(stream.Signature(line_layout(params)))
        Marked with `queries_end` at the last of a set.
    write : In: valid, payload: line (number in the query buffer), data
        Line from the host.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        p = params
        self.buffer_lines = p.queries * p.head_dim * 2 // p.line_bytes
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(p.item))),
                "o": Out(stream.Signature(layout_of(p.item))),
                "set": Out(1),
                "freed": In(1),
                "urgent": In(1),
                "lines": Out(stream.Signature(line_layout(p))),
                "write_en": In(1),
                "write_line": In(range(self.buffer_lines)),
                "write_data": In(p.line_bytes * 8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        m.submodules.queries = queries = memory.Memory(shape=p.line_bytes * 8, depth=self.buffer_lines, init=[])
        write, read = queries.write_port(), queries.read_port()
        m.d.comb += [
            write.en.eq(self.write_en),
            write.addr.eq(self.write_line),
            write.data.eq(self.write_data),
        ]
        used = Signal(range(3))
        loaded = Signal()  # all lines of the item at hand are in the queue
        current = Signal()  # set that the item at hand uses
        query, word = Signal(range(p.queries_at_once)), Signal(range(p.accesses_per_k))
        starting = self.i.valid & self.i.payload.first & ~loaded
        word_end, query_end = word == p.accesses_per_k - 1, query == self.i.payload.last_query

        # The word at hand is read one clock ahead of its line.
        fetched, step = Signal(), Signal()
        next_query, next_word = Signal.like(query), Signal.like(word)
        m.d.comb += [
            next_query.eq(Mux(step & word_end, query + 1, query)),
            next_word.eq(Mux(step, Mux(word_end, 0, word + 1), word)),
            step.eq(self.lines.valid & self.lines.ready),
        ]
        words_bits = (p.num_chips - 1).bit_length()
        address = Signal(range(self.buffer_lines * p.num_chips))
        m.d.comb += [
            address.eq((self.i.payload.query + next_query) * p.accesses_per_k + next_word),
            read.addr.eq(address >> words_bits),
            read.en.eq(1),
        ]
        begun, pause = Signal(), Signal(range(p.QUERY_PAUSE))
        m.d.sync += pause.eq(Mux(step, p.QUERY_PAUSE - 1, Mux(pause != 0, pause - 1, 0)))
        with m.If(starting & ~begun & (used != 2)):
            m.d.sync += [begun.eq(1), current.eq(~current), query.eq(0), word.eq(0)]
        m.d.sync += fetched.eq(begun & starting & ~(step & word_end & query_end))
        allocate = starting & ~begun & (used != 2)
        m.d.sync += used.eq(used + allocate - self.freed)
        with m.If(begun):
            m.d.sync += [query.eq(next_query), word.eq(next_word)]
        line, chosen = self.lines.payload, Signal(p.access_bytes * 8)
        select = Signal(words_bits)
        m.d.sync += select.eq(address[:words_bits])
        m.d.comb += [
            chosen.eq(Array(read.data.word_select(c, p.access_bytes * 8) for c in range(p.num_chips))[select]),
            self.lines.valid.eq(begun & fetched & (self.urgent | (pause == 0))),
            line.data.eq(chosen.replicate(p.num_chips)),
            line.absent.eq(0),
            line.address.eq(current * p.accesses_per_k + word),
            line.row.eq(query),
            line.queries_end.eq(word_end & query_end),
            line.row_end.eq(0),
        ]
        with m.If(step & word_end & query_end):
            m.d.sync += [loaded.eq(1), begun.eq(0), query.eq(0), word.eq(0)]
        m.d.comb += [
            self.o.payload.eq(self.i.payload),
            self.o.valid.eq(self.i.valid & (loaded | ~self.i.payload.first)),
            self.i.ready.eq(self.o.valid & self.o.ready),
            self.set.eq(current),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += loaded.eq(0)
        return m


class KStage(wiring.Component):
    """K stage: makes the K steps of items, in order, when queries have landed and the softmax has room for scores.

    Timing model: ``struct KStage`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i : In(stream.Signature(params.item)); set : In(1)
    row : In(stream.Signature(row_bits))
        The row of each step, in order.
    queries_landed : In(1)
        A set of queries has arrived in the operand buffers.
    may_start : In(1)
        The item at `i` may begin.
    softmax : Out(stream): scale, lines, last_group_line, last_keep
        The item, announced as it begins.
    o : Out(stream.Signature(step_layout(params)))
    busy : Out(1)
        An item has steps left.
    lines, last_group_line : Out, arrays of a slot each
        Lines of the item in each slot of the score memory.
    scored : In(2)
        A line of scores has come in, by slot.
    queries_freed : Out(1)
        The last score of an item with `final` has come in: its queries are not needed any more.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        p = params
        item = layout_of(p.item)
        super().__init__(
            {
                "i": In(stream.Signature(item)),
                "set": In(1),
                "row": In(stream.Signature(p.organization.row_bits)),
                "queries_landed": In(1),
                "may_start": In(1),
                "softmax": Out(stream.Signature(layout_of(p.softmax.items))),
                "o": Out(stream.Signature(step_layout(p))),
                "lines": Out(p.segment_lines.bit_length()).array(2),
                "last_group_line": Out(item["last_group_line"].width).array(2),
                "busy": Out(1),
                "scored": In(2),
                "queries_freed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, given, step = self.params, self.i.payload, self.o.payload
        busy, slot, query_set = Signal(), Signal(), Signal()
        landed = Signal(range(3))
        left = Signal.like(step.lines)
        number = Signal(p.row_step_bits)
        start, end = Signal(), Signal()
        lines, last_group_lines = Array(self.lines), Array(self.last_group_line)
        may = self.may_start & (~given.first | (landed != 0)) & ~busy
        m.d.comb += [
            self.softmax.valid.eq(self.i.valid & may),
            self.softmax.payload.scale.eq(given.scale),
            self.softmax.payload.num_lines.eq(given.lines),
            self.softmax.payload.num_group_lines.eq(given.last_group_line + 1),
            self.softmax.payload.last_keep.eq(given.last_keep),
            start.eq(self.softmax.valid & self.softmax.ready),
            self.i.ready.eq(start),
            self.busy.eq(busy),
            self.o.valid.eq(busy & self.row.valid),
            self.row.ready.eq(busy & self.o.ready),
            step.row.eq(self.row.payload),
            step.lines.eq(left),
            step.tag.mode.eq(MODE_TREE),
            step.tag.first.eq(0),
            step.tag.set.eq(0),
            step.tag.start.eq(query_set * p.accesses_per_k),
            step.tag.segment_end.eq(0),
            step.tag.slot.eq(~slot),  # the slot of the item under way; `slot` is that of the next one
            step.tag.step.eq(number),
            end.eq(left <= p.row_lines),
        ]
        m.d.sync += landed.eq(landed + self.queries_landed - (start & given.first))
        with m.If(start):
            m.d.sync += [
                busy.eq(1),
                slot.eq(~slot),
                query_set.eq(self.set),
                left.eq(given.lines),
                number.eq(0),
                lines[slot].eq(given.lines),
                last_group_lines[slot].eq(given.last_group_line),
            ]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [busy.eq(~end), number.eq(number + 1), left.eq(left - p.row_lines)]
        freed = []
        for s in range(2):
            expected = Signal(range(p.segment_lines * p.lines_per_group + 1), name=f"expected{s}")
            final = Signal(name=f"final{s}")
            with m.If(start & (slot == s)):
                m.d.sync += [final.eq(given.final), expected.eq(given.lines * (given.last_group_line + 1))]
            with m.Elif(self.scored[s]):
                m.d.sync += expected.eq(expected - 1)
            freed.append(self.scored[s] & (expected == 1) & final)
        m.d.comb += self.queries_freed.eq(freed[0] | freed[1])
        return m


class VStage(wiring.Component):
    """V stage: makes the V steps of items, in order, each when its probabilities have landed.

    Timing model: ``struct VStage`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i : In(stream.Signature(params.item))
        Taken with its last step.
    row : In(stream.Signature(row_bits))
        The row of each step, in order.
    row_landed : In(1)
        The probabilities of a row have arrived.
    sums_free : In(1)
        One of the two sets of sums, which items use in turn, is not needed any more.
    o : Out(stream.Signature(step_layout(params)))
    first : Out(1)
        The step at `o` is the first of its item.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(params.item))),
                "row": In(stream.Signature(params.organization.row_bits)),
                "row_landed": In(1),
                "sums_free": In(1),
                "o": Out(stream.Signature(step_layout(params))),
                "first": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, given, step = self.params, self.i.payload, self.o.payload
        landed, place = Signal(range(p.prob_slots + 1)), Signal(range(p.prob_slots))
        number, left = Signal(p.row_step_bits), Signal.like(step.lines)
        end, taken, sums = Signal(), Signal(), Signal()
        with m.If(taken & end):
            m.d.sync += sums.eq(~sums)
        m.d.comb += [
            left.eq(given.lines - number * p.row_lines),
            end.eq(left <= p.row_lines),
            self.first.eq(number == 0),
            self.o.valid.eq(self.i.valid & self.row.valid & (landed != 0) & (~self.first | self.sums_free)),
            self.row.ready.eq(taken),
            taken.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(taken & end),
            step.row.eq(self.row.payload),
            step.lines.eq(left),
            step.tag.mode.eq(MODE_LANE),
            step.tag.first.eq(self.first),
            step.tag.set.eq(sums),
            step.tag.start.eq(p.operand_words // 2 + place * p.row_words),
            step.tag.segment_end.eq(end),
            step.tag.slot.eq(place),
            step.tag.step.eq(number),
        ]
        m.d.sync += landed.eq(landed + self.row_landed - taken)
        with m.If(taken):
            m.d.sync += [number.eq(Mux(end, 0, number + 1)), place.eq(Mux(place == p.prob_slots - 1, 0, place + 1))]
        return m
