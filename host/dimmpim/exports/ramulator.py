"""Ramulator 2 export: command traces in two of its forms (github.com/CMU-SAFARI/ramulator2, version 2.1).

* *requests*: input of the frontend ``ReadWriteTrace``
  (``src/ramulator/frontend/impl/memory_trace/ readwrite_trace.cpp``). A line is ``R`` or ``W``, a blank, and the
  address vector ``channel,rank,bank_group,bank,row,column``, to be used with ``PassThroughAddrMapper``. Only RD and WR
  have a line: Ramulator's own controller opens rows, refreshes, and decides when. There are no times.
* *commands*: output of the plugin ``CmdTraceRecorder``
  (``src/ramulator/controller/plugin/impl/ cmd_trace_recorder.cpp``) for a DDR4 device, so that tools for its traces can
  read these. Ramulator's DDR4 commands have the same names (``python/ramulator/dram/ddr4.py``). Nothing in Ramulator
  reads the form. -1 stands for a field that a command does not have. The type is that of the request, and -1 for
  commands of the controller's own (``src/ramulator/base/request.h``).

In both, a column is the number of a column access within its row: Ramulator takes log2 of the prefetch off the bits of
a column (``src/ramulator/controller/addr_mapper/addr_mapper_base.cpp``).

PIM commands have no counterpart and are left out. Requests can have each column access of a PIM_MAC as an R instead:
the traffic of a host that reads the same K and V over the bus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import COMMANDS, Command
from pimspec.dram.organization import DramOrganization
from pimspec.dram.timing import DramStandard
from pimspec.errors import ParameterError, require

__all__ = ["FORMS", "RamulatorTrace", "command_trace", "request_trace"]

FORMS = ("requests", "commands")

_HEADER = "clock,command,Channel,Rank,BankGroup,Bank,Row,Column,type,source"
_REQUEST_TYPES = {Command.RD: 0, Command.RDA: 0, Command.WR: 1, Command.WRA: 1}
"""Type numbers of requests: ``Request::Type::Read`` and ``Write``."""


@dataclass(frozen=True, kw_only=True)
class RamulatorTrace:
    """A trace in Ramulator's form.

    Parameters
    ----------
    lines : tuple of str
    left_out : mapping of Command to int
        Commands without a line.
    """

    lines: tuple[str, ...]
    left_out: Mapping[Command, int]

    @property
    def text(self) -> str:
        """Content of the file."""
        return "".join(f"{line}\n" for line in self.lines)


class _OpenRows:
    """Open row of each bank, as far as the trace shows."""

    def __init__(self, organization: DramOrganization) -> None:
        self._organization = organization
        self._rows: dict[tuple[int, int, int], int] = {}

    def take(self, traced: TracedCommand) -> list[tuple[int, int, int, int]]:
        """Rank, bank_group, bank and row of each column of `traced`, before its effect on the rows is recorded.

        Raises
        ------
        ParameterError
            If the part has no such address, or a column command comes to a bank whose row is not known.
        """
        self._check(traced)
        info, found = COMMANDS[traced.command], []
        if "column" in info.fields:
            found = [(*bank, row) for bank, row in sorted(self._rows.items()) if traced.address.covers(*bank)]
            if not found:
                raise ParameterError(f"{traced}: no row is open there, so its address is not known")
        if info.opens_row and traced.bank_group is not None and traced.bank is not None and traced.row is not None:
            self._rows[traced.rank, traced.bank_group, traced.bank] = traced.row
        if info.closes_row:
            self._rows = {bank: row for bank, row in self._rows.items() if not traced.address.covers(*bank)}
        return found

    def _check(self, traced: TracedCommand) -> None:
        org = self._organization
        limits = {"bank_group": org.bank_groups, "bank": org.banks_per_group, "row": org.rows, "column": org.columns}
        for what, limit in limits.items():
            value = getattr(traced, what)
            if value is not None and value >= limit:
                raise ParameterError(f"{what} of {traced} must be below {limit}")
        if (traced.column or 0) + (traced.count - 1) * org.burst_length >= org.columns:
            raise ParameterError(f"{traced}: the last access must be below column {org.columns}")


def _require_ddr4(organization: DramOrganization) -> None:
    standard = organization.standard
    require(standard is DramStandard.DDR4, "standard of the part", standard.value, "ddr4")


def request_trace(
    commands: Iterable[TracedCommand], organization: DramOrganization, *, mac_interval_ck: int | None = None
) -> RamulatorTrace:
    """``ReadWriteTrace`` input with the RD and WR of a trace.

    Parameters
    ----------
    commands : iterable of TracedCommand
        Commands from a time on at which all banks were precharged.
    organization : DramOrganization
    mac_interval_ck : int, optional
        CK between the column accesses of a PIM_MAC. If given, each access has a line too, at the place of its time.

    Raises
    ------
    ParameterError
        If a command contradicts the part or those before it, the part is not DDR4, or no command has a line.
    """
    _require_ddr4(organization)
    rows, timed, left_out = _OpenRows(organization), [], Counter[Command]()
    for traced in commands:
        places = rows.take(traced)
        command = traced.command
        if command in _REQUEST_TYPES or (mac_interval_ck is not None and command is Command.PIM_MAC):
            kind, first = "W" if COMMANDS[command].writes else "R", (traced.column or 0) // organization.burst_length
            for access in range(traced.count):
                ck = traced.ck + access * (mac_interval_ck or 0)
                timed += [(ck, f"{kind} 0,{','.join(map(str, place))},{first + access}") for place in places]
        else:
            left_out[command] += 1
    if not timed:
        hint = "; --mac-as-reads makes reads of PIM_MAC" if left_out[Command.PIM_MAC] else ""
        raise ParameterError(f"the trace has no RD or WR, and so no request{hint}")
    timed.sort(key=itemgetter(0))  # keeps the order of the trace within a CK
    return RamulatorTrace(lines=tuple(line for _, line in timed), left_out=left_out)


def command_trace(commands: Iterable[TracedCommand], organization: DramOrganization) -> RamulatorTrace:
    """``CmdTraceRecorder`` output with the JEDEC commands of a trace.

    Parameters
    ----------
    commands : iterable of TracedCommand
        Commands from a time on at which all banks were precharged.
    organization : DramOrganization

    Raises
    ------
    ParameterError
        If a command contradicts the part or those before it, the part is not DDR4, or no command has a line.
    """
    _require_ddr4(organization)
    rows, lines, left_out = _OpenRows(organization), [], Counter[Command]()
    for traced in commands:
        places = rows.take(traced)
        command = traced.command
        if COMMANDS[command].pim or command is Command.MRS:
            left_out[command] += 1
            continue
        row = places[0][3] if places else traced.row
        column = None if traced.column is None else traced.column // organization.burst_length
        address = (-1 if value is None else value for value in (traced.bank_group, traced.bank, row, column))
        kind = _REQUEST_TYPES.get(command, -1)
        lines.append(f"{traced.ck},{command.name},0,{traced.rank},{','.join(map(str, address))},{kind},-1")
    if not lines:
        raise ParameterError("the trace has no JEDEC command")
    return RamulatorTrace(lines=(_HEADER, *lines), left_out=left_out)
