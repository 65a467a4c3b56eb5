"""Descriptor expander: unrolls descriptors into micro-ops."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.isa import MicroKind
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["DescriptorExpander"]


class DescriptorExpander(wiring.Component):
    """Expander of descriptors into micro-ops: those of a program for one kv_head whose rows follow one another.

    WR_QUERIES; for each segment of ``params.segment_tokens`` tokens, the last of which is shorter, SOFTMAX, a MAC_K for
    each row step, a MAC_V for each row step, MERGE. Micro-ops that only say what is done anyway are left out.

    Timing model: ``struct DescriptorExpander`` of ``sequencer.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i : In(stream.Signature(params.window.descriptor))
        Taken with its last micro-op.
    o : Out(stream.Signature(params.micro_op))
    begun : Out(1)
        A descriptor is under way.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(params.window.descriptor))),
                "o": Out(stream.Signature(layout_of(params.micro_op))),
                "begun": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, given, op = self.params, self.i.payload, self.o.payload
        kind = Signal(MicroKind, init=MicroKind.WR_QUERIES)
        cut = Signal(given.tokens.shape())  # tokens of earlier segments
        row, step = Signal(given.k_row.shape()), Signal(range(p.segment_rows))  # row steps before, and in this segment
        left, tokens = Signal(given.tokens.shape()), Signal(range(p.segment_tokens + 1))
        final, last_step, go = Signal(), Signal(), Signal()
        whole, rest = Signal(range(p.segment_lines + 1)), Signal(range(p.num_chips))
        chip_bits, row_bits = (p.num_chips - 1).bit_length(), (p.row_lines * p.num_chips - 1).bit_length()
        m.d.comb += [
            left.eq(given.tokens - cut),
            final.eq(left <= p.segment_tokens),
            tokens.eq(Mux(final, left, p.segment_tokens)),
            last_step.eq(step == (tokens - 1) >> row_bits),
            whole.eq(tokens >> chip_bits),
            rest.eq(tokens[:chip_bits]),
            op.kind.eq(kind),
            op.buffer_entry.eq(Mux(kind == MicroKind.MERGE, given.output, given.query)),
            op.last_query.eq(given.last_query),
            op.row.eq(Mux(kind == MicroKind.MAC_K, given.k_row, given.v_row) + row + step),
            op.lines.eq(whole + (rest != 0)),
            op.last_keep.eq(Mux(rest == 0, (1 << p.num_chips) - 1, (1 << rest) - 1)),
            op.scale.eq(given.scale),
            op.first.eq(cut == 0),
            op.final.eq(final),
            op.normalise.eq(given.normalise),
            op.static_order.eq(given.static_order),
            self.o.valid.eq(self.i.valid),
            go.eq(self.o.valid & self.o.ready),
            self.begun.eq(kind != MicroKind.WR_QUERIES),
        ]
        with m.If(go), m.Switch(kind):
            with m.Case(MicroKind.WR_QUERIES):
                m.d.sync += kind.eq(MicroKind.SOFTMAX)
            with m.Case(MicroKind.SOFTMAX):
                m.d.sync += kind.eq(MicroKind.MAC_K)
            with m.Case(MicroKind.MAC_K, MicroKind.MAC_V):
                m.d.sync += step.eq(step + 1)
                with m.If(last_step):
                    m.d.sync += [
                        step.eq(0),
                        kind.eq(Mux(kind == MicroKind.MAC_K, MicroKind.MAC_V, MicroKind.MERGE)),
                    ]
            with m.Case(MicroKind.MERGE):
                m.d.comb += self.i.ready.eq(final)
                m.d.sync += [
                    kind.eq(Mux(final, MicroKind.WR_QUERIES, MicroKind.SOFTMAX)),
                    cut.eq(Mux(final, 0, cut + p.segment_tokens)),
                    row.eq(Mux(final, 0, row + p.segment_rows)),
                ]
        return m
