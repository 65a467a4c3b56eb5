"""Bank PU: turns the column accesses of one DRAM bank into scores (K) and sums (V)."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.fields import index_bits
from pimspec.formats import FP32
from pimspec.golden.dot import MODE_LANE, MODE_TREE
from pimspec.params.arith import FpAddParams, FpMulParams
from pimspec.params.bank_pu import BankPuParams

from .arith.bits import named
from .arith.fp_add import FpAddCore
from .arith.fp_mul import FpMulCore
from .pipeline import layout_of, pushed

__all__ = ["BankPu", "MacRow"]

MINUS_ZERO = FP32.sign_mask  # x + -0 is x for every x
SETS = 2  # of sums


class MacRow(wiring.Component):
    """Datapath of one query: multipliers, adders and the sums of the V phase; the control is that of all queries.

    The arithmetic is that of :class:`~.arith.dot.Dot`: in the K phase adders 1..lanes-1 are a pairwise tree and adder 0
    accumulates its root in its output register; in the V phase adder j adds product j to a sum. The sums lie in
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
        Sums to which the operands at the adders, and those behind them, belong (V): ``set * accesses_per_v + step``.
    select : In
        Sum to show: ``group * lanes + lane``, ``set * dims_per_bank + dim``.
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
                "group": In(index_bits(SETS * groups)),
                "done_group": In(index_bits(SETS * groups)),
                "select": In(index_bits(SETS * params.dims_per_bank)),
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
        own = named(m, "own", Array(sums)[self.group], p.lanes * FP32.width)
        if p.accesses_per_v * p.interval == p.add_depth:  # the next addition begins as the last one ends
            same = self.lane[-1] & (self.done_group == self.group)
            own = Mux(same, Cat(adder.o.y for adder in adders), own)

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
        m.d.comb += self.sum.eq(Array(words)[self.select])
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
        for g in range(SETS * self.params.accesses_per_v):
            kept = Signal(self.params.lanes * FP32.width, name=f"sums{g}", reset_less=True)
            with m.If(self.lane[-1] & (self.done_group == g)):
                m.d.sync += kept.eq(Cat(results))
            sums.append(kept)
        return sums


class BankPu(wiring.Component):
    """Bank PU beside one DRAM bank: an operand buffer, a datapath for each query, and a result buffer.

    A burst (`command`) says what the next `count` column accesses are. K: each token of ``params.accesses_per_k``
    accesses becomes one score a query, by the words ``start + step`` of the operand buffer. V: each token of
    ``params.accesses_per_v`` accesses is weighted with element ``t % lanes`` of word ``start + t // lanes`` and added
    to the sums of `set`; `first` starts new ones. A token whose `keep` bit in the operand buffer is 0 is weighted with
    -0, and its column is taken as 0, so that it adds -0, which changes nothing; as the first token of sums it makes
    them +0. `resume` goes on where the burst before stopped, be it inside a token: of the command, `count` alone is
    used. Sums outlast any K bursts in between. Each addition rounds to FP32; order, and what a broken token does, as in
    the golden model :func:`pimspec.golden.bank_pu.burst`; but behind a V token that is broken off for good the next
    access of V to the same set must come later than ``params.interval``, which `early` does not watch.

    DRAM data comes when it comes: `column` cannot be refused. `command` is ready when no burst is under way, or with
    its last column access, so that bursts follow one another without a bubble. An access in the clock that accepts a
    command does not belong to it. A burst of 0 accesses does nothing (a resumed one would begin at its start). An
    operand written in one clock is used by accesses from the next clock on; the `keep` bits of a word are those of its
    last write, whichever query that was for.

    Scores go to the result buffer `o`; sums stay where they are until a V burst with `first` overwrites them, and `sum`
    shows those of set `sum_set`, dim `sum_select` in the same clock. What went wrong is kept in `status`:

    * `overflow`: a score found the result buffer full and was lost;
    * `stray`: a column access came without a burst; it had no effect;
    * `early`: an access came less than ``params.interval`` after another, or in V less than ``params.mode_gap_cycles``
      after one of K: results from then on are not to be trusted.

    Latency from the last access of a K token to its score in `o` ``params.latency_cycles``, from an access of V to sums
    that contain it ``params.sum_latency_cycles``; interval ``params.interval``.

    Parameters
    ----------
    params : BankPuParams

    Members
    -------
    command : In(stream): mode (0 K, 1 V), first, set, resume, start, count
    operand : In: valid, payload (data (lanes x format), keep (lanes), address, row)
        Always accepted. A `row` that does not exist writes nothing.
    column : In: valid, payload (data (lanes x format))
    o : Out(stream): y (rows x 32)
        Scores.
    sum_select : In
        A dim, 0..dims_per_bank - 1.
    sum : Out(rows x 32)
        Its sums, without a register in between. While a V burst runs they are those of some moment.
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
        super().__init__(
            {
                "command": In(stream.Signature(layout_of(params.commands))),
                "operand": In(pushed(layout_of(params.operands))),
                "column": In(pushed(layout_of(params.inputs))),
                "o": Out(stream.Signature(layout_of(params.outputs))),
                "sum_select": In(params.dim_width),
                "sum_set": In(1),
                "sum": Out(data.ArrayLayout(FP32.width, params.queries_at_once)),
                "status": Out(layout_of(params.status)),
                "status_clear": In(1),
            }
        )
        p = params
        self._take = Signal()  # a column access of a burst arrives
        self._mode, self._first, self._set = Signal(), Signal(), Signal()
        self._left = Signal(range(p.max_columns + 1))
        self._address = Signal(p.address_width)
        self._lane = Signal(index_bits(p.lanes))  # element of the operand word (V)
        self._step = Signal(index_bits(max(p.accesses_per_k, p.accesses_per_v)))
        self._token_end = Signal()
        self._overflow = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        self._sequence(m)
        rows = [MacRow(params=p) for _ in range(p.queries_at_once)]
        for r, row in enumerate(rows):
            m.submodules[f"row{r}"] = row
        self._operands(m, rows)
        self._pipeline(m, rows)
        self._watch(m)
        return m

    def _sequence(self, m: Module) -> None:
        """Bursts, and the position of a column access in its burst."""
        p, command = self.params, self.command.payload
        base = Signal(p.address_width)
        ending, token_end, accepted = Signal(), self._token_end, Signal()
        last_step = Mux(self._mode == MODE_LANE, p.accesses_per_v - 1, p.accesses_per_k - 1)
        m.d.comb += [
            self._take.eq(self.column.valid & (self._left != 0)),
            ending.eq(self._take & (self._left == 1)),
            token_end.eq(self._step == last_step),
            self.command.ready.eq((self._left == 0) | ending),
            accepted.eq(self.command.valid & self.command.ready),
        ]
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
        with m.If(accepted):
            m.d.sync += self._left.eq(command.count)
        with m.If(accepted & ~command.resume):
            m.d.sync += [
                self._mode.eq(command.mode),
                self._first.eq(command.first),
                self._set.eq(command.set),
                self._address.eq(command.start),
                base.eq(command.start),
                self._lane.eq(0),
                self._step.eq(0),
            ]

    def _operands(self, m: Module, rows: Sequence[MacRow]) -> None:
        """Registers of the column access and of its operands: position 0."""
        p = self.params
        word = data.ArrayLayout(p.column_bits, p.queries_at_once)
        m.submodules.buffer = buffer = memory.Memory(shape=word, depth=p.operand_words, init=[])
        m.submodules.existing = existing = memory.Memory(shape=p.lanes, depth=p.operand_words, init=[])
        write, read = buffer.write_port(granularity=1), buffer.read_port()
        keep_write, keep_read = existing.write_port(), existing.read_port()
        operand = self.operand.payload
        m.d.comb += [
            write.addr.eq(operand.address),
            write.data.eq(operand.data.as_value().replicate(p.queries_at_once)),
            write.en.eq(Cat(self.operand.valid & (operand.row == r) for r in range(p.queries_at_once))),
            keep_write.addr.eq(operand.address),
            keep_write.data.eq(operand.keep),
            keep_write.en.eq(write.en.any()),
            *(each.addr.eq(self._address) for each in (read, keep_read)),
            *(each.en.eq(self._take) for each in (read, keep_read)),
        ]
        column, lane = Signal(p.column_bits, reset_less=True), Signal(index_bits(p.lanes), reset_less=True)
        is_lane, first = Signal(reset_less=True), Signal(reset_less=True)
        with m.If(self._take):
            m.d.sync += [
                column.eq(self.column.payload.as_value()),
                lane.eq(self._lane),
                is_lane.eq(self._mode == MODE_LANE),
                first.eq(self._first),
            ]
        absent = named(m, "absent", is_lane & ~Array(keep_read.data[j] for j in range(p.lanes))[lane])
        # A product of -0 changes no sum. Added to -0, as the first one is, +0 gives +0.
        zero = named(m, "zero", Mux(first, 0, p.format.sign_mask), p.format.width)
        present_column = named(m, "present_column", Mux(absent, 0, column))
        for r, row in enumerate(rows):
            elements = [read.data[r].word_select(j, p.format.width) for j in range(p.lanes)]
            prob = named(m, f"prob{r}", Array(elements)[lane] if p.lanes > 1 else elements[0], p.format.width)
            weight = named(m, f"weight{r}", Mux(absent, zero, prob))
            m.d.comb += [
                row.column.eq(present_column),
                row.operand.eq(Mux(is_lane, weight.replicate(p.lanes), read.data[r])),
                row.select.eq(self.sum_set * p.dims_per_bank + self.sum_select),
                self.sum[r].eq(row.sum),
            ]

    def _pipeline(self, m: Module, rows: Sequence[MacRow]) -> None:
        """Operand sets at the positions of the datapath, and the buffer of the scores that leave it."""
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
        group = Cat(self._step[: (p.accesses_per_v - 1).bit_length()], self._set)
        groups = positions("group", named(m, "group", group), lane_end)
        for row in rows:
            m.d.comb += [
                row.tree.eq(tree),
                row.lane.eq(lane),
                row.tree_first.eq(tree_first),
                row.lane_first.eq(lane_first),
                row.group.eq(groups[p.mul_depth]),
                row.done_group.eq(groups[lane_end]),
            ]
        score_due = named(m, "score_due", tree[-1] & tree_last)
        m.submodules.results = results = fifo.SyncFIFO(width=p.outputs.width, depth=p.result_words)
        m.d.comb += [
            results.w_data.eq(Cat(row.score for row in rows)),
            results.w_en.eq(score_due),
            self.o.valid.eq(results.r_rdy),
            self.o.payload.eq(results.r_data),
            results.r_en.eq(self.o.ready),
            self._overflow.eq(score_due & ~results.w_rdy),
        ]

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
