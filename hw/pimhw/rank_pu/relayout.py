"""Byte re-layout in flight: both bytes of a 16-bit element onto one x8 chip."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.rank_pu import RelayoutParams

from ..pipeline import layout_of

__all__ = ["Relayout"]


class Relayout(wiring.Component):
    """Byte re-layout: a 2x2 byte transpose per chip pair (2j, 2j+1) and DQ beat pair (2i, 2i+1).

    On the host's side byte c of a DQ beat belongs to chip c, so that the low and the high byte of a 16-bit element lie
    on neighbouring chips in one beat. Swapping byte 2j+1 of beat 2i with byte 2j of beat 2i+1 puts the element of beat
    2i, chips 2j and 2j+1, whole onto chip 2j, and that of beat 2i+1 onto chip 2j+1. Applied twice it gives back the
    original, so that the same block serves the write and the read path. Nothing is kept from one clock to the next (a
    beat pair never straddles two clocks); the only logic is one 2:1 multiplexer for each second byte.

    Latency ``params.stages`` cycles, interval 1. In NumPy, for bytes of shape (beat pairs, 2, chip pairs, 2):
    ``bytes.swapaxes(1, 3)``.

    Parameters
    ----------
    params : RelayoutParams

    Members
    -------
    en : In(1)
        With a register stage: load it. Without one it has no effect.
    bypass : In(1)
        Hand the bytes through as they are; it belongs to the `i` of the same cycle.
    i, o : In(data), Out(data)
        Byte ``chips * beat + chip`` for the `dq_beats` beats of this clock, first beat lowest.

    Raises
    ------
    ParameterError
        From :class:`RelayoutParams`.
    """

    def __init__(self, *, params: RelayoutParams) -> None:
        self.params = params
        super().__init__(
            {
                "en": In(1),
                "bypass": In(1),
                "i": In(layout_of(params.inputs)),
                "o": Out(layout_of(params.outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        swapped = Signal(layout_of(p.outputs))
        for beat in range(p.dq_beats):
            for chip in range(p.chips):
                here, there = p.chips * beat + chip, p.chips * (beat ^ 1) + (chip ^ 1)
                byte = self.i.data[here]
                if beat % 2 != chip % 2:
                    byte = Mux(self.bypass, byte, self.i.data[there])
                m.d.comb += swapped.data[here].eq(byte)
        if p.stages == 0:
            m.d.comb += self.o.eq(swapped)
        else:
            register = Signal(layout_of(p.outputs), reset_less=True)
            with m.If(self.en):
                m.d.sync += register.eq(swapped)
            m.d.comb += self.o.eq(register)
        return m
