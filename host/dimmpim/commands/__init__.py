"""Subcommands of `dimmpim`."""

from .area import area
from .bench import bench
from .presets import presets
from .simulate import simulate
from .verilog import verilog

ALL = (presets, verilog, simulate, area, bench)
