"""Scoreboard of a rank's host bus: what becomes of each DDR4 command, and of the data.

It is written from ``docs/host-interface.md``, without a look at the RTL.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pimspec.dram.commands import Command
from pimspec.hostif.window import ControlOp, Refusal
from pimspec.params.pim_rank import PimRankParams

__all__ = ["ACTIVE", "POWER_DOWN", "SELF_REFRESH", "HostScoreboard", "Slot"]

ACTIVE, POWER_DOWN, SELF_REFRESH = "active", "power-down", "self refresh"

READS, WRITES = (Command.RD, Command.RDA), (Command.WR, Command.WRA)
PRECHARGES = (Command.PREpb, Command.PREab)
COLUMN, BANKED = (*READS, *WRITES), (Command.ACT, Command.PREpb, *READS, *WRITES)
NEED_CLOSED = (Command.REFab, Command.MRS, Command.ZQCS, Command.ZQCL, Command.SRE)
NOT_OF_OWNED = (Command.MRS, Command.ZQCS, Command.ZQCL, Command.SRE, Command.PDE)
DDR4 = (*BANKED, *NEED_CLOSED, Command.PREab, Command.SRX, Command.PDE, Command.PDX, Command.NOP)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A command in one CK of the host's bus; `code` may be none of :class:`~pimspec.dram.commands.Command`."""

    phase: int
    code: int
    bank: int = 0
    row: int = 0
    column: int = 0
    data: bytes = b""
    mask: int = 0


@dataclass
class _Row:
    """A row that the host has open; `in_chips` if it was opened in the chips too."""

    number: int
    in_chips: bool


@dataclass
class HostScoreboard:
    """Expected state of a rank after the commands of its host.

    Attributes
    ----------
    owned : bool
        PIM owns the DRAM; to be set by the user.
    rows : mapping of bank to open row
    lines : list of bytes or None
        Lines that the host gets, in order; None if the scoreboard does not know the data.
    chips : list of tuple
        `(clock, phase, code, bank, row, column)` of each command for the chips; fields that it does not have are 0.
    refusals : list of tuple
        `(clock, order in the clock, reason)` since the last :meth:`clear`.
    seen : Counter
        Number of commands by `(state, code, what became of it)`.
    """

    params: PimRankParams
    owned: bool = False
    cke: str = ACTIVE
    rows: dict[int, _Row] = field(default_factory=dict)
    memory: dict[tuple[int, int, int], bytes] = field(default_factory=dict)
    modes: list[int] = field(default_factory=lambda: [0] * 7)
    rate: int = 0
    posted: int = 0
    lines: list[bytes | None] = field(default_factory=list)
    chips: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    refusals: list[tuple[int, int, Refusal]] = field(default_factory=list)
    seen: Counter[tuple[str, int, str]] = field(default_factory=Counter)

    def in_window(self, row: int) -> bool:
        return row >= self.params.window.first_row

    def reason(self, slot: Slot, before: list[Slot]) -> Refusal:
        """Reason to refuse a command at once; `before` are those of earlier CK in the clock, refused or not."""
        code = slot.code
        wakes = {int(Command.SRX): SELF_REFRESH, int(Command.PDX): POWER_DOWN}
        open_row = slot.bank in self.rows if code == Command.ACT else bool(self.rows)
        reasons = {
            Refusal.UNKNOWN: code not in DDR4 or (code in BANKED and slot.bank >= self.params.num_banks),
            Refusal.CONFLICT: any(self._conflict(slot, other) for other in before),
            Refusal.POWER: code != Command.NOP and self.cke != wakes.get(code, ACTIVE),
            Refusal.OWNED: self.owned and code in NOT_OF_OWNED,
            Refusal.ROW_OPEN: open_row and code in (Command.ACT, *NEED_CLOSED),
        }
        return next((reason for reason, given in reasons.items() if given), Refusal.NONE)

    @staticmethod
    def _conflict(slot: Slot, other: Slot) -> bool:
        if Command.NOP in (slot.code, other.code):
            return False
        if slot.code in PRECHARGES and other.code in PRECHARGES:
            return False
        if slot.code in BANKED and other.code in BANKED and slot.bank != other.bank:
            return slot.code in COLUMN and other.code in COLUMN
        return True

    def legal(self, slot: Slot) -> bool:
        """True if no host that keeps JEDEC's rules of rows would be refused the command."""
        row = self.rows.get(slot.bank)
        closed = slot.code in COLUMN and (row is None or not self._is_open(row))
        return self.reason(slot, []) is Refusal.NONE and not closed

    def _is_open(self, row: _Row) -> bool:
        return self.owned or row.in_chips or self.in_window(row.number)

    def clock(self, clock: int, slots: list[Slot], state: str) -> None:
        """Commands of a clock, all judged by the state before it."""
        reasons = [self.reason(slot, slots[:n]) for n, slot in enumerate(slots)]
        for n, (slot, why) in enumerate(zip(slots, reasons, strict=True)):
            if why is not Refusal.NONE:
                self._refuse(clock, 10 + n, why)
                became = why.name
            else:
                became = self._accept(clock, slot)
            self.seen[state, slot.code, became] += 1

    def _refuse(self, clock: int, order: int, why: Refusal) -> None:
        self.refusals.append((clock, order, why))

    def _accept(self, clock: int, slot: Slot) -> str:
        code, bank = slot.code, slot.bank
        passes = not self.owned and code != Command.NOP
        became = "passed on" if passes else "done"
        if code == Command.ACT:
            inside = self.in_window(slot.row)
            self.rows[bank] = _Row(slot.row, passes and not inside)
            passes &= not inside
        elif code in COLUMN:
            row = self.rows.get(bank)
            passes &= row is not None and row.in_chips
            why = self._read(slot, row) if code in READS else self._write(slot, row)
            if why is not Refusal.NONE:
                wait = self.params.chip.read_clocks + 1 if code in READS else self.params.chip.write_clocks
                self._refuse(clock + wait, 2 if code in READS else 1, why)
                became = why.name
            if code in (Command.RDA, Command.WRA):
                self.rows.pop(bank, None)
        elif code == Command.PREpb:
            self.rows.pop(bank, None)
        elif code == Command.PREab:
            self.rows.clear()
        elif code == Command.MRS:
            if bank < len(self.modes):
                self.modes[bank] = slot.row
        elif code == Command.PDE:
            self.cke = POWER_DOWN
        elif code == Command.SRE:
            self.cke = SELF_REFRESH
        elif code in (Command.PDX, Command.SRX):
            self.cke = ACTIVE
        if passes:
            row_field = slot.row if code in (Command.ACT, Command.MRS) else 0
            bank_field = bank if code in BANKED or code == Command.MRS else 0
            column = slot.column if code in COLUMN else 0
            self.chips.append((clock + 1, slot.phase, code, bank_field, row_field, column))
        return became

    # Column commands: the reason to refuse one, once its row is known.

    def _read(self, slot: Slot, row: _Row | None) -> Refusal:
        zeros = bytes(self.params.line_bytes)
        if row is None or not self._is_open(row):
            self.lines.append(zeros)
            return Refusal.ROW_CLOSED
        if not self.in_window(row.number):
            if self.owned:
                self.lines.append(zeros)
                return Refusal.DATA_READ
            self.lines.append(self.memory.get((slot.bank, row.number, slot.column), b"\xff" * len(zeros)))
            return Refusal.NONE
        region, line = self.region_of(slot, row.number)
        if region == "control" and line == 3:
            number = self.params.window.modes.pack_int(**{f"mr{k}": value for k, value in enumerate(self.modes)})
            self.lines.append((number & (1 << 8 * len(zeros)) - 1).to_bytes(len(zeros), "little"))
            return Refusal.NONE
        if region in ("outputs", "statistics", "reads") or (region == "control" and line == 0):
            self.lines.append(None)
            return Refusal.NONE
        self.lines.append(zeros)
        return Refusal.OUTSIDE

    def _write(self, slot: Slot, row: _Row | None) -> Refusal:
        if row is None or not self._is_open(row):
            return Refusal.ROW_CLOSED
        if not self.in_window(row.number):
            self._write_cells((slot.bank, row.number, slot.column), slot)
            return Refusal.NONE
        region, line = self.region_of(slot, row.number)
        if slot.mask:
            return Refusal.MASKED
        if region == "control" and line == 0:
            return self._control(int.from_bytes(slot.data, "little"))
        if region == "control" and line == 1:  # a descriptor: a good one, or zeros
            return Refusal.NONE if any(slot.data) else Refusal.BAD_TOKENS
        return Refusal.NONE if region in ("queries", "append") else Refusal.OUTSIDE

    def _write_cells(self, place: tuple[int, int, int], slot: Slot) -> None:
        old = self.memory.get(place, b"\xff" * self.params.line_bytes)
        kept = [slot.mask >> n & 1 for n in range(len(old))]
        self.memory[place] = bytes(o if k else d for o, d, k in zip(old, slot.data, kept, strict=True))
        self.posted += self.owned

    def _control(self, word: int) -> Refusal:
        table = self.params.window.control
        if word >> table.width:
            return Refusal.RESERVED
        values = table.unpack_int(word)
        if values["op"] == ControlOp.REFRESH:
            self.rate = values["rate"]
            return Refusal.NONE
        known = values["op"] in (ControlOp.TAKE, ControlOp.RELEASE, ControlOp.CLEAR)
        return Refusal.NONE if known else Refusal.BAD_OP  # the user gives these three where they are allowed

    def region_of(self, slot: Slot, row: int) -> tuple[str, int]:
        """Region of the window, and the line in it, of a column of one of its rows."""
        window, p = self.params.window, self.params
        columns = p.organization.column_accesses_per_row
        line = ((row - window.first_row) * p.num_banks + slot.bank) * columns + slot.column
        for name, region in window.regions.items():
            if region.base <= line < region.base + region.size:
                return name, line - region.base
        return "none", line

    @property
    def last_refusal(self) -> Refusal:
        return max(self.refusals, default=(0, 0, Refusal.NONE))[2]

    def clear(self) -> None:
        """The control word CLEAR has taken effect."""
        self.refusals.clear()
