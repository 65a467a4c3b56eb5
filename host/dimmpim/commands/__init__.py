"""Subcommands of `dimmpim`."""

from .ablation import ablation
from .area import area
from .attention import attention
from .batch import batch
from .bench import bench
from .capacity import capacity
from .compare import compare
from .export import export
from .fit_gpu import fit_gpu
from .formal import formal
from .generate import generate
from .gpu_times import gpu_times_command
from .pim_energy import pim_energy
from .pim_latency import pim_latency
from .presets import presets
from .programs import asm, compile_command, disasm, isa
from .run import run
from .scheduling import scheduling
from .serve import serve
from .simulate import simulate
from .sweep import sweep
from .verilog import verilog
from .workload import workload

ALL = (
    presets, verilog, simulate, attention, ablation, area, formal, bench,
    compile_command, asm, disasm, run, isa, capacity, scheduling, generate, batch, workload, fit_gpu,
    gpu_times_command, pim_latency, pim_energy, serve, compare, sweep, export,
)  # fmt: skip
