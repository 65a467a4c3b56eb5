"""Codec of the CA pins: commands with their fields to pin words and back, one by one or CK by CK.

A pin word holds the levels of a chip's pins in one CK; bit i is ``pins[i]`` of the standard's
:class:`~pimspec.dram.ca_tables.CaTable`. The pins are those of one rank: a rank of a channel has its own CS_n (and
CKE), so that its number is not encoded.

Fields have the names of the chip's port, see :class:`~pimspec.params.pim_chip.PimChipParams`. ``column`` is the number
of a column access, not the column address. MRS has ``register`` and ``value``, PIM_WR_R and REFsb the fields of
:data:`~pimspec.dram.commands.COMMANDS`, and banks are given by ``bank_group`` and ``bank``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ParameterError, require
from ..hostif.bus import BusState
from .ca_tables import CaEncoding, CaTable, ca_table
from .commands import Command
from .timing import DramStandard

__all__ = ["CaDecoding", "Decoded", "decode", "decode_stream", "encode", "encode_stream", "occupied_cks"]


class Decoded(NamedTuple):
    """A command with its fields."""

    command: Command
    fields: dict[str, int]


def _levels(table: CaTable, row: CaEncoding, cycle: int, levels: str) -> int:
    """Word with the pins of `row` that have one of these levels in a cycle."""
    return sum(1 << table.bit_of[pin] for pin, level in row.levels[cycle].items() if level in levels)


def _matches(table: CaTable, row: CaEncoding, cycle: int, word: int) -> bool:
    return word & _levels(table, row, cycle, "HL") == _levels(table, row, cycle, "H")


def _row_for(table: CaTable, command: Command, fields: Mapping[str, int], state: BusState | None) -> CaEncoding:
    """Form of a command with these fields."""
    rows = table.rows_of(command)
    require(bool(rows), "command", command.name, f"one of {table.standard.value}")
    if state is not None:
        rows = tuple(row for row in rows if row.before is state)
        require(bool(rows), "command", command.name, f"one that is given in state {state.name}")
    widths = table.widths(command)
    for name, value in fields.items():
        require(name in widths, f"field of {command.name}", name, f"one of {', '.join(widths) or 'none'}")
        allowed = f"0..{(1 << widths[name]) - 1}"
        require(isinstance(value, int) and 0 <= value < 1 << widths[name], f"{name} of {command.name}", value, allowed)
    return next(row for row in rows if all(fields.get(name, 0) == value for name, value in row.when.items()))


def encode(
    standard: DramStandard,
    command: Command,
    fields: Mapping[str, int] | None = None,
    *,
    state: BusState | None = None,
) -> list[int]:
    """Pin words of a command, one for each CK that it occupies.

    Parameters
    ----------
    standard : DramStandard
    command : Command
    fields : mapping of str to int, optional
        A field left out is 0. Fields that the form of the command does not use are not encoded.
    state : BusState, optional
        State of the chip. With it, a command that is not given in that state is refused, and DES keeps it.

    Raises
    ------
    ParameterError
        If the standard lacks the command, or a field does not exist or does not fit.
    """
    table, given = ca_table(standard), dict(fields or {})
    row = _row_for(table, command, given, state)
    words = [_levels(table, row, cycle, "Hh") for cycle in range(row.cycles)]
    for name, places in row.fields.items():
        value = given.get(name, 0)
        for bit, place in enumerate(places):
            if value >> bit & 1:
                require(place is not None, f"{name} of {row.name}", value, f"one without bit {bit}")
                assert place is not None
                words[place[0]] |= 1 << table.bit_of[place[1]]
    return words


def _fields(table: CaTable, row: CaEncoding, words: Sequence[int]) -> dict[str, int]:
    """Fields of a command; those that its form does not use are 0."""
    found = dict.fromkeys(table.widths(row.command), 0) | dict(row.when)
    for (cycle, pin), (name, bit) in row.places().items():
        found[name] |= (words[cycle] >> table.bit_of[pin] & 1) << bit
    return found


def decode(standard: DramStandard, words: Sequence[int], *, state: BusState = BusState.ACTIVE) -> Decoded:
    """Command and fields of its pin words: the inverse of :func:`encode`.

    Parameters
    ----------
    standard : DramStandard
    words : sequence of int
        All words of one command.
    state : BusState
        State of the chip before it.

    Raises
    ------
    ParameterError
        If the words are no command that the chip knows.
    """
    table = ca_table(standard)
    for word in words:
        require(0 <= word < 1 << len(table.pins), "pin word", word, f"one of {len(table.pins)} pins")
    for row in table.rows:
        fits = row.before is state and row.cycles == len(words)
        if fits and all(_matches(table, row, cycle, word) for cycle, word in enumerate(words)):
            return Decoded(row.command, _fields(table, row, words))
    shown = " ".join(f"{word:0{len(table.pins)}b}" for word in words)
    raise ParameterError(f"pin words must be a command of {standard.value} in state {state.name}, not {shown!r}")


def occupied_cks(standard: DramStandard, ck: int, command: Command) -> range:
    """CKs of a command's pin words, if it counts as issued in `ck`."""
    table = ca_table(standard)
    rows = table.rows_of(command)
    require(bool(rows), "command", command.name, f"one of {standard.value}")
    first = ck - table.issue_cycle(rows[0])
    return range(first, first + rows[0].cycles)


def encode_stream(
    standard: DramStandard, commands: Iterable[tuple[int, Command, Mapping[str, int]]], num_cks: int
) -> list[int]:
    """Pin words of CKs 0 to ``num_cks - 1``; CKs without a command have DES.

    Parameters
    ----------
    standard : DramStandard
    commands : iterable of (CK, command, fields)
        In order; the CK is the one in which the command counts as issued.
    num_cks : int

    Raises
    ------
    ParameterError
        As :func:`encode`; or if two commands need the same CK, or one a CK that is not there.
    """
    table, state = ca_table(standard), BusState.ACTIVE
    words: list[int] = []

    def fill(until: int) -> None:
        words.extend(encode(standard, Command.DES, state=state) * (until - len(words)))

    for ck, command, fields in commands:
        given = encode(standard, command, fields, state=state)
        first = ck - table.issue_cycle(_row_for(table, command, fields, state))
        what = f"first CK of {command.name}, which counts as issued in {ck},"
        require(len(words) <= first <= num_cks - len(given), what, first, f"{len(words)}..{num_cks - len(given)}")
        fill(first)
        words += given
        state = _row_for(table, command, fields, state).after
    fill(num_cks)
    return words


@dataclass
class CaDecoding:
    """What a chip sees on its pins.

    Attributes
    ----------
    commands : list of (int, Command, dict)
        Commands but DES, each with the CK in which it counts as issued and its fields.
    unknown : list of int
        CKs of words that are no command, or whose second word is missing.
    state : BusState
        After the last CK.
    """

    commands: list[tuple[int, Command, dict[str, int]]] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    state: BusState = BusState.ACTIVE


def decode_stream(standard: DramStandard, words: Iterable[int]) -> CaDecoding:
    """Commands on the pins, CK by CK: the inverse of :func:`encode_stream`, for any words.

    The word after the first one of two belongs to it, whatever it is. A chip of DDR4 whose CKE falls otherwise than by
    SRE or PDE is in power-down; one whose CKE rises is active.
    """
    table, seen = ca_table(standard), CaDecoding()
    first: int | None = None  # word of a command of two cycles that has begun
    cke = 1 << table.bit_of["CKE"] if "CKE" in table.bit_of else 0
    for ck, word in enumerate(words):
        given = [word] if first is None else [first, word]
        rows = (row for row in table.rows if row.before is seen.state and (first is None or row.cycles == 2))
        row = next((r for r in rows if all(_matches(table, r, k, w) for k, w in enumerate(given))), None)
        if first is None and row is not None and row.cycles == 2:
            first = word
            continue
        first = None
        if row is None:
            seen.unknown.append(ck)
            if cke:
                seen.state = BusState.POWER_DOWN if not word & cke else BusState.ACTIVE
            continue
        if row.command is not Command.DES:
            issued = ck + 1 - row.cycles + table.issue_cycle(row)
            seen.commands.append((issued, row.command, _fields(table, row, given)))
        seen.state = row.after
    return seen
