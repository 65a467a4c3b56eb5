"""DRAM command trace, as data and as a CSV file.

One line is one command on the CA bus, in the order of issue::

    ck,command,rank,bank_group,bank,row,column
    100,ACT,0,1,2,517,
    122,RD,0,1,2,,8
    140,REFab,1,,,,

* ``ck`` is the CK of the command's last CA cycle (DDR5 commands may take two), 0 or more, never decreasing.
* ``command`` is a name of :class:`pimspec.dram.commands.Command`, as the specification writes it. DES is the absence of
  a command and has no line.
* A field that the command does not have is empty. ``bank_group`` and ``bank`` of PIM_MAC select the banks that compute:
  both empty for all banks of the rank, ``bank`` alone for that bank of every bank_group, both for one bank. REFsb names
  a ``bank``; HBM3 names its bank_group too.
* ``column`` is the column address on the CA bus, the bits inside a burst included.
* An eighth header field ``count`` may follow. PIM_MAC is a counted burst: after the one command, each addressed bank
  makes `count` column accesses by itself, nCCD_MAC apart, at ``column``, ``column + burst_length`` and so on. The field
  is empty for every other command, and without it each PIM_MAC makes one access.

The register number of MRS and PIM_WR_R is not in a trace: no rule depends on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pimspec.dram.commands import COMMANDS, Command, CommandAddress, command_named
from pimspec.errors import ParameterError, UnknownNameError, require
from pimspec.files import write_atomically

__all__ = ["COUNT_FIELD", "TRACE_FIELDS", "TraceStatistics", "TracedCommand", "iter_trace", "read_trace"]
__all__ += ["trace_text", "write_trace"]

TRACE_FIELDS = ("ck", "command", "rank", "bank_group", "bank", "row", "column")
"""Header of a trace file."""

COUNT_FIELD = "count"
"""Header field that may follow :data:`TRACE_FIELDS`."""

_MAX_DIGITS = 18
_LINE_BYTES = 1 << 20
_PLACES = ("bank_group", "bank", "row", "column")
_Presence = tuple[bool, bool, bool, bool]


def _forms(command: Command) -> tuple[_Presence, ...]:
    """Combinations of :data:`_PLACES` that a command may give."""
    group, bank, row, column = (place in COMMANDS[command].fields for place in _PLACES)
    if command is Command.PIM_MAC:
        return tuple((g, b, row, column) for g, b in ((False, False), (False, True), (True, True)))
    if command is Command.REFsb:
        return tuple((g, True, row, column) for g in (False, True))
    return ((group, bank, row, column),)


_FORMS: Mapping[Command, tuple[_Presence, ...]] = {
    command: _forms(command) for command in Command if command is not Command.DES
}


@dataclass(frozen=True, slots=True)
class TracedCommand:
    """A command on the CA bus, with the fields of a trace line.

    Parameters
    ----------
    ck : int
        CK of the last CA cycle.
    command : Command
        Any command but DES.
    rank : int
    bank_group, bank, row, column : int or None
        None where the command has no such field, or acts on all.
    count : int
        Column accesses of a PIM_MAC at each addressed bank; 1 for every other command.

    Raises
    ------
    ParameterError
        If a number is negative, or a field is missing or is one that the command does not have.
    """

    ck: int
    command: Command
    rank: int = 0
    bank_group: int | None = None
    bank: int | None = None
    row: int | None = None
    column: int | None = None
    count: int = 1

    def __post_init__(self) -> None:
        given = (self.bank_group is not None, self.bank is not None, self.row is not None, self.column is not None)
        if given not in _FORMS.get(self.command, ()):
            self._refuse(given)
        for what in ("ck", "rank", *itertools.compress(_PLACES, given)):
            value = getattr(self, what)
            if type(value) is not int or value < 0:
                raise ParameterError(f"{what} must be an integer of 0 or more, not {value!r}")
        if self.count != 1 or type(self.count) is not int:
            require(self.command is Command.PIM_MAC, f"count of {self.command.name}", self.count, "1")
            require(type(self.count) is int and self.count >= 1, "count", self.count, "an integer of 1 or more")

    def _refuse(self, given: _Presence) -> None:
        require(isinstance(self.command, Command), "command", self.command, "a Command")
        require(self.command is not Command.DES, "command", "DES", "one that is issued (DES is the absence of one)")
        name, forms = self.command.name, _FORMS[self.command]
        for place, index in zip(_PLACES, range(4), strict=True):
            if all(form[index] is not given[index] for form in forms):
                wanted = "given" if not given[index] else "empty"
                raise ParameterError(f"{place} of {name} must be {wanted}, not {getattr(self, place)!r}")
        raise ParameterError(f"{name} with a bank_group must name a bank too")

    @property
    def address(self) -> CommandAddress:
        """Banks that the command acts on."""
        return CommandAddress(rank=self.rank, bank_group=self.bank_group, bank=self.bank)

    def __str__(self) -> str:
        places = [f"{what} {getattr(self, what)}" for what in ("rank", *_PLACES) if getattr(self, what) is not None]
        if self.count != 1:
            places.append(f"count {self.count}")
        return f"{self.command.name} at CK {self.ck} ({', '.join(places)})"


@dataclass(frozen=True, kw_only=True)
class TraceStatistics:
    """Counts and rates of a trace.

    Parameters
    ----------
    counts : mapping of Command to int
        Commands on the CA bus; a burst counts once.
    elapsed_cycles : int
        CK from `start_ck` to the end.
    column_accesses : int
        Column accesses in all banks (of one chip), each access of a burst counted.
    banks_used : int
        Banks that were activated.
    column_cycles : int
        nCCD_MAC: CK of one column access in a bank.
    data_bus_cycles : int
        CK in which the DQ bus carries data.
    """

    counts: Mapping[Command, int]
    elapsed_cycles: int
    column_accesses: int
    banks_used: int
    column_cycles: int
    data_bus_cycles: int

    @property
    def accesses_per_activation(self) -> float:
        """Column accesses for each ACT; 0 without any ACT."""
        acts = self.counts.get(Command.ACT, 0)
        return self.column_accesses / acts if acts else 0.0

    @property
    def row_efficiency(self) -> float:
        """Share of the column rate of the used banks, as in :func:`pimspec.dram.limits.row_efficiency`."""
        slots = self.banks_used * self.elapsed_cycles
        return self.column_accesses * self.column_cycles / slots if slots else 0.0

    @property
    def data_bus_use(self) -> float:
        """Share of time in which the DQ bus carries data."""
        return self.data_bus_cycles / self.elapsed_cycles if self.elapsed_cycles else 0.0


def _number(what: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ParameterError(f"{what} must be a decimal number of at most {_MAX_DIGITS} digits, not {text!r}")
    return int(text)


def _needed(what: str, text: str) -> int:
    value = _number(what, text)
    if value is None:
        raise ParameterError(f"{what} must be given, not empty")
    return value


def _parse(line: str, width: int, last_ck: int) -> TracedCommand:
    cells = line.split(",")
    require(len(cells) == width, "number of fields", len(cells), str(width))
    ck, command = _needed("ck", cells[0]), command_named(cells[1])
    require(ck >= last_ck, "ck", ck, f"at least that of the line before, {last_ck}")
    count = (_number(COUNT_FIELD, cells[7]) if width > len(TRACE_FIELDS) else None) or 1
    if width > len(TRACE_FIELDS) and cells[7]:
        require(command is Command.PIM_MAC, f"{COUNT_FIELD} of {command.name}", cells[7], "empty")
        require(int(cells[7]) >= 1, COUNT_FIELD, int(cells[7]), "1 or more")
    rank = _needed("rank", cells[2])
    group, bank, row, column = (_number(what, text) for what, text in zip(_PLACES, cells[3:7], strict=True))
    return TracedCommand(ck, command, rank, group, bank, row, column, count)


def iter_trace(path: Path) -> Iterator[TracedCommand]:
    """Commands of a trace file, read line by line.

    Parameters
    ----------
    path : Path

    Yields
    ------
    TracedCommand

    Raises
    ------
    ParameterError
        If the file cannot be read or a line is malformed; the text gives the file, the line (the header is line 1) and
        the reason.
    """
    number, last_ck, width = 0, 0, 0
    try:
        with path.open("rb") as file:
            while line := file.readline(_LINE_BYTES + 1):
                number += 1
                require(len(line) <= _LINE_BYTES, "a line", "longer", f"at most {_LINE_BYTES} bytes long")
                text = line.decode().removesuffix("\n").removesuffix("\r")
                if not width:
                    header = tuple(text.split(","))
                    allowed = (TRACE_FIELDS, (*TRACE_FIELDS, COUNT_FIELD))
                    require(header in allowed, "header", text, " or ".join(",".join(fields) for fields in allowed))
                    width = len(header)
                    continue
                traced = _parse(text, width, last_ck)
                last_ck = traced.ck
                yield traced
    except UnicodeDecodeError:
        raise ParameterError(f"{path}:{number}: not UTF-8 text") from None
    except (ParameterError, UnknownNameError) as error:
        raise ParameterError(f"{path}:{number}: {error}") from None
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}") from None
    if not width:
        raise ParameterError(f"{path}:1: header must be {','.join(TRACE_FIELDS)}, but the file is empty")


def read_trace(path: Path) -> list[TracedCommand]:
    """Commands of a trace file, as a list; see :func:`iter_trace`."""
    return list(iter_trace(path))


def _cells(traced: TracedCommand, with_count: bool) -> Iterator[str]:
    yield str(traced.ck)
    yield traced.command.name
    for what in ("rank", *_PLACES):
        value = getattr(traced, what)
        yield "" if value is None else str(value)
    if with_count:
        yield str(traced.count) if traced.command is Command.PIM_MAC else ""


def trace_text(commands: Iterable[TracedCommand]) -> str:
    """Content of a trace file.

    Parameters
    ----------
    commands : iterable of TracedCommand
        In the order of issue. The ``count`` column is there if some PIM_MAC has a count other than 1.

    Raises
    ------
    ParameterError
        If ``ck`` decreases.
    """
    trace = list(commands)
    for earlier, later in itertools.pairwise(trace):
        require(later.ck >= earlier.ck, "ck", later.ck, f"at least that of the command before, {earlier.ck}")
    with_count = any(traced.count != 1 for traced in trace)
    header = (*TRACE_FIELDS, COUNT_FIELD) if with_count else TRACE_FIELDS
    lines = [",".join(header), *(",".join(_cells(traced, with_count)) for traced in trace)]
    return "\n".join(lines) + "\n"


def write_trace(path: Path, commands: Iterable[TracedCommand]) -> None:
    """Write a trace file, in one piece or not at all: the text of :func:`trace_text`."""
    write_atomically(path, trace_text(commands))
