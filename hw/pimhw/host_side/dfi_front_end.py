"""DFI front end: the pins of a DDR4 controller in front of the host port."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pimspec.dram.commands import Command
from pimspec.hostif.bus import BusState
from pimspec.hostif.dfi import AUTO_PRECHARGE_BIT, DfiParams

from ..pipeline import layout_of, pushed

__all__ = ["DfiFrontEnd", "dfi_phase"]


def dfi_phase(params: DfiParams) -> wiring.Signature:
    """A phase of the DFI, seen by the controller."""
    p = params
    command = {"cs_n": 1, "act_n": 1, "ras_n": 1, "cas_n": 1, "we_n": 1, "cke": 1, "odt": 1, "reset_n": 1}
    return wiring.Signature(
        {
            **{name: Out(width) for name, width in command.items()},
            "address": Out(p.address_bits),
            "bank": Out(p.bank_bits),
            "wrdata": Out(p.data_bits),
            "wrdata_en": Out(1),
            "wrdata_mask": Out(p.data_bits // 8),
            "rddata_en": Out(1),
            "rddata": In(p.data_bits),
            "rddata_valid": In(1),
        }
    )


class DfiFrontEnd(wiring.Component):
    """Translation of the pins of a DDR4 controller to the host's bus of a rank.

    Commands are those of JESD79-4's truth table, in any phase. CKE that falls makes power-down of DES or NOP, and self
    refresh of REF; CKE that rises ends it. While `reset_n` is low there is no command, and CKE that rises after it ends
    nothing. `wrdata` is due
    ``params.write_latency`` clocks after its WR, and `rddata` comes ``params.read_latency`` clocks after its RD,
    whatever their phases; `wrdata_en`, `rddata_en` and `odt` have no effect. Combinational, but for CKE of the clock
    before.

    A pattern that JESD79-4 reserves is passed on as a code that the host port refuses.

    Parameters
    ----------
    params : DfiParams

    Members
    -------
    phases : In(array): see :func:`dfi_phase`
    host : Out(array): valid, payload (rank.host_command)
    host_data, host_mask : Out; host_out_valid, host_out_data : In
        The host's bus: see :class:`~.host_port.HostPort`.
    """

    def __init__(self, *, params: DfiParams) -> None:
        self.params = p = params
        line = p.rank.line_bytes
        super().__init__(
            {
                "phases": In(dfi_phase(p)).array(p.num_phases),
                "host": Out(pushed(layout_of(p.rank.host_command))).array(p.num_phases),
                "host_data": Out(line * 8),
                "host_mask": Out(line),
                "host_out_valid": In(1),
                "host_out_data": In(line * 8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cke, state = Signal(), Signal(BusState)  # after the last CK of the clock before
        before: tuple[Value, Value] = (cke, state)
        for k, phase in enumerate(self.phases):
            before = self._command(m, k, phase, *before)
        m.d.sync += [cke.eq(before[0]), state.eq(before[1])]
        m.d.comb += [
            self.host_data.eq(Cat(phase.wrdata for phase in self.phases)),
            self.host_mask.eq(Cat(phase.wrdata_mask for phase in self.phases)),
        ]
        for k, phase in enumerate(self.phases):
            m.d.comb += [
                phase.rddata.eq(self.host_out_data.word_select(k, self.params.data_bits)),
                phase.rddata_valid.eq(self.host_out_valid),
            ]
        return m

    def _command(
        self, m: Module, k: int, phase: wiring.PureInterface, cke_before: Value, state_before: Value
    ) -> tuple[Value, Value]:
        """The command of a phase; returns CKE of the phase, and the state of the chips after it."""
        org = self.params.rank.organization
        slot, command = self.host[k], self.host[k].payload
        address, ap = phase.address, phase.address[AUTO_PRECHARGE_BIT]
        falls, rises = Signal(name=f"falls{k}"), Signal(name=f"rises{k}")
        selected = Signal(name=f"selected{k}")
        pins = Cat(phase.we_n, phase.cas_n, phase.ras_n)
        code = Signal(command.code.shape(), name=f"code{k}")
        m.d.comb += [
            falls.eq(cke_before & ~phase.cke),
            rises.eq(~cke_before & phase.cke),
            selected.eq(~phase.cs_n),
        ]
        with m.If(~phase.act_n):
            m.d.comb += code.eq(Command.ACT)
        with m.Else(), m.Switch(pins):  # RAS_n, CAS_n, WE_n
            with m.Case(0b000):
                m.d.comb += code.eq(Command.MRS)
            with m.Case(0b001):
                m.d.comb += code.eq(Command.REFab)
            with m.Case(0b010):
                m.d.comb += code.eq(Mux(ap, Command.PREab, Command.PREpb))
            with m.Case(0b100):
                m.d.comb += code.eq(Mux(ap, Command.WRA, Command.WR))
            with m.Case(0b101):
                m.d.comb += code.eq(Mux(ap, Command.RDA, Command.RD))
            with m.Case(0b110):
                m.d.comb += code.eq(Mux(ap, Command.ZQCL, Command.ZQCS))
            with m.Case(0b111):
                m.d.comb += code.eq(Command.NOP)
            with m.Default():
                m.d.comb += code.eq(Command.DES)  # reserved
        refresh = Signal(name=f"refresh{k}")
        m.d.comb += refresh.eq(selected & (code == Command.REFab))
        named = Signal.like(code, name=f"named{k}")
        present = Signal(name=f"present{k}")
        m.d.comb += [named.eq(code), present.eq(selected & cke_before)]
        state = Signal(BusState, name=f"state{k}")
        m.d.comb += state.eq(state_before)
        with m.If(~phase.reset_n):
            m.d.comb += [state.eq(BusState.ACTIVE), present.eq(0)]
        with m.Elif(falls):
            # Anything but REF, DES and NOP as CKE falls is illegal, and is passed on as what it says.
            with m.If(refresh):
                m.d.comb += [named.eq(Command.SRE), state.eq(BusState.SELF_REFRESH)]
            with m.Elif(~selected | (code == Command.NOP)):
                m.d.comb += [named.eq(Command.PDE), present.eq(1), state.eq(BusState.POWER_DOWN)]
        with m.Elif(rises):
            ends = state_before == BusState.SELF_REFRESH
            m.d.comb += [
                named.eq(Mux(ends, Command.SRX, Command.PDX)),
                present.eq(state_before != BusState.ACTIVE),
                state.eq(BusState.ACTIVE),
            ]
        row_bits = org.row_bits
        act_row = Cat(address[:14], phase.we_n, phase.cas_n, phase.ras_n, *address[17:])
        burst_bits = (org.burst_length - 1).bit_length()
        m.d.comb += [
            slot.valid.eq(present),
            command.code.eq(named),
            command.bank.eq(phase.bank),
            command.row.eq(Mux(code == Command.ACT, act_row[:row_bits], address[:row_bits])),
            command.column.eq(address[burst_bits : burst_bits + org.column_access_bits]),
        ]
        return phase.cke, state
