"""Encoder from the command slots of a chip's port to the levels of its CA pins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.ca_tables import CaEncoding
from pimspec.dram.commands import Command
from pimspec.hostif.bus import BusState
from pimspec.params.ca_port import CaPortParams
from pimspec.params.command_engine import BUS_COMMANDS

from ..pipeline import layout_of, pushed
from .ca_pins import pin_layout, pins_of_port, word_of

__all__ = ["CaEncoder"]


@dataclass(frozen=True)
class _Sent:
    """What the port gives in a CK: whether it is sent, in two cycles, its words, and the state of the chip after it."""

    valid: Value
    two: Value
    words: tuple[Value, Value]
    idle: Value
    state: Value


class CaEncoder(wiring.Component):
    """Encoder of the commands of a clock to pin words, one a CK.

    Slot k is CK k; a bus command has CK ``params.bus_phase_ck``. The words are those of
    :func:`pimspec.dram.ca_encoding.encode_stream`. A command is on the pins ``params.delay_clocks`` clocks after it was
    at the port. With 0 (DDR4) there is no register but for the state of CKE; with 1 (DDR5) the pins are registers, and
    the first word of the next clock's command of two cycles.

    A command is refused, and does not appear, if

    * the standard has no encoding for it, or the state of the chip does not allow it: while it is in power-down or self
      refresh, all but PDX or SRX;
    * a field does not fit its pins: mode registers beyond the pins, or a fresh PIM_MAC of DDR5 not from column 0;
    * its CKs are taken: by the second cycle of the command before, or (DDR5) by the command before its first cycle;
    * it is a PIM command, but not in the first slot, or a bus command, but not on `bus`.

    Parameters
    ----------
    params : CaPortParams

    Members
    -------
    command, late, bus : In
        The port: see :class:`~pimhw.pim_chip.PimChip`.
    pins : Out(array): :func:`~.ca_pins.pin_layout`
        Pins of each CK.
    refused : Out(1)
        A command of this clock is refused. Logic behind the port.
    """

    def __init__(self, *, params: CaPortParams) -> None:
        self.params = params
        chip = params.chip
        super().__init__(
            {
                "command": In(pushed(layout_of(chip.command))),
                "late": In(pushed(layout_of(chip.late))).array(chip.slots - 1),
                "bus": In(pushed(layout_of(chip.bus))),
                "pins": Out(pin_layout(params)).array(chip.slots),
                "refused": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.params
        state, taken = Signal(BusState), Signal()  # after the last CK of the clock before
        sent: list[_Sent] = []
        refused = []
        before: tuple[Value, Value] = (state, taken)
        for k in range(p.chip.slots):
            given, lost = self._slot(m, k, *before)
            sent.append(given)
            refused.append(lost)
            # A command of two cycles needs the next CK (counted from its first), or the one before.
            before = (given.state, given.valid if p.table.counts_from_last else given.valid & given.two)
        m.d.sync += [state.eq(before[0]), taken.eq(before[1])]
        m.d.comb += self.refused.eq(Cat(*refused).any())
        if p.table.counts_from_last:
            self._late_pins(m, sent)
        else:
            self._pins(m, sent)
        return m

    def _slot(self, m: Module, k: int, state: Value, taken: Value) -> tuple[_Sent, Value]:
        """The command of a slot, for the state of the chip and the use of the CK before; whether one is refused."""
        p = self.params
        bits = p.word_bits
        known, two = Signal(name=f"known{k}"), Signal(name=f"two{k}")
        words = (Signal(bits, name=f"first_word{k}"), Signal(bits, name=f"second_word{k}"))
        after = Signal(BusState, name=f"after{k}")
        m.d.comb += after.eq(state)

        def forms(command: Command, payload: data.View, chosen: Value) -> None:
            fields, met = pins_of_port(p, command, payload), set()
            for row in p.table.rows_of(command):
                key = (row.before, *row.when.items())
                if key in met:  # an alternative that is decoded, but not sent
                    continue
                met.add(key)
                here = chosen & (state == row.before)
                for name, value in row.when.items():
                    here &= fields[name] == value
                with m.If(here & _fits(row, fields)):
                    m.d.comb += [
                        known.eq(1),
                        two.eq(row.cycles == 2),
                        after.eq(row.after),
                        *(word.eq(word_of(p, row, cycle, fields)) for cycle, word in enumerate(words[: row.cycles])),
                    ]

        slot = self.late[k - 1] if k else self.command
        has_bus = self.bus.valid if k == p.bus_phase_ck else Const(0)
        for command in p.late_commands if k else p.slot_commands:
            forms(command, slot.payload, slot.valid & ~has_bus & (slot.payload.code == command))
        if k == p.bus_phase_ck:
            for read, command in enumerate(BUS_COMMANDS):
                forms(command, self.bus.payload, self.bus.valid & (self.bus.payload.read == read))
        free = ~(two & taken) if p.table.counts_from_last else ~taken
        valid, next_state, idle = Signal(name=f"valid{k}"), Signal(BusState, name=f"state{k}"), Signal(bits)
        m.d.comb += [valid.eq(known & free), next_state.eq(Mux(valid, after, state))]
        with m.Switch(next_state):
            for row in p.table.rows_of(Command.DES):
                with m.Case(row.before):
                    m.d.comb += idle.eq(word_of(p, row, 0, {}))
        lost = ((slot.valid | has_bus) & ~valid) | (slot.valid & has_bus)
        return _Sent(valid, two, words, idle, next_state), lost

    def _pins(self, m: Module, sent: Sequence[_Sent]) -> None:
        """Pins of commands that count from their first cycle. The last slot has none of two cycles."""
        for k, (pins, now) in enumerate(zip(self.pins, sent, strict=True)):
            word = Mux(now.valid, now.words[0], now.idle)
            if k:
                word = Mux(sent[k - 1].valid & sent[k - 1].two, sent[k - 1].words[1], word)
            m.d.comb += pins.eq(word)

    def _late_pins(self, m: Module, sent: Sequence[_Sent]) -> None:
        """Pins of commands that count from their last cycle, a clock late."""
        begins = [now.valid & now.two for now in sent]
        for k, (pins, now) in enumerate(zip(self.pins, sent, strict=True)):
            word = Mux(now.valid, Mux(now.two, now.words[1], now.words[0]), now.idle)
            if k + 1 < len(sent):
                word = Mux(begins[k + 1], sent[k + 1].words[0], word)
            held = Signal(self.params.word_bits, init=self._deselect, name=f"held{k}")
            m.d.sync += held.eq(word)
            m.d.comb += pins.eq(held if k + 1 < len(sent) else Mux(begins[0], sent[0].words[0], held))

    @property
    def _deselect(self) -> int:
        table = self.params.table
        return sum(
            1 << table.bit_of[pin] for pin, level in table.rows_of(Command.DES)[0].levels[0].items() if level in "Hh"
        )


def _fits(row: CaEncoding, fields: dict[str, Value]) -> Value:
    """True if the bits without a place are 0."""
    lost = [
        value[bit]
        for name, value in fields.items()
        for bit in range(len(value))
        if name in row.fields and (bit >= len(row.fields[name]) or row.fields[name][bit] is None)
    ]
    return ~Cat(*lost).any() if lost else Const(1)
