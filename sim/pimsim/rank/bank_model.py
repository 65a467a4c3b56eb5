"""Bank PU as a separate simulation model, with many instances in the model of a chip.

Flattened into a chip, its code would be repeated for each bank: that takes minutes to compile and does not fit the
caches. Verilator's own libraries (``--lib-create``) evaluate such a model four times a clock. Once is enough here: all
outputs of the bank PU but `sum` are registers or depend on registers alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["OBJECT_SOURCE", "bank_object", "bank_wrapper", "on_each_toggle"]

SHOWN = ("sum_select", "sum_set")
"""Inputs that `sum` follows without a register."""
UNUSED = "command__ready"
"""Output that follows `column__valid`; a chip does not use it."""
OBJECT_SOURCE = "bank_object.cpp"


@dataclass(frozen=True)
class _Port:
    name: str
    is_input: bool
    width: int

    @property
    def declaration(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.type} {self.name}"

    @property
    def type(self) -> str:
        return "bit" if self.width == 1 else f"bit [{self.width - 1}:0]"

    @property
    def argument(self) -> str:
        """C argument of the port, as in the DPI."""
        if self.width == 1:
            return f"svBit{'' if self.is_input else '*'} {self.name}"
        return f"{'const ' if self.is_input else ''}svBitVecVal* {self.name}"

    @property
    def member(self) -> str:
        """C++ member of the port, as Verilator names it."""
        return "top." + self.name.replace("__", "___05F")

    @property
    def copy(self) -> str:
        if self.width == 1:
            return f"{self.member} = {self.name};" if self.is_input else f"*{self.name} = {self.member};"
        words = -(-self.width // 32)
        return f"{'put' if self.is_input else 'get'}({self.member}, {self.name}, {words});"


def on_each_toggle(verilog: str) -> str:
    """The same module with each change of `clk` as a clock: one evaluation of the model a clock, instead of two."""
    return re.sub(r"\bposedge clk\b", "edge clk", verilog)


def _ports(verilog: str) -> list[_Port]:
    (body,) = re.findall(r"^module bank_pu\(.*?^endmodule", verilog, re.M | re.S)
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", body, re.M)
    return [_Port(name, way == "input", int(high or 0) + 1) for way, high, name in found]


def _groups(verilog: str) -> tuple[list[_Port], list[_Port], list[_Port], _Port]:
    """All ports; the inputs and outputs of a clock; `sum`."""
    ports = _ports(verilog)
    inputs = [p for p in ports if p.is_input and p.name != "clk"]
    outputs = [p for p in ports if not p.is_input and p.name not in ("sum", UNUSED)]
    return ports, inputs, outputs, next(p for p in ports if p.name == "sum")


def bank_wrapper(verilog: str) -> str:
    """SystemVerilog of ``bank_pu`` for the model of a chip, which calls the functions of :func:`bank_object`."""
    ports, inputs, outputs, total = _groups(verilog)
    shown = [p for p in inputs if p.name in SHOWN]
    passed = ", ".join(["it", *(p.name for p in inputs), *(f"next_{p.name}" for p in outputs)])
    lines = [
        f"module bank_pu({', '.join(p.declaration for p in ports)});",
        'import "DPI-C" function chandle bank_pu_new();',
        'import "DPI-C" function void bank_pu_delete(input chandle it);',
        f'import "DPI-C" function void bank_pu_clock(input chandle it, '
        f"{', '.join(p.declaration for p in inputs + outputs)});",
        f'import "DPI-C" function void bank_pu_show(input chandle it, input bit turn, '
        f"{', '.join(p.declaration for p in [*shown, total])});",
        "chandle it;",
        "bit turn;",
        *(f"{p.type} next_{p.name};" for p in outputs),
        f"assign {UNUSED} = 0;",
        "initial it = bank_pu_new();",
        "final bank_pu_delete(it);",
        "always @(edge clk) begin",
        f"  bank_pu_clock({passed});",
        *(f"  {p.name} <= next_{p.name};" for p in outputs),
        "  turn <= ~turn;",
        "end",
        f"always_comb bank_pu_show(it, turn, {', '.join(p.name for p in shown)}, sum);",
        "endmodule",
        "",
    ]
    return "\n".join(lines)


def bank_object(verilog: str) -> str:
    """C++ of the functions that :func:`bank_wrapper` calls."""
    _, inputs, outputs, total = _groups(verilog)
    shown = [p for p in inputs if p.name in SHOWN]
    differ = " || ".join(f"it->last_{p.name} != {p.name if p.width == 1 else f'*{p.name}'}" for p in shown)
    keep = " ".join(f"it->last_{p.name} = {p.name if p.width == 1 else f'*{p.name}'};" for p in shown)
    return "\n".join(
        [
            '#include "verilated.h"',
            '#include "svdpi.h"',
            '#include "verilated_ports.h"',
            '#include "Vbank_pu.h"',
            "namespace {",
            "struct Bank {",
            "    VerilatedContext context;",
            "    Vbank_pu top{(context.randReset(2), context.randSeed(1), &context)};",
            *(f"    uint32_t last_{p.name} = ~0u;" for p in shown),
            "    Bank() { top.clk = 0; top.eval(); }",
            "};",
            "}",
            'extern "C" {',
            "void* bank_pu_new() { return new Bank; }",
            "void bank_pu_delete(void* bank) { delete static_cast<Bank*>(bank); }",
            f"void bank_pu_clock(void* bank, {', '.join(p.argument for p in inputs + outputs)}) {{",
            "    Bank* const it = static_cast<Bank*>(bank);",
            "    Vbank_pu& top = it->top;",
            *(f"    {p.copy}" for p in inputs),
            f"    {keep}",
            "    top.clk ^= 1;",
            "    top.eval();",
            *(f"    {p.copy}" for p in outputs),
            "}",
            f"void bank_pu_show(void* bank, svBit, {', '.join(p.argument for p in [*shown, total])}) {{",
            "    Bank* const it = static_cast<Bank*>(bank);",
            "    Vbank_pu& top = it->top;",
            f"    if ({differ}) {{",
            *(f"        {p.copy}" for p in shown),
            f"        {keep}",
            "        top.eval();",
            "    }",
            f"    {total.copy}",
            "}",
            "}",
            "",
        ]
    )
