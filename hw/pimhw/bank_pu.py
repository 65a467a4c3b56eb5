"""The bank PU: turns the column accesses of one DRAM bank into scores (K) and sums (V)."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.bank_params import BankPuParams
from pimspec.formats import FP32
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.params import FpAddParams, FpMulParams

from .arith.bits import named
from .arith.fp_add import FpAddCore
from .arith.fp_mul import FpMulCore
from .pipeline import layout_of

__all__ = ["BankPu", "MacRow"]

MINUS_ZERO = FP32.sign_mask  # x + -0 is x for every x


def _index_width(n: int) -> int:
    return max(1, (n - 1).bit_length())


class MacRow(wiring.Component):
    """The datapath of one query: multipliers, adders and the sums of the V phase; the control is that of all queries.

    The arithmetic is that of :class:`~.arith.dot.Dot`: in the K phase adders 1..lanes-1 are a pairwise tree and
    adder 0 accumulates its root in its output register; in the V phase adder j adds product j to a sum. The sums lie in
    registers of their own, one set for each column access of a token, so that they outlast K bursts.

    Pipeline positions: an operand set stands at the multipliers at position 0, at the adders of lanes at `mul_depth`,
    at level k of the tree at ``mul_depth + k * add_depth``. No two sets may meet at an adder.

    Parameters
    ----------
    params : BankPuParams

    Members
    -------
    column, operand : In(lanes x format)
        Operands at position 0.
    tree : In(dot.latency_cycles + 1), lane : In(dot.lane_latency_cycles + 1)
        Bit k: a set of that phase stands at position k.
    tree_first, lane_first : In(1)
        The set at adder 0 (K), at the adders (V), starts a sum.
    group, done_group : In
        Which sums the set at the adders and the one behind them belong to (V).
    select : In
        Which sum to show: ``group * lanes + lane``.
    score : Out(32), sum : Out(32)
        The sum of K, right for a set at the last position, and the selected sum of V.
    """

    def __init__(self, *, params: BankPuParams) -> None:
        self.params = params
        elements, groups = data.ArrayLayout(params.format.width, params.lanes), params.accesses_per_v
        super().__init__(
            {
                "column": In(elements),
                "operand": In(elements),
                "tree": In(params.dot.latency_cycles + 1),
                "lane": In(params.dot.lane_latency_cycles + 1),
                "tree_first": In(1),
                "lane_first": In(1),
                "group": In(_index_width(groups)),
                "done_group": In(_index_width(groups)),
                "select": In(_index_width(params.dims_per_bank)),
                "score": Out(FP32.width),
                "sum": Out(FP32.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, at_adders = self.params, self.params.mul_depth
        products = self._multipliers(m)
        adders = [FpAddCore(params=FpAddParams(depth=p.add_depth)) for _ in products]
        for j, adder in enumerate(adders):
            m.submodules[f"add{j}"] = adder
        sums = self._sums(m, [adder.o.y for adder in adders])

        is_lane = self.lane[at_adders]
        own = Array(sums)[self.group] if p.accesses_per_v > 1 else sums[0]
        own = named(m, "own", own, p.lanes * FP32.width)
        if p.accesses_per_v * p.interval == p.add_depth:  # the next addition begins as the last one ends
            own = Mux(self.lane[-1], Cat(adder.o.y for adder in adders), own)

        def wire(j: int, left: Value, right: Value, level: int) -> None:
            addend = Mux(self.lane_first, MINUS_ZERO, own.word_select(j, FP32.width))
            position = at_adders + level * p.add_depth
            lane_enables = self.lane[at_adders : at_adders + p.add_depth]
            m.d.comb += [
                adders[j].i.a.eq(Mux(is_lane, products[j], left)),
                adders[j].i.b.eq(Mux(is_lane, addend, right)),
                adders[j].en.eq(lane_enables | self.tree[position : position + p.add_depth]),
            ]

        terms, lane = list(products), 1
        for level in range(p.dot.tree_levels):
            parents = []
            for left, right in zip(terms[0::2], terms[1::2], strict=True):
                wire(lane, left, right, level)
                parents.append(adders[lane].o.y)
                lane += 1
            terms = parents
        wire(0, terms[0], Mux(self.tree_first, MINUS_ZERO, adders[0].o.y), p.dot.tree_levels)
        m.d.comb += self.score.eq(adders[0].o.y)
        words = [each.word_select(j, FP32.width) for each in sums for j in range(p.lanes)]
        m.d.comb += self.sum.eq(Array(words)[self.select] if len(words) > 1 else words[0])
        return m

    def _multipliers(self, m: Module) -> list[Value]:
        p = self.params
        products = []
        arriving = named(m, "arriving", self.tree[: p.mul_depth] | self.lane[: p.mul_depth])
        for j in range(p.lanes):
            m.submodules[f"mul{j}"] = core = FpMulCore(params=FpMulParams(format=p.format, depth=p.mul_depth))
            m.d.comb += [core.en.eq(arriving), core.i.a.eq(self.column[j]), core.i.b.eq(self.operand[j])]
            products.append(core.o.y)
        return products

    def _sums(self, m: Module, results: Sequence[Value]) -> list[Signal]:
        sums = []
        for g in range(self.params.accesses_per_v):
            kept = Signal(self.params.lanes * FP32.width, name=f"sums{g}", reset_less=True)
            with m.If(self.lane[-1] & (self.done_group == g)):
                m.d.sync += kept.eq(Cat(results))
            sums.append(kept)
        return sums


class BankPu(wiring.Component):
    """What stands beside one DRAM bank: an operand buffer, a datapath for each query, and a result buffer.

    A burst (`command`) says what the next `count` column accesses are. K: each token of ``params.accesses_per_k``
    accesses becomes one score a query, by the words ``start + step`` of the operand buffer. V: each token of
    ``params.accesses_per_v`` accesses is weighted with element ``t % lanes`` of word ``start + t // lanes`` and added
    to the sums; `first` starts new sums, `last` delivers them behind the burst, ``params.dims_per_bank`` results in the
    order of the dims. Sums outlast any K bursts in between. Each addition rounds to FP32; order, and what a broken
    token does, as in the golden model :func:`pimspec.golden.bank_pu.burst`.

    DRAM data comes when it comes: `column` cannot be refused. `command` is ready when no burst is under way, or with
    its last column access, so that bursts follow one another without a bubble. An access in the clock that accepts a
    command does not belong to it. A burst of 0 accesses is nothing at all. An operand written in one clock is used by
    accesses from the next clock on.

    Scores have the right of way into the result buffer; sums wait while it has fewer than two free places, so that
    one is left for a score. What went wrong is kept in `status`:

    * `overflow`: a score found the result buffer full and was lost, or a sum was overwritten before it was delivered
      (``params.sum_gap_cycles``);
    * `stray`: a column access came without a burst; it had no effect;
    * `early`: an access came less than ``params.interval`` after another, or in V less than ``params.mode_gap_cycles``
      after one of K: results from then on are not to be trusted.

    Latency from the last access of a K token to its result ``params.latency_cycles``, from the last of a V segment to
    the first of its sums ``params.sum_latency_cycles``; interval ``params.interval``.

    Parameters
    ----------
    params : BankPuParams

    Members
    -------
    command : In(stream): mode (0 K, 1 V), first, last, start, count
    operand : In: valid, payload (data (lanes x format), address, row)
        Always accepted.
    column : In: valid, payload (data (lanes x format))
    o : Out(stream): y (rows x 32), mode
    status : Out: overflow, stray, early
    status_clear : In(1)
        Clears `status`; what happens in the same clock is still noted.

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`BankPuParams`.
    """

    def __init__(self, *, params: BankPuParams) -> None:
        self.params = params

        def pushed(layout: data.Layout) -> wiring.Signature:
            return wiring.Signature({"valid": Out(1), "payload": Out(layout)})

        super().__init__(
            {
                "command": In(stream.Signature(layout_of(params.commands))),
                "operand": In(pushed(layout_of(params.operands))),
                "column": In(pushed(layout_of(params.inputs))),
                "o": Out(stream.Signature(layout_of(params.outputs))),
                "status": Out(layout_of(params.status)),
                "status_clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        self._take = Signal()  # a column access of a burst arrives
        self._mode, self._first, self._last = Signal(), Signal(), Signal()
        self._left = Signal(range(p.max_columns + 1))
        self._address = Signal(p.address_width)
        self._lane = Signal(_index_width(p.lanes))  # element of the operand word (V)
        self._step = Signal(_index_width(max(p.accesses_per_k, p.accesses_per_v)))
        self._overflow = Signal()
        self._sequence(m)
        m.submodules += (rows := [MacRow(params=p) for _ in range(p.rows)])
        self._operands(m, rows)
        self._pipeline(m, rows)
        self._results(m, rows)
        self._watch(m)
        return m

    def _sequence(self, m: Module) -> None:
        """Bursts, and where in its burst a column access stands."""
        p, command = self.params, self.command.payload
        base = Signal(p.address_width)
        ending, token_end = Signal(), Signal()
        last_step = Mux(self._mode == MODE_LANE, p.accesses_per_v - 1, p.accesses_per_k - 1)
        m.d.comb += [
            self._take.eq(self.column.valid & (self._left != 0)),
            ending.eq(self._take & (self._left == 1)),
            token_end.eq(self._step == last_step),
            self.command.ready.eq((self._left == 0) | ending),
        ]
        self._ending = ending
        self._token_end = token_end
        with m.If(self._take):
            m.d.sync += [self._left.eq(self._left - 1), self._step.eq(Mux(token_end, 0, self._step + 1))]
            with m.If(self._mode == MODE_TREE):
                m.d.sync += self._address.eq(Mux(token_end, base, self._address + 1))
            with m.Elif(token_end):
                m.d.sync += [
                    self._first.eq(0),
                    self._lane.eq(Mux(self._lane == p.lanes - 1, 0, self._lane + 1)),
                    self._address.eq(self._address + (self._lane == p.lanes - 1)),
                ]
        with m.If(self.command.ready & self.command.valid):
            m.d.sync += [
                self._mode.eq(command.mode),
                self._first.eq(command.first),
                self._last.eq(command.last),
                self._left.eq(command.count),
                self._address.eq(command.start),
                base.eq(command.start),
                self._lane.eq(0),
                self._step.eq(0),
            ]

    def _operands(self, m: Module, rows: Sequence[MacRow]) -> None:
        """Registers of the column access and of its operands: position 0."""
        p = self.params
        word = data.ArrayLayout(p.column_bits, p.rows)
        m.submodules.buffer = buffer = memory.Memory(shape=word, depth=p.operand_words, init=[])
        write, read = buffer.write_port(granularity=1), buffer.read_port()
        write_row = self.operand.payload.row
        m.d.comb += [
            write.addr.eq(self.operand.payload.address),
            write.data.eq(self.operand.payload.data.as_value().replicate(p.rows)),
            write.en.eq(Cat(self.operand.valid & (write_row == r) for r in range(p.rows))),
            read.addr.eq(self._address),
            read.en.eq(self._take),
        ]
        column, lane = Signal(p.column_bits, reset_less=True), Signal(_index_width(p.lanes), reset_less=True)
        is_lane = Signal(reset_less=True)
        with m.If(self._take):
            m.d.sync += [
                column.eq(self.column.payload.as_value()),
                lane.eq(self._lane),
                is_lane.eq(self._mode == MODE_LANE),
            ]
        for r, row in enumerate(rows):
            elements = [read.data[r].word_select(j, p.format.width) for j in range(p.lanes)]
            prob = named(m, f"prob{r}", Array(elements)[lane] if p.lanes > 1 else elements[0], p.format.width)
            m.d.comb += [
                row.column.eq(column),
                row.operand.eq(Mux(is_lane, prob.replicate(p.lanes), read.data[r])),
            ]

    def _pipeline(self, m: Module, rows: Sequence[MacRow]) -> None:
        """What stands at which position of the datapath."""
        p = self.params
        tree_end, lane_end = p.dot.latency_cycles, p.dot.lane_latency_cycles
        tree, lane = Signal(tree_end + 1), Signal(lane_end + 1)
        m.d.sync += [
            tree.eq(Cat(self._take & (self._mode == MODE_TREE), tree)),
            lane.eq(Cat(self._take & (self._mode == MODE_LANE), lane)),
        ]

        def positions(name: str, value: Value, end: int) -> list[Signal]:
            """`value` of the sets at positions 0 to `end`."""
            registers: list[Signal] = []
            for k in range(end + 1):
                register = Signal(value.shape(), name=f"{name}{k}", reset_less=True)
                m.d.sync += register.eq(registers[-1] if registers else value)
                registers.append(register)
            return registers

        token_first = named(m, "token_first", self._step == 0)
        tree_first = positions("tree_first", token_first, tree_end - p.add_depth)[-1]
        tree_last = positions("tree_last", self._token_end, tree_end)[-1]
        lane_first = positions("lane_first", self._first, p.mul_depth)[-1]
        lane_last = positions("lane_last", named(m, "segment_end", self._ending & self._last), lane_end)[-1]
        groups = positions("group", self._step[: _index_width(p.accesses_per_v)], lane_end)
        for row in rows:
            m.d.comb += [
                row.tree.eq(tree),
                row.lane.eq(lane),
                row.tree_first.eq(tree_first),
                row.lane_first.eq(lane_first),
                row.group.eq(groups[p.mul_depth]),
                row.done_group.eq(groups[lane_end]),
            ]
        self._score_due = tree[-1] & tree_last
        self._sum_done, self._sums_due, self._done_group = lane[-1], lane[-1] & lane_last, groups[lane_end]

    def _results(self, m: Module, rows: Sequence[MacRow]) -> None:
        p = self.params
        m.submodules.results = results = fifo.SyncFIFO(width=p.outputs.width, depth=p.result_words)
        sending, dim = Signal(), Signal(_index_width(p.dims_per_bank))
        score_due = named(m, "score_due", self._score_due)
        sum_fits = named(m, "sum_fits", results.level < p.result_words - 1)
        words = [Mux(score_due, row.score, row.sum) for row in rows]
        m.d.comb += [
            results.w_data.eq(Cat(*words, Mux(score_due, MODE_TREE, MODE_LANE))),
            results.w_en.eq(score_due | (sending & sum_fits)),
            self.o.valid.eq(results.r_rdy),
            self.o.payload.eq(results.r_data),
            results.r_en.eq(self.o.ready),
        ]
        m.d.comb += [row.select.eq(dim) for row in rows]
        with m.If(sending & sum_fits & ~score_due):
            m.d.sync += dim.eq(dim + 1)
            with m.If(dim == p.dims_per_bank - 1):
                m.d.sync += [dim.eq(0), sending.eq(0)]
        with m.If(self._sums_due):
            m.d.sync += [dim.eq(0), sending.eq(1)]
        overwritten = sending & self._sum_done
        if p.accesses_per_v > 1:
            overwritten &= self._done_group >= dim[p.dot.tree_levels :]
        m.d.comb += self._overflow.eq((score_due & ~results.w_rdy) | overwritten)

    def _watch(self, m: Module) -> None:
        """Status bits."""
        p = self.params
        was_tree, longest = Signal(), p.mode_gap_cycles
        since = Signal(range(longest + 1), init=longest)  # clocks since the last column access, at most `longest`
        is_lane = self._mode == MODE_LANE
        early = self._take & ((since < p.interval) | (is_lane & was_tree & (since < p.mode_gap_cycles)))
        with m.If(self._take):
            m.d.sync += [since.eq(1), was_tree.eq(~is_lane)]
        with m.Elif(since != longest):
            m.d.sync += since.eq(since + 1)
        stray = self.column.valid & (self._left == 0)
        noted = Cat(self._overflow, stray, early)
        m.d.sync += self.status.eq(noted | Mux(self.status_clear, 0, self.status.as_value()))
