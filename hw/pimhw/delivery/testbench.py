"""Self-checking testbench of a generated rank, in Verilog that Verilator and Icarus run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pimspec.dram.commands import Command
from pimspec.hostif.window import ControlOp
from pimspec.params.pim_rank import PimRankParams

__all__ = ["rank_testbench"]

_TEXT = """\
// Testbench of {top}: reset, the status line through the host bus, TAKE, and the status again.
module {top}_tb;
  localparam LINE = {line_bits};
  reg clk = 0;
  reg rst = 1;
{signals}
  reg [LINE-1:0] answer;
  integer errors = 0;
  integer waited;
  integer turn;

  {top} dut (
{connections}
  );

  always #1 clk = ~clk;

  task command;  // one command in the first CK of a clock
    input [{last_payload}:0] payload;
    begin
      @(negedge clk);
      host__0__valid = 1;
      host__0__payload = payload;
      @(negedge clk);
      host__0__valid = 0;
    end
  endtask

  task idle;
    input integer clocks;
    repeat (clocks) @(negedge clk);
  endtask

  task write_control;  // a WR of line 0 of the window; its data come {write_clocks} clocks later
    input [LINE-1:0] word;
    begin
      command({write});
      idle({write_wait});
      host_data = word;
      @(negedge clk);
      host_data = 0;
    end
  endtask

  task read_status;
    begin
      command({read});
      waited = 0;
      while (!host_out_valid && waited < {patience}) begin
        @(negedge clk);
        waited = waited + 1;
      end
      if (!host_out_valid) begin
        $display("FAIL: no line after %0d clocks", waited);
        errors = errors + 1;
      end
      answer = host_out_data;
      @(negedge clk);
    end
  endtask

  task expect_status;
    input [LINE-1:0] expected;
    if (answer !== expected) begin
      $display("FAIL: status is %h, must be %h", answer, expected);
      errors = errors + 1;
    end
  endtask

  initial begin
    idle(4);
    rst = 0;
    idle(4);
    command({activate});
    idle({activate_wait});
    read_status;
    expect_status({host_owns});
    idle({gap});
    write_control({take});
    answer = 0;
    // The host's row is in the window, so nothing keeps PIM from taking the DRAM over.
    for (turn = 0; turn < {patience} && !answer[{owner_bit}]; turn = turn + 1) begin
      idle({gap});
      read_status;
    end
    expect_status({pim_owns});
    if (errors != 0) begin
      $display("FAIL: %0d errors", errors);
      $fatal;
    end
    $display("PASS: {top}");
    $finish;
  end
endmodule
"""


def rank_testbench(params: PimRankParams, top: str, ports: Iterable[Mapping[str, Any]]) -> str:
    """Text of module ``<top>_tb``; the cell arrays read as zero."""
    ports = list(ports)
    p, w, t = params, params.window, params.timing
    row, bank, column = w.address(w.regions["control"].base)

    def command(code: Command) -> str:
        values = {"code": code, "bank": bank, "row": 0, "column": 0}
        values["row" if code is Command.ACT else "column"] = row if code is Command.ACT else column
        return _hex(p.host_command.width, p.host_command.pack_int(**values))

    def clocks(cycles: int) -> int:
        return -(-cycles // p.ck_per_clock)

    line = p.line_bytes * 8
    values = {
        "top": top,
        "line_bits": line,
        "signals": "\n".join(_signal(port) for port in ports if port["name"] not in ("clk", "rst")),
        "connections": ",\n".join(f"    .{port['name']}({port['name']})" for port in ports),
        "last_payload": p.host_command.width - 1,
        "write_clocks": p.chip.write_clocks,
        "write_wait": p.chip.write_clocks - 1,
        "activate": command(Command.ACT),
        "read": command(Command.RD),
        "write": command(Command.WR),
        "activate_wait": clocks(t.nRCD),
        "gap": clocks(t.nRFC),
        "patience": 200,
        "host_owns": _hex(line, w.status.pack_int(owner=0, refresh_2x=int(p.refresh_rate == 2))),
        "pim_owns": _hex(line, w.status.pack_int(owner=1, refresh_2x=int(p.refresh_rate == 2))),
        "owner_bit": w.status.places["owner"].offset,
        "take": _hex(line, w.control.pack_int(op=ControlOp.TAKE)),
    }
    return _TEXT.format_map(values)


def _signal(port: Mapping[str, Any]) -> str:
    kind, start = ("reg", " = 0") if port["direction"] == "input" else ("wire", "")
    vector = f" [{port['width'] - 1}:0]" if port["width"] > 1 else ""
    return f"  {kind}{vector} {port['name']}{start};"


def _hex(width: int, value: int) -> str:
    return f"{width}'h{value:x}"
