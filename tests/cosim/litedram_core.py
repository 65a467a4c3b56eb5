"""Verilog of an unmodified LiteDRAM controller, with the settings that a rank needs, and its start sequence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from litedram.common import GeomSettings, PhySettings, TimingSettings
from litedram.core import LiteDRAMCore
from litedram.core.controller import ControllerSettings
from litedram.init import get_sdram_phy_init_sequence
from litedram.phy import dfi
from litex.soc.interconnect import csr_bus
from migen import ClockDomain, Module
from migen.fhdl import verilog

from pimsim.rank.controlled import ControllerVerilog
from pimspec.hostif.dfi import DfiParams

MODULE = "litedram_core"
CSR_ADDRESS_BITS = 14
ZQCS_CLOCKS = 10**9
"""Clocks between two ZQCS: more than a test runs for. The start sequence has a ZQCL."""


def clocks(ck, phases, *, gap=0):
    """Controller clocks that are at least `ck` CK, `gap` CK lost to phases that differ."""
    return -(-(ck + gap) // phases)


def timing_settings(params: DfiParams, *, rates: int = 1) -> TimingSettings:
    """Delays in controller clocks.

    RD and WR are on phase 0, row commands on the last phase of the clock before: ACT to RD loses 3 CK. LiteDRAM knows
    no tRTP: tRP holds it for auto precharge. Nor does it keep tRAS before a refresh: tRCD holds that.
    """
    t, n = params.rank.timing, params.num_phases
    timing = TimingSettings(
        tRP=clocks(t.nRP + t.nRTP, n, gap=-3 - n),
        tRCD=max(clocks(t.nRCD, n, gap=n - 1), clocks(t.nRAS, n)),
        tWR=clocks(t.nWR, n),
        tWTR=clocks(t.nWTR_L, n),
        tREFI=t.nREFI // n // rates,
        tRFC=clocks(t.nRFC, n),
        tFAW=clocks(t.nFAW, n),
        tCCD=clocks(t.nCCD_L, n),
        tRRD=clocks(t.nRRD_L, n),
        tRC=clocks(t.nRC, n),
        tRAS=clocks(t.nRAS, n),
        tZQCS=clocks(128, n),
    )
    timing.tRP = max(timing.tRP, clocks(t.nRP, n))
    timing.fine_refresh_mode = "1x"
    return timing


def phy_settings(params: DfiParams) -> PhySettings:
    t, width = params.rank.timing, 8 * params.rank.num_chips
    return PhySettings(
        phytype="dimmpim", memtype="DDR4", databits=width, dfi_databits=2 * width, nphases=params.num_phases,
        rdphase=0, wrphase=0, cl=t.nCL, cwl=t.nCWL, read_latency=params.read_latency,
        write_latency=params.write_latency,
    )  # fmt: skip


class _Phy(Module):
    """PHY without pins: its DFI goes through LiteDRAM's own DDR4 multiplexer to ports."""

    def __init__(self, params: DfiParams) -> None:
        self.settings = phy_settings(params)
        self.addressbits, self.bankbits = params.address_bits, params.bank_bits
        widths = (params.address_bits, params.bank_bits, 1, self.settings.dfi_databits, params.num_phases)
        self.dfi, self.pins = dfi.Interface(*widths), dfi.Interface(*widths)
        self.submodules += dfi.DDR4DFIMux(self.dfi, self.pins)


class _Core(Module):
    def __init__(self, params: DfiParams, timing: TimingSettings) -> None:
        org, rank = params.rank.organization, params.rank
        self.clock_domains.cd_sys = ClockDomain("sys")
        self.submodules.phy = phy = _Phy(params)
        geometry = GeomSettings(
            bankbits=(rank.num_banks - 1).bit_length(), rowbits=org.row_bits, colbits=org.column_bits
        )
        self.submodules.sdram = LiteDRAMCore(
            phy, geometry, timing, clk_freq=1e9,
            controller_settings=ControllerSettings(refresh_zqcs_freq=1e9 / ZQCS_CLOCKS),
        )  # fmt: skip
        self.port = self.sdram.crossbar.get_port()
        self.bus = csr_bus.Interface(data_width=32, address_width=CSR_ADDRESS_BITS)
        self.submodules.csrs = csr_bus.CSRBankArray(
            self, lambda name, memory: 0 if memory is None else None, data_width=32, address_width=CSR_ADDRESS_BITS
        )
        self.submodules += csr_bus.Interconnect(self.bus, self.csrs.get_buses())
        self.comb += self.port.rdata.ready.eq(1)


def _named(core: _Core, phases: int) -> dict[str, object]:
    """Signals that become ports, by the names of :class:`ControllerVerilog`."""
    port, bus = core.port, core.bus
    ports = {
        "user_cmd_valid": port.cmd.valid, "user_cmd_ready": port.cmd.ready, "user_cmd_we": port.cmd.we,
        "user_cmd_addr": port.cmd.addr, "user_wdata_ready": port.wdata.ready, "user_wdata_data": port.wdata.data,
        "user_wdata_we": port.wdata.we, "user_rdata_valid": port.rdata.valid, "user_rdata_data": port.rdata.data,
        "csr_adr": bus.adr, "csr_we": bus.we, "csr_dat_w": bus.dat_w,
    }  # fmt: skip
    for k in range(phases):
        phase = core.phy.pins.phases[k]
        ports |= {f"dfi_p{k}_{name}": getattr(phase, name) for name, *_ in phase.layout}
    return ports


@dataclass(frozen=True)
class LiteDram:
    """The controller, and the writes to its registers that bring the DRAM up, each with clocks to wait after it."""

    verilog: ControllerVerilog
    start: list[tuple[int, int, int]]


def generate(params: DfiParams, *, rates: int = 1) -> LiteDram:
    """LiteDRAM for a rank; `rates` times as many refreshes as the rank needs."""
    timing = timing_settings(params, rates=rates)
    core = _Core(params, timing)
    ports = _named(core, params.num_phases)
    for name, signal in ports.items():
        signal.name_override = name
    clock = {core.cd_sys.clk, core.cd_sys.rst}
    text = str(verilog.convert(core, {*ports.values(), *clock}, name=MODULE))
    registers = {}
    ((at, bank),) = [(at, bank) for name, _, at, bank in core.csrs.banks if name == "sdram"]
    for number, register in enumerate(bank.simple_csrs):
        registers[register.name] = at * (0x800 // 4) + number
    sequence, _ = get_sdram_phy_init_sequence(phy_settings(params), timing)
    return LiteDram(
        ControllerVerilog(
            text=text, module=MODULE, address_bits=core.port.address_width, csr_address_bits=CSR_ADDRESS_BITS
        ),
        [write for step in sequence for write in _writes(registers, *step)] + [(registers["dfii_control0"], 1, 1000)],
    )


CONTROL = {"SEL": 1, "CKE": 2, "ODT": 4, "RESET_N": 8}
COMMAND = {"CS": 1, "WE": 2, "CAS": 4, "RAS": 8, "WRDATA": 16, "RDDATA": 32}


def _writes(registers, what, address, bank, command, delay):
    """Register writes of a step of LiteDRAM's start sequence, as its firmware makes them."""
    value = sum((CONTROL if "CONTROL" in part else COMMAND)[re.sub(r"DFII_(CONTROL|COMMAND)_", "", part)]
                for part in command.split("|"))  # fmt: skip
    wait = max(20, min(delay, 1000))  # the firmware's waits are longer
    if "CONTROL" in command:
        return [(registers["dfii_control0"], value, wait)]
    return [
        (registers["dfii_pi0_address0"], address, 0),
        (registers["dfii_pi0_baddress0"], bank, 0),
        (registers["dfii_pi0_command0"], value, 0),
        (registers["dfii_pi0_command_issue"], 1, wait),
    ]
