"""PIM DRAM chip whose command port is pins."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.params.ca_port import CaPortParams

from .bank_pu import BankPu
from .dram.ca_decoder import CaDecoder
from .dram.ca_pins import pin_layout
from .hierarchy import expose, hierarchical_verilog
from .pim_chip import BANK_PU, PimChip
from .pipeline import slots_follow

__all__ = ["PimChipPins", "chip_pins_verilog"]


class PimChipPins(wiring.Component):
    """A :class:`~.pim_chip.PimChip` behind a :class:`~.dram.ca_decoder.CaDecoder`.

    It does in each clock what the chip does with the commands on the pins: the decoder adds no clock. Whoever drives
    the pins sends each command ``params.delay_clocks`` clocks late (:class:`~.dram.ca_encoder.CaEncoder`), and so its
    line, too.

    Parameters
    ----------
    params : CaPortParams

    Members
    -------
    pins : In(array): :func:`~.dram.ca_pins.pin_layout`
    unknown : Out(1)
        A word of this clock is no command. Logic behind the pins.
    dq_in, dq_out, cells, status, status_clear
        See :class:`~.pim_chip.PimChip`.
    """

    def __init__(self, *, params: CaPortParams) -> None:
        self.params = params
        self._chip = PimChip(params=params.chip)
        self._shared = ["dq_in", "dq_out", "status", "status_clear"]
        members = self._chip.signature.members
        super().__init__(
            {
                "pins": In(pin_layout(params)).array(params.chip.slots),
                "unknown": Out(1),
                **{name: members[name] for name in (*self._shared, "cells")},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.chip = chip = self._chip
        m.submodules.decoder = decoder = CaDecoder(params=self.params)
        m.d.comb += [
            *(its.eq(mine) for its, mine in zip(decoder.pins, self.pins, strict=True)),
            self.unknown.eq(decoder.unknown),
            *slots_follow([chip.command], [decoder.command]),
            *slots_follow(chip.late, decoder.late),
            *slots_follow([chip.bus], [decoder.bus]),
        ]
        expose(m, self, chip, self._shared)
        for mine, its in zip(self.cells, chip.cells, strict=True):
            expose(m, mine, its, its.signature.members)
        return m


def chip_pins_verilog(params: CaPortParams, name: str = "pim_chip_pins") -> str:
    """Verilog text of a chip behind pins with top module `name`, the bank PU once in it as module ``bank_pu``."""
    return hierarchical_verilog(PimChipPins(params=params), name, {BANK_PU: BankPu(params=params.chip.bank_pu)})
