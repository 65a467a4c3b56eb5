"""Check of a descriptor before it is queued."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.hostif.window import REFUSAL_BITS, Refusal
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of

__all__ = ["DescriptorCheck"]


class DescriptorCheck(wiring.Component):
    """The first reason to refuse a descriptor, as :class:`pimspec.hostif.window.Refusal` orders them. Combinational.

    Timing model: ``struct HostPort`` of ``host_side.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    line : In
        The line that the host writes: :attr:`pimspec.hostif.window.Window.descriptor`, and zeros above it.
    room : In(1)
        The queue of descriptors has a place.
    refusal : Out(REFUSAL_BITS)
        A :class:`~pimspec.hostif.window.Refusal`; NONE if there is no reason.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = params
        super().__init__({"line": In(params.line_bytes * 8), "room": In(1), "refusal": Out(REFUSAL_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p, w = self.params, self.params.window
        d = Signal(layout_of(w.descriptor))
        m.d.comb += d.eq(self.line)
        step_bits = (p.row_lines * p.num_chips - 1).bit_length()
        rows = Signal(w.tokens_bits)
        m.d.comb += rows.eq((d.tokens + ((1 << step_bits) - 1)) >> step_bits)
        k_end, v_end = d.k_row + rows, d.v_row + rows
        outside = (k_end > w.first_row) | (v_end > w.first_row)
        overlap = (d.k_row < v_end) & (d.v_row < k_end)
        rows_bits = (p.queries_at_once - 1).bit_length()
        aligned = ~(d.query[:rows_bits].any() | d.output[:rows_bits].any()) if rows_bits else 1
        exponent = d.scale[23:31]
        faults = [
            (~self.room, Refusal.QUEUE_FULL),
            (self.line[w.descriptor.width :].any(), Refusal.RESERVED),
            (d.tokens == 0, Refusal.BAD_TOKENS),
            (outside | overlap, Refusal.BAD_ROWS),
            ((d.last_query >= p.queries_at_once) | ~Cat(aligned).all(), Refusal.BAD_QUERIES),
            (d.scale[31] | (exponent == 0) | exponent.all(), Refusal.BAD_SCALE),
        ]
        chosen: Value | int = Refusal.NONE
        for fault, code in reversed(faults):
            chosen = Mux(fault, code, chosen)
        m.d.comb += self.refusal.eq(chosen)
        return m
