"""Decoder from the levels of a chip's CA pins to the command slots of its port."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.ca_tables import CaEncoding
from pimspec.dram.commands import Command
from pimspec.hostif.bus import BusState
from pimspec.params.ca_port import CaPortParams
from pimspec.params.command_engine import BUS_COMMANDS

from ..pipeline import layout_of, pushed
from .ca_pins import at_levels, pin_layout, port_of_pins

__all__ = ["CaDecoder"]


class CaDecoder(wiring.Component):
    """Decoder of pin words, one a CK, to the commands of a clock.

    Commands, states and unknown words are those of :func:`pimspec.dram.ca_encoding.decode_stream`, in the clock and the
    slot of the CK in which they count as issued. The port has places for PIM_MAC and PIM_LD_SB in the first slot and
    for bus commands in CK ``params.bus_phase_ck``; elsewhere they are unknown, and so is PIM_WR_R, whose register the
    port cannot name. Fields of a payload that the pins do not carry are 0. Combinational, but for the state of the chip
    and the last word of the clock before.

    Parameters
    ----------
    params : CaPortParams

    Members
    -------
    pins : In(array): :func:`~.ca_pins.pin_layout`
    command, late, bus : Out
        The port: see :class:`~pimhw.pim_chip.PimChip`.
    unknown : Out(1)
        A word of this clock is no command, or ends none.
    """

    def __init__(self, *, params: CaPortParams) -> None:
        self.params = params
        chip = params.chip
        super().__init__(
            {
                "pins": In(pin_layout(params)).array(chip.slots),
                "command": Out(pushed(layout_of(chip.command))),
                "late": Out(pushed(layout_of(chip.late))).array(chip.slots - 1),
                "bus": Out(pushed(layout_of(chip.bus))),
                "unknown": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        state, begun = Signal(BusState), Signal()  # after the last CK of the clock before
        last = Signal(p.word_bits, reset_less=True)
        before: tuple[Value, Value, Value] = (state, begun, last)
        unknown = []
        for k, pins in enumerate(self.pins):
            word = pins.as_value()
            next_state, begins, lost = self._word(m, k, word, *before)
            before = (next_state, begins, word)
            unknown.append(lost)
        m.d.sync += [state.eq(before[0]), begun.eq(before[1]), last.eq(before[2])]
        m.d.comb += self.unknown.eq(Cat(*unknown).any())
        return m

    def _word(
        self, m: Module, k: int, word: Value, state: Value, begun: Value, last: Value
    ) -> tuple[Value, Value, Value]:
        """A word, for the state before it and the word of the CK before, which may have begun a command.

        Returns the state after it, whether it begins a command of two cycles, and whether it is unknown.
        """
        p = self.params
        begins, known, after = Signal(name=f"begins{k}"), Signal(name=f"known{k}"), Signal(BusState, name=f"state{k}")
        bit_of = p.table.bit_of
        m.d.comb += after.eq(
            Mux(word[bit_of["CKE"]], BusState.ACTIVE, BusState.POWER_DOWN) if "CKE" in bit_of else state
        )
        for number, row in enumerate(p.table.rows):
            first = at_levels(p, row, 0, word if row.cycles == 1 else last)
            here = Signal(name=f"row{number}_{k}")
            if row.cycles == 2:
                m.d.comb += here.eq(begun & (state == row.before) & first & at_levels(p, row, 1, word))
                with m.If(~begun & (state == row.before) & at_levels(p, row, 0, word)):
                    m.d.comb += [begins.eq(1), after.eq(state)]
            else:
                m.d.comb += here.eq(~begun & (state == row.before) & first)
            words = [word] if row.cycles == 1 else [last, word]
            place = self._give(m, k + 1 - row.cycles + p.table.issue_cycle(row), row, here, words)
            with m.If(here):
                m.d.comb += [known.eq(place), after.eq(row.after)]
        return after, begins, ~known & ~begins

    def _give(self, m: Module, slot: int, row: CaEncoding, here: Value, words: list[Value]) -> bool:
        """Give the command of a row to the port if `here`; returns whether the port has a place for it."""
        p, command = self.params, row.command
        if command is Command.DES:
            return True
        if command in BUS_COMMANDS:
            if slot != p.bus_phase_ck:
                return False
            port = self.bus
        elif slot == 0 and command in p.slot_commands:
            port = self.command
        elif slot > 0 and command in p.late_commands:
            port = self.late[slot - 1]
        else:
            return False
        bits: dict[str, list[Value]] = {n: [Const(0, 1)] * width for n, width in p.table.widths(command).items()}
        for (cycle, pin), (name, bit) in row.places().items():
            bits[name][bit] = words[cycle][p.table.bit_of[pin]]
        fields = {name: Cat(*values) for name, values in bits.items()}
        fields |= {name: Const(value, 1) for name, value in row.when.items()}
        names = port.payload.shape().members
        with m.If(here):
            m.d.comb += port.valid.eq(1)
            if "code" in names:
                m.d.comb += port.payload.code.eq(command)
            for name, value in port_of_pins(p, command, fields).items():
                m.d.comb += port.payload[name].eq(value)
        return True
