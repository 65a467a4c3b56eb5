"""Front of the host port: the commands of the host's bus, each done, passed on, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.fields import index_bits
from pimspec.hostif.bus import HOST_COMMANDS, BusState, Needs
from pimspec.hostif.window import REFUSAL_BITS, Refusal
from pimspec.params.pim_rank import PimRankParams

from ..pipeline import layout_of, pushed

__all__ = ["HostCommands", "column_layout", "in_window"]

READS, WRITES = (Command.RD, Command.RDA), (Command.WR, Command.WRA)
PRECHARGES = (Command.PREpb, Command.PREab)


def column_layout(params: PimRankParams) -> data.StructLayout:
    """Column command of a clock, with the row that the host has open.

    `read`, `write`: its direction, or neither. `is_open`: the host has a row open there. `direct`: it goes to the
    chips. `owned`: PIM owned the DRAM.
    """
    org = params.organization
    return data.StructLayout(
        {
            **{name: 1 for name in ("read", "write", "is_open", "direct", "owned")},
            "bank": index_bits(params.num_banks),
            "row": org.row_bits,
            "column": org.column_access_bits,
        }
    )


def in_window(params: PimRankParams, row: Value) -> Value:
    """Flag that a row belongs to the window."""
    return row[(params.window.rows - 1).bit_length() :].all()


class HostCommands(wiring.Component):
    """Commands of the host's bus: follows rows, CKE and mode registers, and sorts the commands.

    :data:`pimspec.hostif.bus.HOST_COMMANDS` says what happens to each. All slots of a clock are judged by the state
    before it. No legal stream has two column commands in a clock, two commands to a bank, or one beside a command of
    the whole rank; only precharges may come together. The later one of such a pair is refused. A command that goes
    through reaches the chips in the next clock, in the same CK.

    A data row that the host opened while PIM owned the DRAM is not open in the chips. It counts as closed after that.

    Timing model: ``struct HostCommands`` of ``host_commands.h``.

    Parameters
    ----------
    params : PimRankParams

    Members
    -------
    slots : In(array): valid, payload (params.host_command)
        The command of each CK of a clock; `valid` is chip select, which is low on the pin.
    owner : In(1)
        PIM owns the DRAM.
    direct : Out(array): valid, payload (params.host_command)
        Commands for the chips, by CK.
    column : Out
        The column command of the clock before: see :func:`column_layout`.
    writing : Out(1)
        A write is among the commands of this clock.
    in_use : Out(1)
        The host has a data row open in the chips, or CKE low, or brings that about in this clock.
    refused : Out; refusal : Out(REFUSAL_BITS)
        Number of commands refused in this clock, and the :class:`~pimspec.hostif.window.Refusal` of the last.
    refreshed : Out(1)
        The host sent a REFab in the clock before, while PIM owned the DRAM.
    modes : Out
        See :attr:`pimspec.hostif.window.Window.modes`.
    """

    def __init__(self, *, params: PimRankParams) -> None:
        self.params = p = params
        command = pushed(layout_of(p.host_command))
        super().__init__(
            {
                "slots": In(command).array(p.ck_per_clock),
                "owner": In(1),
                "direct": Out(command).array(p.ck_per_clock),
                "column": Out(column_layout(p)),
                "writing": Out(1),
                "in_use": Out(1),
                "refused": Out(range(p.ck_per_clock + 1)),
                "refusal": Out(REFUSAL_BITS),
                "refreshed": Out(1),
                "modes": Out(layout_of(p.window.modes)),
            }
        )
        rows = range(p.num_banks)
        self._rows = Array(Signal(p.organization.row_bits, name=f"row{b}", reset_less=True) for b in rows)
        self._opened, self._data_open = Signal(p.num_banks), Signal(p.num_banks)
        self._state = Signal(BusState)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots = range(self.params.ck_per_clock)
        kinds = [self._kinds(m, k) for k in slots]
        reasons = [self._reason(m, k, kinds) for k in slots]
        accepted, acts, dozes, refreshes = [], [], [], []
        for k, reason in enumerate(reasons):
            accept = Signal(name=f"accept{k}")
            m.d.comb += accept.eq(self.slots[k].valid & (reason == Refusal.NONE))
            accepted.append(accept)
            acts.append(self._rows_and_chips(m, k, accept))
            dozes.append(self._rank_state(m, k, accept))
            refreshes.append(accept & self._is(k, Command.REFab))
        self._column(m, kinds, accepted)
        refusals = [slot.valid & (reason != Refusal.NONE) for slot, reason in zip(self.slots, reasons, strict=True)]
        m.d.comb += [
            self.refused.eq(reduce(add, refusals)),
            self.writing.eq(Cat(slot.valid & self._is(k, *WRITES) for k, slot in enumerate(self.slots)).any()),
            self.in_use.eq(self._data_open.any() | Cat(acts, dozes).any() | (self._state != BusState.ACTIVE)),
        ]
        m.d.sync += self.refreshed.eq(Cat(refreshes).any() & self.owner)
        for refused, reason in zip(refusals, reasons, strict=True):
            with m.If(refused):
                m.d.comb += self.refusal.eq(reason)
        return m

    def _is(self, k: int, *codes: Command) -> Value:
        """The command of slot k is one of `codes`."""
        return Cat(self.slots[k].payload.code == code for code in codes).any()

    def _kinds(self, m: Module, k: int) -> data.View:
        """Kind of the command of slot k."""
        named = {
            "known": tuple(HOST_COMMANDS),
            "column": (*READS, *WRITES),
            "banked": tuple(c for c, info in HOST_COMMANDS.items() if info.banked),
            "precharge": PRECHARGES,
            "nop": (Command.NOP,),
        }
        kind = Signal(data.StructLayout(dict.fromkeys(named, 1)), name=f"kind{k}")
        m.d.comb += [kind[name].eq(self._is(k, *codes)) for name, codes in named.items()]
        return kind

    def _reason(self, m: Module, k: int, kinds: Sequence[data.View]) -> Value:
        """Reason to refuse the command of slot k."""
        mine, bank = kinds[k], self.slots[k].payload.bank
        meets = []
        for j in range(k):
            its, other = kinds[j], self.slots[j]
            apart = mine.banked & its.banked & (bank != other.payload.bank) & ~(mine.column & its.column)
            allowed = mine.nop | its.nop | apart | (mine.precharge & its.precharge)
            meets.append(other.valid & ~allowed)

        def codes(*needs: Needs) -> Value:
            return self._is(k, *(c for c, info in HOST_COMMANDS.items() if info.needs in needs))

        not_owned = self._is(k, *(c for c, info in HOST_COMMANDS.items() if not info.owned))
        awake, leaves_sleep, leaves_doze = (
            self._state == state for state in (BusState.ACTIVE, BusState.SELF_REFRESH, BusState.POWER_DOWN)
        )
        leaving = codes(Needs.SELF_REFRESH, Needs.POWER_DOWN)
        bad_power = Mux(
            leaving,
            (codes(Needs.SELF_REFRESH) & ~leaves_sleep) | (codes(Needs.POWER_DOWN) & ~leaves_doze),
            ~awake & ~mine.nop,
        )
        bad_rows = (codes(Needs.CLOSED) & (self._opened >> bank)[0]) | (codes(Needs.ALL_CLOSED) & self._opened.any())
        missing = mine.banked & (bank >= self.params.num_banks)
        reasons = [
            (~mine.known | missing, Refusal.UNKNOWN),
            *([(Cat(meets).any(), Refusal.CONFLICT)] if meets else []),
            (bad_power, Refusal.POWER),
            (not_owned & self.owner, Refusal.OWNED),
            (bad_rows, Refusal.ROW_OPEN),
        ]
        chosen: Value | int = Refusal.NONE
        for given, code in reversed(reasons):
            chosen = Mux(given, code, chosen)
        reason = Signal(Refusal, name=f"reason{k}")
        m.d.comb += reason.eq(chosen)
        return reason

    def _rows_and_chips(self, m: Module, k: int, accept: Value) -> Value:
        """Rows after the command of slot k, and its way to the chips; the command opens a data row in the chips."""
        command, owner = self.slots[k].payload, self.owner
        bank = command.bank
        is_data = ~in_window(self.params, command.row)
        forward = Signal(name=f"forward{k}")
        with m.If(accept):
            with m.Switch(command.code):
                with m.Case(Command.ACT):
                    m.d.sync += self._rows[bank].eq(command.row)
                    m.d.sync += self._opened.bit_select(bank, 1).eq(1)
                    m.d.sync += self._data_open.bit_select(bank, 1).eq(is_data & ~owner)
                    m.d.comb += forward.eq(is_data)
                with m.Case(*READS, *WRITES):
                    m.d.comb += forward.eq((self._data_open >> bank)[0])
                with m.Case(Command.NOP):
                    m.d.comb += forward.eq(0)
                with m.Default():
                    m.d.comb += forward.eq(1)
            with m.If(self._is(k, Command.PREpb, Command.RDA, Command.WRA)):
                m.d.sync += [
                    self._opened.bit_select(bank, 1).eq(0),
                    self._data_open.bit_select(bank, 1).eq(0),
                ]
            with m.If(self._is(k, Command.PREab)):
                m.d.sync += [self._opened.eq(0), self._data_open.eq(0)]
        m.d.sync += [
            self.direct[k].valid.eq(forward & ~owner),
            self.direct[k].payload.eq(command),
        ]
        return accept & self._is(k, Command.ACT) & is_data & ~owner

    def _rank_state(self, m: Module, k: int, accept: Value) -> Value:
        """CKE and mode registers after the command of slot k; the command lowers CKE."""
        command, state = self.slots[k].payload, self._state
        with m.If(accept), m.Switch(command.code):
            with m.Case(Command.PDE):
                m.d.sync += state.eq(BusState.POWER_DOWN)
            with m.Case(Command.SRE):
                m.d.sync += state.eq(BusState.SELF_REFRESH)
            with m.Case(Command.PDX, Command.SRX):
                m.d.sync += state.eq(BusState.ACTIVE)
            with m.Case(Command.MRS):
                for number, field in enumerate(self.params.window.modes.fields):
                    with m.If(command.bank == number):
                        m.d.sync += self.modes[field.name].eq(command.row)
        return accept & self._is(k, Command.PDE, Command.SRE)

    def _column(self, m: Module, kinds: Sequence[data.View], accepted: Sequence[Value]) -> None:
        """The column command of this clock, for the next one; there is at most one."""
        column = self.column
        chosen = [accept & kind.column for accept, kind in zip(accepted, kinds, strict=True)]

        def of_slot(values: Sequence[Value]) -> Value:
            pairs = zip(chosen, values, strict=True)
            return reduce(or_, (Mux(mine, value, Const(0, len(value))) for mine, value in pairs))

        payloads = [slot.payload for slot in self.slots]
        bank = Signal(len(column.bank), name="column_bank")
        m.d.comb += bank.eq(of_slot([c.bank for c in payloads]))  # cut off: a bank that does not exist is refused
        m.d.sync += [
            column.read.eq(Cat(mine & self._is(k, *READS) for k, mine in enumerate(chosen)).any()),
            column.write.eq(Cat(mine & self._is(k, *WRITES) for k, mine in enumerate(chosen)).any()),
            column.is_open.eq((self._opened >> bank)[0]),
            column.direct.eq((self._data_open >> bank)[0] & ~self.owner),
            column.owned.eq(self.owner),
            column.bank.eq(bank),
            column.row.eq(self._rows[bank]),
            column.column.eq(of_slot([c.column for c in payloads])),
        ]
