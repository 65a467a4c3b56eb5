"""The dot-product unit of a bank PU: adder tree for q.K, per-lane accumulation for p.V."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from pimspec.formats import FP32
from pimspec.golden.dot import MODE_LANE
from pimspec.params.arith import DotParams, FpAddParams, FpMulParams

from ..pipeline import StreamComponent
from .fp_add import FpAddCore
from .fp_mul import FpMulCore

__all__ = ["Dot"]

MINUS_ZERO = FP32.sign_mask  # x + -0 is x for every x


class Dot(StreamComponent):
    """Dot-product unit: `lanes` multipliers and `lanes` FP32 adders that serve both modes of a bank PU.

    Tree mode: adders 1..lanes-1 form a pairwise tree over the products and adder 0 accumulates its root,
    ``acc = acc + tree(a*b)``. Lane mode: adder j accumulates product j, ``acc[j] = acc[j] + a[j]*b[j]``. Products and
    sums are FP32, each addition rounds (policy of :mod:`pimspec.formats`); the first set of an accumulation is added to
    -0 and so kept as it is. The output register of an adder is the accumulator: nothing else holds state.

    One operand set is accepted every ``params.interval`` cycles without bubbles, also from one accumulation to the
    next. A set whose `mode` differs from the one in flight waits until the pipeline is empty. The pipeline stands still
    while a result is not taken. Latency from the set with `last`: ``params.latency_cycles`` in tree mode,
    ``params.lane_latency_cycles`` in lane mode. Golden: :func:`pimspec.golden.dot.dot`.

    Parameters
    ----------
    params : DotParams

    Members
    -------
    i : In(stream): a (lanes x format), b (lanes x format), mode (0 tree, 1 lane), first, last
    o : Out(stream): y (lanes x 32; in tree mode the sum is in lane 0 and the rest is 0), mode

    Raises
    ------
    UnsupportedFormatError, ParameterError
        From :class:`DotParams`.
    """

    def __init__(self, *, params: DotParams) -> None:
        super().__init__(params=params)
        # Position k of these shift registers says what the operand set accepted k+1 cycles ago is.
        self._valid, self._first, self._last = (
            Signal(params.latency_cycles, name=n) for n in ("valid", "first", "last")
        )
        self._mode, self._advance, self._accept = Signal(), Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._flow(m)
        products = self._multipliers(m)
        sums = self._adders(m, products)
        self._results(m, sums)
        return m

    @property
    def _lane_mode(self) -> Value:
        return self._mode == MODE_LANE

    def _flow(self, m: Module) -> None:
        """Acceptance of operand sets, and their progress through the pipeline."""
        p, operands = self.params, self.i.payload
        # In lane mode a set is done at `lane_latency_cycles`: it must not travel on and keep the pipeline busy.
        lane_end = Const(1 << (p.lane_latency_cycles - 1), p.latency_cycles)
        travels = self._valid & ~Mux(self._lane_mode, lane_end, 0)
        with m.If(self._advance):
            m.d.sync += [
                self._valid.eq(Cat(self._accept, travels)),
                self._first.eq(Cat(operands.first, self._first)),
                self._last.eq(Cat(operands.last, self._last)),
            ]
        with m.If(self._accept):
            m.d.sync += self._mode.eq(operands.mode)

        turn = Const(1)
        if p.interval > 1:
            wait = Signal(range(p.interval))
            turn = wait == 0
            with m.If(self._advance):
                with m.If(self._accept):
                    m.d.sync += wait.eq(p.interval - 1)
                with m.Elif(~turn):
                    m.d.sync += wait.eq(wait - 1)
        empty = ~self._valid.any()
        m.d.comb += [
            self._advance.eq(self.o.ready | ~self.o.valid),
            self.i.ready.eq(self._advance & turn & (empty | (operands.mode == self._mode))),
            self._accept.eq(self.i.ready & self.i.valid),
        ]

    def _enables(self, position: int, depth: int) -> Value:
        """Enables of the register stages of a core whose operands are at pipeline position `position`."""
        arriving = Cat(self._accept, self._valid)
        return arriving[position : position + depth] & self._advance.replicate(depth)

    def _multipliers(self, m: Module) -> list[Value]:
        p, operands = self.params, self.i.payload
        products = []
        for j in range(p.lanes):
            core = FpMulCore(params=FpMulParams(format=p.format, depth=p.mul_depth))
            m.submodules[f"mul{j}"] = core
            enables = self._enables(0, p.mul_depth)
            m.d.comb += [core.en.eq(enables), core.i.a.eq(operands.a[j]), core.i.b.eq(operands.b[j])]
            products.append(core.o.y)
        return products

    def _adders(self, m: Module, products: list[Value]) -> list[Value]:
        """Adders: adder 0 is the root, and the others take their places in the tree in order; lane j in lane mode."""
        p = self.params
        adders = [FpAddCore(params=FpAddParams(depth=p.add_depth)) for _ in products]
        for j, adder in enumerate(adders):
            m.submodules[f"add{j}"] = adder
        terms, lane = list(products), 1
        for level in range(p.tree_levels):
            sums = []
            for left, right in zip(terms[0::2], terms[1::2], strict=True):
                self._wire_adder(m, adders[lane], products[lane], (left, right), level)
                sums.append(adders[lane].o.y)
                lane += 1
            terms = sums
        self._wire_adder(m, adders[0], products[0], (terms[0], None), p.tree_levels)
        return [adder.o.y for adder in adders]

    def _wire_adder(
        self, m: Module, adder: FpAddCore, product: Value, tree: tuple[Value, Value | None], level: int
    ) -> None:
        """Operands and enables of an adder: accumulate `product` in lane mode; add `tree`, or sum up at the root."""
        p = self.params
        position = p.mul_depth + level * p.add_depth
        lane_starts, tree_starts = self._first[p.mul_depth - 1], self._first[position - 1]
        starts = lane_starts if tree[1] is not None else Mux(self._lane_mode, lane_starts, tree_starts)
        own = Mux(starts, MINUS_ZERO, adder.o.y)
        lane_enables, tree_enables = self._enables(p.mul_depth, p.add_depth), self._enables(position, p.add_depth)
        m.d.comb += [
            adder.i.a.eq(Mux(self._lane_mode, product, tree[0])),
            adder.i.b.eq(own if tree[1] is None else Mux(self._lane_mode, own, tree[1])),
            adder.en.eq(Mux(self._lane_mode, lane_enables, tree_enables)),
        ]

    def _results(self, m: Module, sums: list[Value]) -> None:
        p = self.params
        done = self._valid & self._last
        m.d.comb += [
            self.o.valid.eq(Mux(self._lane_mode, done[p.lane_latency_cycles - 1], done[p.latency_cycles - 1])),
            self.o.payload.mode.eq(self._mode),
            self.o.payload.y[0].eq(sums[0]),
        ]
        for j in range(1, p.lanes):
            m.d.comb += self.o.payload.y[j].eq(sums[j] & self._lane_mode.replicate(FP32.width))
