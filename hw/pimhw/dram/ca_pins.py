"""CA pins as signals, and the fields of a chip's command port by their names on the pins."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_

from amaranth.hdl import Cat, Const, Value
from amaranth.lib import data

from pimspec.dram.ca_tables import CaEncoding
from pimspec.dram.commands import Command
from pimspec.dram.timing import DramStandard
from pimspec.params.ca_port import CaPortParams
from pimspec.params.command_engine import BUS_COMMANDS

__all__ = ["at_levels", "pin_layout", "pins_of_port", "port_of_pins", "word_of"]


def pin_layout(params: CaPortParams) -> data.StructLayout:
    """Pins of a chip in one CK, bit for bit a pin word of :mod:`pimspec.dram.ca_encoding`."""
    return data.StructLayout(dict.fromkeys(params.table.pins, 1))


def at_levels(params: CaPortParams, row: CaEncoding, cycle: int, word: Value) -> Value:
    """True if the pins of fixed level have those of a row."""
    bit_of = params.table.bit_of
    fixed = [(bit_of[pin], level) for pin, level in row.levels[cycle].items() if level in "HL"]
    return reduce(and_, (word[bit] if level == "H" else ~word[bit] for bit, level in fixed))


def word_of(params: CaPortParams, row: CaEncoding, cycle: int, fields: Mapping[str, Value]) -> Value:
    """Pin word of a cycle of a row, for fields by their names on the pins."""
    bits: list[Value] = [Const(0, 1)] * params.word_bits
    for pin, level in row.levels[cycle].items():
        bits[params.table.bit_of[pin]] = Const(level in "Hh", 1)
    for (at, pin), (name, bit) in row.places().items():
        if at == cycle and name in fields and bit < len(fields[name]):
            bits[params.table.bit_of[pin]] = fields[name][bit]
    return Cat(*bits)


def pins_of_port(params: CaPortParams, command: Command, payload: data.View) -> dict[str, Value]:
    """Fields of a command at the port, by their names on the pins.

    MRS has the number of its register in the bank's number, and its value in `row`, as the host port gives it.
    """
    carried, chip = params.table.widths(command), params.chip
    group_bits, bank_bits = (chip.bank_groups - 1).bit_length(), (chip.banks_per_group - 1).bit_length()
    if command in BUS_COMMANDS:
        flat = payload.bank
        place = {"bank": flat[:bank_bits], "bank_group": flat[bank_bits : bank_bits + group_bits]}
    else:
        place = {"bank": payload.bank[:bank_bits], "bank_group": payload.bank_group[:group_bits]}
    if command is Command.MRS:
        value = payload.row
        if params.standard is DramStandard.DDR4:  # A14 to A16 are command pins, A17 is low
            value = value[: carried["value"]]
        return {"register": Cat(place["bank"], place["bank_group"]), "value": value}
    names = payload.shape().members
    others = {name: Value.cast(payload[name]) for name in names if name not in ("code", "read", *place)}
    return {name: value for name, value in (place | others).items() if name in carried}


def port_of_pins(params: CaPortParams, command: Command, fields: Mapping[str, Value]) -> dict[str, Value]:
    """Fields of a payload of the port for those on the pins: the inverse."""
    chip = params.chip
    group_bits, bank_bits = (chip.bank_groups - 1).bit_length(), (chip.banks_per_group - 1).bit_length()
    if command is Command.MRS:
        register = fields["register"]
        return {
            "bank": register[:bank_bits],
            "bank_group": register[bank_bits : bank_bits + group_bits],
            "row": fields["value"],
        }
    if command in BUS_COMMANDS:
        read = {"read": Const(command is Command.PIM_RD_RB, 1)}
        if "bank" not in fields:
            return dict(fields) | read
        flat = Cat(fields["bank"][:bank_bits], fields["bank_group"][:group_bits])
        return {name: v for name, v in fields.items() if name != "bank_group"} | {"bank": flat} | read
    return dict(fields)
