"""Types of other packages that users of the Python API name: parameters, shapes, requests, machines and errors."""

from pimhost.models import ModelShape
from pimhost.systems.node import Node
from pimhost.workloads.workload import Workload
from pimspec.attention.shape import AttentionShape
from pimspec.errors import (
    OutOfMemoryError,
    ParameterError,
    PimError,
    RankError,
    ToolError,
    UnknownNameError,
)
from pimspec.isa import Fault
from pimspec.params.pim_rank import PimRankParams

__all__ = [
    "AttentionShape",
    "Fault",
    "ModelShape",
    "Node",
    "OutOfMemoryError",
    "ParameterError",
    "PimError",
    "PimRankParams",
    "RankError",
    "ToolError",
    "UnknownNameError",
    "Workload",
]
