"""GPU models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from pimspec.errors import UnknownNameError

from .aiconfigurator import MeasuredGpu
from .base import GpuTimes
from .model import GpuModel

__all__ = ["GPU_MODELS", "gpu_times"]

GPU_MODELS: Mapping[str, Callable[[str], GpuTimes]] = MappingProxyType(
    {"roofline": GpuModel.named, "aiconfigurator": MeasuredGpu.named}
)
"""Constructors by model name; each takes the name of a GPU."""


@cache
def gpu_times(model: str, gpu: str) -> GpuTimes:
    """Times of a GPU by a model; repeated calls return the same object, so its look-up caches stay.

    Raises
    ------
    UnknownNameError
    ParameterError
        If the model needs a package that is not installed, or does not know this GPU.
    """
    if model not in GPU_MODELS:
        raise UnknownNameError("GPU model", model, GPU_MODELS)
    return GPU_MODELS[model](gpu)
