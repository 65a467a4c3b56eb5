from .api.attention import AttentionResult, attention, synthetic_qkv
from .api.clocks import AttentionTime, attention_time
from .api.models import model, models
from .api.presets import Preset, preset, presets
from .api.programs import ProgramResult, assemble, attention_program, disassemble, run_program
from .api.serving import Comparison, ServeResult, compare, serve, systems, workload
from .api.types import (
    AttentionShape,
    Fault,
    ModelShape,
    Node,
    OutOfMemoryError,
    ParameterError,
    PimError,
    PimRankParams,
    RankError,
    ToolError,
    UnknownNameError,
    Workload,
)

__all__ = [
    "AttentionResult",
    "AttentionShape",
    "AttentionTime",
    "Comparison",
    "Fault",
    "ModelShape",
    "Node",
    "OutOfMemoryError",
    "ParameterError",
    "PimError",
    "PimRankParams",
    "Preset",
    "ProgramResult",
    "RankError",
    "ServeResult",
    "ToolError",
    "UnknownNameError",
    "Workload",
    "assemble",
    "attention",
    "attention_program",
    "attention_time",
    "compare",
    "disassemble",
    "model",
    "models",
    "preset",
    "presets",
    "run_program",
    "serve",
    "synthetic_qkv",
    "systems",
    "workload",
]
