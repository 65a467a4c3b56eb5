"""Subcommands of `dimmpim`."""

from .ablation import ablation
from .area import area
from .attention import attention
from .bench import bench
from .capacity import capacity
from .presets import presets
from .programs import asm, disasm, isa
from .simulate import simulate
from .verilog import verilog

ALL = (presets, verilog, simulate, attention, ablation, area, bench, asm, disasm, isa, capacity)
