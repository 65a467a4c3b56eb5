"""Cuts the contexts of descriptors into segments."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pimspec.registers import Window
from pimspec.system import PimRankParams

from ..pipeline import layout_of

__all__ = ["ItemCutter"]


class ItemCutter(wiring.Component):
    """Turns each descriptor into items, one for each segment of ``params.segment_tokens`` tokens; the last is shorter.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    i : In(stream.Signature(Window(params).descriptor))
        Taken with its last item.
    o : Out(stream.Signature(params.item))
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        super().__init__(
            {
                "i": In(stream.Signature(layout_of(Window(params).descriptor))),
                "o": Out(stream.Signature(layout_of(params.item))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, given, item = self.params, self.i.payload, self.o.payload
        begun = Signal()
        cut = Signal(given.tokens.shape())  # tokens already handed out
        row = Signal(given.k_row.shape())  # and their rows
        left, tokens = Signal(given.tokens.shape()), Signal(range(p.segment_tokens + 1))
        whole, rest = Signal(range(p.segment_lines + 1)), Signal(range(p.num_chips))
        chip_bits = (p.num_chips - 1).bit_length()
        m.d.comb += [
            left.eq(given.tokens - cut),
            item.final.eq(left <= p.segment_tokens),
            tokens.eq(Mux(item.final, left, p.segment_tokens)),
            whole.eq(tokens >> chip_bits),
            rest.eq(tokens[:chip_bits]),
            item.lines.eq(whole + (rest != 0)),
            item.last_keep.eq(Mux(rest == 0, (1 << p.num_chips) - 1, (1 << rest) - 1)),
            item.k_row.eq(given.k_row + row),
            item.v_row.eq(given.v_row + row),
            item.last_pair.eq(given.last_query >> (p.streams.bit_length() - 1)),
            item.last_query.eq(given.last_query),
            item.query.eq(given.query),
            item.output.eq(given.output),
            item.scale.eq(given.scale),
            item.first.eq(~begun),
            item.normalise.eq(given.normalise),
            item.serial.eq(given.serial),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.i.valid & self.o.ready & item.final),
        ]
        with m.If(self.i.valid & self.o.ready):
            m.d.sync += [
                begun.eq(~item.final),
                cut.eq(Mux(item.final, 0, cut + p.segment_tokens)),
                row.eq(Mux(item.final, 0, row + p.segment_rows)),
            ]
        return m
