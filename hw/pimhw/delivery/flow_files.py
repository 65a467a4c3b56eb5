"""Text of a rank's files for tools: SDC constraints, Verilator waivers, FuseSoC core, and lint pragmas."""

from __future__ import annotations

from fractions import Fraction

from pimspec.params.pim_rank import PimRankParams

__all__ = ["LINT_OFF", "LINT_ON", "fusesoc_core", "sdc", "waivers"]

LINT_OFF = """\
// Widths: Amaranth gives each operation its full result width; the back end prints operands at their own widths.
/* verilator lint_off WIDTH */
// Cases: a write by index is a case of the values that do something; the default is assigned before it.
/* verilator lint_off CASEINCOMPLETE */
// Loops: slices of one wire that depend on each other, never on themselves (Verilator before 5.036 sees whole wires).
/* verilator lint_off UNOPTFLAT */
"""
LINT_ON = """\
/* verilator lint_on UNOPTFLAT */
/* verilator lint_on CASEINCOMPLETE */
/* verilator lint_on WIDTH */
"""

_WAIVERS = """\
`verilator_config
// Rules of `verilator -Wall` that the Verilog back end of Amaranth triggers whatever the design says. The rules that
// are on without -Wall are switched off in {file}.v itself.

// Submodules stand in the file of the top.
lint_off -rule DECLFILENAME -file "*{file}.v"
// Slices of a wider wire are emitted as the whole wire and a selection, so some bits are never read.
lint_off -rule UNUSEDSIGNAL -file "*{file}.v"
"""

_SDC = """\
# Constraints of {top}: times in ns, one clock, the controller clock of {ck} CK ({mhz:.1f} MHz).
create_clock -name clk -period {period} [get_ports clk]

# A budget for what is outside: {share} % of the period before each input and after each output. Replace it with the
# delays of the PHY and of the memory model or macro at the cell ports.
set inputs [remove_from_collection [all_inputs] [get_ports clk]]
set_input_delay {delay} -clock clk $inputs
set_output_delay {delay} -clock clk [all_outputs]

# There are no multicycle and no false paths: no proof exists that a register may be late, so each path has one period.
"""

_CORE = """\
CAPI=2:
name: dimmpim:rank:{top}:{version}
description: PIM rank of preset {preset}, buffer chip and DRAM chips with bank PUs; cell arrays are ports

filesets:
  rtl:
    files:
      - {file}.v: {{file_type: verilogSource}}
  waivers:
    files:
      - {file}.vlt: {{file_type: vlt}}
  constraints:
    files:
      - {file}.sdc: {{file_type: SDC}}
  testbench:
    files:
      - {file}_tb.v: {{file_type: verilogSource}}

targets:
  default: &default
    filesets: [rtl]
    toplevel: {top}

  lint:
    <<: *default
    description: Verilator's lint with -Wall
    filesets: [waivers, rtl]
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [-Wall]

  sim: &sim
    description: reset, status and TAKE through the host bus under Verilator; ends with PASS
    filesets: [rtl, testbench]
    toplevel: {top}_tb
    flow: sim
    flow_options:
      tool: verilator
      mode: binary
      verilator_options: [--timing, -CFLAGS, -O0]  # it is short: what takes time is to compile it

  sim_icarus:
    <<: *sim
    description: the same under Icarus Verilog
    flow_options:
      tool: icarus
      iverilog_options: [-g2005-sv]

  synth:
    <<: *default
    description: files for a synthesis flow
    filesets: [rtl, constraints]
"""

_SHARE = Fraction(30, 100)


def sdc(params: PimRankParams, top: str) -> str:
    """Synopsys design constraints: the clock of the preset, and a budget for inputs and outputs."""
    period = float(params.timing.time_ps(params.ck_per_clock)) / 1000
    return _SDC.format(
        top=top,
        ck=params.ck_per_clock,
        mhz=1000 / period,
        period=f"{period:.3f}",
        share=int(_SHARE * 100),
        delay=f"{period * float(_SHARE):.3f}",
    )


def waivers(file: str) -> str:
    """Verilator configuration for ``-Wall``; the rules on without it are switched off in the Verilog itself."""
    return _WAIVERS.format(file=file)


def fusesoc_core(*, top: str, file: str, preset: str, version: str) -> str:
    """FuseSoC core description (CAPI2): targets lint, sim, and synth."""
    return _CORE.format(top=top, file=file, preset=preset, version=version)
