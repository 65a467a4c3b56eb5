"""Online softmax of the rank PU: scores in any order in, probabilities and the statistics (m, l) out."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.formats import BF16, FP32, FloatFormat
from pimspec.params.arith import Exp2Params, FpAddParams, FpMaxParams, FpMulParams, FpNarrowParams
from pimspec.params.rank_pu import SoftmaxParams

from ..arith.bits import leading_zeros, named, shift_left
from ..arith.exp2 import Exp2Core
from ..arith.fp_add import FpAddCore
from ..arith.fp_max import FpMaxCore
from ..arith.fp_mul import FpMulCore
from ..arith.fp_narrow import FpNarrowCore
from ..pipeline import layout_of, pushed
from .softmax_parts import Accumulator, StatisticsTable, delay, pick

__all__ = ["Softmax", "widen"]

MINUS_ZERO = FP32.sign_mask  # x + -0 is x for every x
MINUS_INF = FP32.inf | FP32.sign_mask  # maximum(x, -Inf) is x for every x
SLOTS = range(SoftmaxParams.SLOTS)


def widen(m: Module, bits: Value, format: FloatFormat, name: str) -> Value:
    """FP16 or BF16 to FP32, exactly."""
    if format == BF16:
        return Cat(Const(0, FP32.width - format.width), bits)
    fraction, field = bits[: format.fraction_bits], bits[format.fraction_bits : -1]
    subnormal, zero = ~field.any(), ~bits[:-1].any()
    zeros = leading_zeros(m, fraction, f"{name}_lzc")[:4]
    # The leading one of a subnormal moves out at the top and becomes the hidden bit.
    moved = shift_left(m, named(m, f"{name}_tail", Cat(Const(0, 1), fraction[:-1])), zeros, f"{name}_norm")
    # The difference of the biases is 7 * 16: adding it, or taking `zeros` from it, needs no more than 4 bits.
    normal_field = Cat(field[:-1], (~field[-1] | field.all()).replicate(3), field[-1])
    subnormal_field = Cat((~zeros + 1)[:4], ~zeros.any(), Const(0b011, 3))
    magnitude = Cat(
        Const(0, FP32.fraction_bits - format.fraction_bits),
        Mux(subnormal, moved, fraction),
        Mux(zero, 0, Mux(subnormal, subnormal_field, normal_field)),
    )
    return named(m, name, Cat(magnitude, bits[-1]), FP32.width)


class Softmax(wiring.Component):
    """Softmax unit: two passes over each item, a segment of one kv_head and all queries of its group.

    Scores come in any order. Pass 1, while scores arrive: ``x = RNE(score * scale)`` goes into the score memory, and
    ``m = maximum(m, x)`` of its query. Pass 2, once an item is complete and items before it are read, one row (line and
    line of the group) a clock, in order of word, line of the group, line in the word: ``p = narrow(exp2(RNE(x - m)))``
    enters the word that leaves on `o`; the p, widened, are summed: a pairwise tree over the line, then
    ``l = RNE(l + line)``, the first line stored as it is. After all rows of an item its ``(m, l)`` leave on `stats`,
    line of the group after line of the group. FP32 throughout, one rounding an operation (policy of
    :mod:`pimspec.formats`); m is in the units of x, so that weights of partial results are ``exp2(m1 - m')``. Tokens
    that do not exist have no influence and probability +0.

    Item n lies in slot ``n % 2`` of the score memory (row (line of the group, slot, line), one write and one read port)
    from its acceptance until pass 2 has read its last row; `item` is ready while the next slot is free. A score may
    come from the clock after the acceptance of its item on, and is never refused: each (line, line of the group) of the
    item exactly once. Scores of both slots may alternate.

    Pass 2 is rigid as far as `o`: it stands still while a word is not taken. Sums go on behind it, into a table of
    ``params.stats_entries``; only if that is full, because `stats` is refused, no further last line is read. So neither
    output waits for the other to be taken before it offers what is complete.

    Latency from the last score of an item to its first word ``params.probs_latency_cycles``, to its first statistics
    ``params.stats_latency_cycles``, to the first score of the item after next ``params.refill_cycles``. One beat of
    scores a clock, one row of pass 2 a clock, without a bubble between items that are complete. Golden:
    :func:`pimspec.golden.softmax.softmax`.

    Timing model: ``struct Softmax`` of ``rank_pu.h``.

    Parameters
    ----------
    params : SoftmaxParams

    Members
    -------
    item : In(stream): scale (32), num_lines, num_group_lines, last_keep (lanes x 1)
        `scale` is FP32 ``log2(e) * softmax_scale``; num_lines is 1..max_lines, num_group_lines 1..lines of the group.
        Lines but the last are full; bit t of `last_keep`: token t of the last line exists.
    score : In(valid, payload): slot, line, group_line, scores (queries_per_line * lanes x 32)
        Element ``stream * lanes + lane``.
    o : Out(stream): probs (queries_per_line * lanes * word_lines x format width), keep (lanes * word_lines x 1),
    word, group_line, \
group_end, last
        Element ``(stream * lanes + lane) * word_lines + j`` is of line ``word * word_lines + j``; `keep` likewise,
        without stream. `group_end`: `group_line` is the last of the item; `last`: so is `word`.
    stats : Out(stream): m (queries_per_line x 32), l (queries_per_line x 32), group_line, last (of the item)

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`SoftmaxParams`.
    """

    def __init__(self, *, params: SoftmaxParams) -> None:
        self.params = params
        super().__init__(
            {
                "item": In(stream.Signature(layout_of(params.items))),
                "score": In(pushed(layout_of(params.inputs))),
                "o": Out(stream.Signature(layout_of(params.outputs))),
                "stats": Out(stream.Signature(layout_of(params.stats))),
            }
        )
        p = params
        row = data.ArrayLayout(FP32.width, p.queries_per_line * p.lanes)
        self._rows = memory.Memory(shape=row, depth=p.num_rows, init=[])
        self._row_write, self._row_read = self._rows.write_port(), self._rows.read_port()
        slot_layout = data.StructLayout(
            {"scale": FP32.width, "last_line": p.line_bits, "last_group_line": p.group_line_bits, "last_keep": p.lanes}
        )
        self._slots = [Signal(slot_layout, name=f"slot{s}", reset_less=True) for s in SLOTS]
        self._opened, self._counted, self._closed = (
            Signal(len(SLOTS), name=n) for n in ("opened", "counted", "closed")
        )
        self._complete = Signal(len(SLOTS))
        self._slot = Signal()  # the one that pass 2 reads, or waits for
        self._read = Signal()  # pass 2 reads a row

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = self._rows
        self._items(m)
        self._pass2(m, self._pass1(m))
        return m

    def _of_slot(self, slot: Value, field: str) -> Value:
        return Mux(slot, self._slots[1][field], self._slots[0][field])

    def _items(self, m: Module) -> None:
        """Slots in use, and the fields of their items."""
        p, item = self.params, self.item.payload
        held, fill = Signal(len(SLOTS)), Signal()
        m.d.comb += self.item.ready.eq(~pick(list(held), fill))
        accept = named(m, "accept", self.item.valid & self.item.ready)
        with m.If(accept):
            m.d.sync += fill.eq(~fill)
        beats = Const(0, 1)
        for k in range(len(item.num_group_lines)):
            beats = named(
                m,
                f"beats{k}",
                beats + Cat(Const(0, k), item.num_lines & item.num_group_lines[k].replicate(p.line_bits + 1)),
            )
        for s in SLOTS:
            missing = Signal((p.max_lines * p.lines_per_group).bit_length(), name=f"missing{s}")
            m.d.comb += self._opened[s].eq(accept & (fill == s))
            m.d.sync += [
                held[s].eq((held[s] | self._opened[s]) & ~self._closed[s]),
                self._complete[s].eq(held[s] & ~missing.any()),
            ]
            with m.If(self._opened[s]):
                m.d.sync += [
                    missing.eq(beats),
                    self._slots[s].scale.eq(item.scale),
                    self._slots[s].last_line.eq(item.num_lines - 1),
                    self._slots[s].last_group_line.eq(item.num_group_lines - 1),
                    self._slots[s].last_keep.eq(item.last_keep.as_value()),
                ]
            with m.Elif(self._counted[s]):
                m.d.sync += missing.eq(missing - 1)

    def _row_address(self, line: Value, slot: Value, group_line: Value) -> Value:
        return Cat(line, slot, group_line)[: len(Const(self.params.num_rows - 1))]

    def _pass1(self, m: Module) -> list[Value]:
        """Scale, store, and compare; returns the maxima of (line of the group, slot). Nothing here ever waits."""
        p, beat = self.params, self.score.payload
        position = p.mul_depth + p.tree_levels  # of the operands of the accumulating comparison
        valid = Signal(position)
        arriving = Cat(self.score.valid, valid)
        m.d.sync += valid.eq(arriving[:-1])
        is_last = beat.line == self._of_slot(beat.slot, "last_line")
        keep = named(m, "keep", self._of_slot(beat.slot, "last_keep") | (~is_last).replicate(p.lanes))
        keep = delay(m, "keep", keep, p.mul_depth)[-1]
        place = delay(m, "place", Cat(beat.slot, beat.group_line), position)
        line = delay(m, "line", beat.line, p.mul_depth)[-1]

        write = self._row_write
        slot, group_line = place[p.mul_depth][0], place[p.mul_depth][1:]
        m.d.comb += [write.en.eq(arriving[p.mul_depth]), write.addr.eq(self._row_address(line, slot, group_line))]
        scale = named(m, "scale", self._of_slot(beat.slot, "scale"))
        operands = []
        for s in range(p.queries_per_line):
            terms = []
            for j in range(p.lanes):
                k = s * p.lanes + j
                m.submodules[f"scale{k}"] = core = FpMulCore(params=FpMulParams(format=FP32, depth=p.mul_depth))
                m.d.comb += [
                    core.en.eq(arriving[: p.mul_depth]),
                    core.i.a.eq(beat.scores[k]),
                    core.i.b.eq(scale),
                    write.data[k].eq(core.o.y),
                ]
                terms.append(Mux(keep[j], core.o.y, MINUS_INF))
            for level in range(p.tree_levels):
                merged = []
                for k, (left, right) in enumerate(zip(terms[0::2], terms[1::2], strict=True)):
                    m.submodules[f"max{s}_{level}_{k}"] = core = FpMaxCore(params=FpMaxParams(depth=1))
                    m.d.comb += [core.en.eq(arriving[p.mul_depth + level]), core.i.a.eq(left), core.i.b.eq(right)]
                    merged.append(core.o.y)
                terms = merged
            operands += terms

        num_maxima = len(SLOTS) * p.lines_per_group
        enters, index = named(m, "max_enters", arriving[position - 1]), place[position - 1]
        fresh = Signal(num_maxima)  # nothing was compared yet
        for k in range(num_maxima):
            with m.If(self._opened[k % len(SLOTS)]):
                m.d.sync += fresh[k].eq(1)
            with m.Elif(enters & (index == k)):
                m.d.sync += fresh[k].eq(0)
        cores = [FpMaxCore(params=FpMaxParams(depth=1)) for _ in range(p.queries_per_line)]
        m.submodules.maxima = maxima = Accumulator(cores=cores, num_entries=num_maxima, neutral=MINUS_INF)
        m.d.comb += [
            maxima.valid.eq(enters),
            maxima.index.eq(index),
            maxima.fresh.eq(pick(list(fresh), index)),
            maxima.operand.eq(Cat(operands)),
        ]
        for s in SLOTS:
            m.d.comb += self._counted[s].eq(arriving[position] & (place[position][0] == s))
        return [maxima.entries[k] for k in range(num_maxima)]

    def _pass2(self, m: Module, maxima: list[Value]) -> None:
        """Read, subtract, exponentiate, narrow; collect words, and sum."""
        p = self.params
        advance = Signal()
        m.submodules.statistics = table = StatisticsTable(params=p)
        tag = self._rows_in_order(m, advance, table.room)
        valid = Signal(p.prob_cycles)
        arriving = Cat(self._read, valid)
        with m.If(advance):
            m.d.sync += valid.eq(arriving[:-1])

        def enables(position: int, depth: int) -> Value:
            return arriving[position : position + depth] & advance.replicate(depth)

        # Position 1 is the row read from memory.
        row = self._row_read
        line = Cat(tag.step, tag.word)
        m.d.comb += [row.en.eq(self._read), row.addr.eq(self._row_address(line, tag.slot, tag.group_line))]
        maximum = Signal(FP32.width * p.queries_per_line, reset_less=True)
        with m.If(self._read):
            m.d.sync += maximum.eq(pick(maxima, Cat(tag.slot, tag.group_line)))
        tags = delay(m, "tag", tag, p.prob_cycles, advance)

        probs: list[Value] = []
        for k in range(p.queries_per_line * p.lanes):
            m.submodules[f"sub{k}"] = sub = FpAddCore(params=FpAddParams(depth=p.add_depth))
            m.submodules[f"exp{k}"] = exp = Exp2Core(params=Exp2Params(depth=p.exp_depth))
            narrow = FpNarrowCore(params=FpNarrowParams(format=p.format, depth=p.narrow_depth))
            m.submodules[f"narrow{k}"] = narrow
            s, j = divmod(k, p.lanes)
            m.d.comb += [
                sub.en.eq(enables(1, p.add_depth)),
                sub.i.a.eq(row.data[k]),
                sub.i.b.eq(maximum[s * FP32.width : (s + 1) * FP32.width] ^ FP32.sign_mask),
                exp.en.eq(enables(1 + p.add_depth, p.exp_depth)),
                exp.i.a.eq(sub.o.y),
                narrow.en.eq(enables(1 + p.add_depth + p.exp_depth, p.narrow_depth)),
                narrow.i.a.eq(exp.o.y),
            ]
            probs.append(named(m, f"prob{k}", narrow.o.y & tags[-1].keep[j].replicate(p.format.width)))

        leaves = named(m, "leaves", valid[-1] & advance)
        self._words(m, probs, tags[-1], leaves)
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        total, total_due, total_tag = self._sum(m, probs, tags[-1], leaves)
        m.d.comb += [
            table.reserve.eq(self._read & tag.final),
            table.maximum.valid.eq(valid[0] & tags[1].final & advance),
            table.maximum.payload.m.eq(maximum),
            table.maximum.payload.group_line.eq(tags[1].group_line),
            table.maximum.payload.last.eq(tags[1].last),
            table.total.valid.eq(total_due & total_tag.final),
            table.total.payload.l.eq(total),
            table.total.payload.last.eq(total_tag.last),
        ]
        wiring.connect(m, table.o, wiring.flipped(self.stats))

    def _rows_in_order(self, m: Module, advance: Value, room: Value) -> data.View:
        """The row to read, with what its way through pass 2 needs: the counters of word, line of the group and line."""
        p = self.params
        layout = data.StructLayout(
            {
                "step": p.step_bits,  # line in the word
                "word": p.line_bits - p.step_bits,
                "group_line": p.group_line_bits,
                "slot": 1,
                "keep": p.lanes,
                "first": 1,  # line of the item
                "final": 1,  # line of the item
                "word_end": 1,
                "group_end": 1,  # the line of the group is the last of the item
                "last": 1,  # row of the item
            }
        )
        tag = Signal(layout)
        step, word, group_line = Signal(p.step_bits), Signal(p.line_bits - p.step_bits), Signal(p.group_line_bits)
        last_line = named(m, "read_last_line", self._of_slot(self._slot, "last_line"))
        group_end = named(m, "group_end", group_line == self._of_slot(self._slot, "last_group_line"))
        m.d.comb += [
            tag.step.eq(step),
            tag.word.eq(word),
            tag.group_line.eq(group_line),
            tag.slot.eq(self._slot),
            tag.first.eq(~step.any() & ~word.any()),
            tag.final.eq(Cat(step, word) == last_line),
            tag.keep.eq(self._of_slot(self._slot, "last_keep") | (~tag.final).replicate(p.lanes)),
            tag.word_end.eq(tag.final | step.all()),
            tag.group_end.eq(group_end),
            tag.last.eq(tag.final & group_end),
            self._read.eq(pick(list(self._complete), self._slot) & advance & (room | ~tag.final)),
        ]
        for s in SLOTS:
            m.d.comb += self._closed[s].eq(self._read & tag.last & (self._slot == s))
        with m.If(self._read):
            m.d.sync += step.eq(step + 1)
            with m.If(tag.word_end):
                m.d.sync += [step.eq(0), group_line.eq(group_line + 1)]
                with m.If(group_end):
                    m.d.sync += [group_line.eq(0), word.eq(word + 1)]
            with m.If(tag.last):
                m.d.sync += [word.eq(0), self._slot.eq(~self._slot)]
        return tag

    def _words(self, m: Module, probs: list[Value], tag: data.View, leaves: Value) -> None:
        """Collect the lines of a word in the registers of `o`."""
        p, word = self.params, self.o.payload
        full = Signal()
        with m.If(leaves):
            m.d.sync += full.eq(tag.word_end)
        with m.Elif(self.o.ready):
            m.d.sync += full.eq(0)
        m.d.comb += self.o.valid.eq(full)
        for k in range(p.word_lines):
            prob_line = Signal(p.format.width * len(probs), name=f"word_probs{k}", reset_less=True)
            keep_line = Signal(p.lanes, name=f"word_keep{k}", reset_less=True)
            with m.If(leaves & (tag.step == k)):
                m.d.sync += [prob_line.eq(Cat(probs)), keep_line.eq(tag.keep)]
            if k > 0:
                with m.Elif(leaves & (tag.step == 0)):
                    m.d.sync += [prob_line.eq(0), keep_line.eq(0)]
            for n in range(len(probs)):
                m.d.comb += word.probs[n * p.word_lines + k].eq(prob_line.word_select(n, p.format.width))
            for j in range(p.lanes):
                m.d.comb += word.keep[j * p.word_lines + k].eq(keep_line[j])
        for name in ("word", "group_line", "group_end", "last"):
            register = Signal(len(tag[name]), name=f"word_{name}", reset_less=True)
            with m.If(leaves):
                m.d.sync += register.eq(tag[name])
            m.d.comb += word[name].eq(register)

    def _sum(self, m: Module, probs: list[Value], tag: data.View, leaves: Value) -> tuple[Value, Value, data.View]:
        """Sums of a line of the group so far, a flag for new ones, and their tag. Nothing waits."""
        p = self.params
        position = p.tree_levels * p.add_depth  # of the operands of the accumulating additions
        valid = Signal(position + 1)
        arriving = Cat(leaves, valid)
        m.d.sync += valid.eq(arriving[:-1])
        tags = delay(m, "sum_tag", tag, position + 1)
        operands: list[Value] = []
        for s in range(p.queries_per_line):
            terms = [widen(m, probs[s * p.lanes + j], p.format, f"wide{s}_{j}") for j in range(p.lanes)]
            for level in range(p.tree_levels):
                sums = []
                for k, (left, right) in enumerate(zip(terms[0::2], terms[1::2], strict=True)):
                    m.submodules[f"add{s}_{level}_{k}"] = core = FpAddCore(params=FpAddParams(depth=p.add_depth))
                    begin = level * p.add_depth
                    m.d.comb += [
                        core.en.eq(arriving[begin : begin + p.add_depth]), core.i.a.eq(left), core.i.b.eq(right),
                    ]  # fmt: skip
                    sums.append(core.o.y)
                terms = sums
            operands += terms
        cores = [FpAddCore(params=FpAddParams(depth=1)) for _ in range(p.queries_per_line)]
        m.submodules.totals = totals = Accumulator(cores=cores, num_entries=p.lines_per_group, neutral=MINUS_ZERO)
        m.d.comb += [
            totals.valid.eq(arriving[position - 1]),
            totals.index.eq(tags[position - 1].group_line),
            totals.fresh.eq(tags[position - 1].first),
            totals.operand.eq(Cat(operands)),
        ]
        return totals.y, arriving[position + 1], tags[position + 1]
