"""Serving systems by name: those of the project, and those in a user's file."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pimspec.errors import ParameterError, UnknownNameError, require

from .base import ServingSystem
from .cpu_offload import CpuOffload
from .gpu_only import GpuOnly
from .hbm_pim import HbmPim, HbmPimExtended
from .l3 import L3
from .l3_spread import L3Spread
from .rank_pim import RankPim

__all__ = ["SYSTEMS", "system_named"]

SYSTEMS: Mapping[str, type[ServingSystem]] = MappingProxyType(
    {system.name: system for system in (GpuOnly, HbmPim, HbmPimExtended, CpuOffload, RankPim, L3, L3Spread)}
)
_ALIASES = {"chime": "L3"}


def system_named(name: str) -> type[ServingSystem]:
    """System class of this name, or ``FILE.py:CLASS``, which runs that file.

    Raises
    ------
    UnknownNameError
    ParameterError
        If the file cannot be run, or has no such class.
    """
    known = {key.lower(): key for key in SYSTEMS} | _ALIASES
    if name.lower() in known:
        return SYSTEMS[known[name.lower()]]
    file, colon, cls = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UnknownNameError("system", name, [*SYSTEMS, "FILE.py:CLASS"])
    path = Path(file)
    require(path.is_file(), "file of a system", file, "one that exists")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ParameterError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ParameterError(f"{file}: {type(error).__name__}: {error}") from error
    found = getattr(module, cls, None)
    right = isinstance(found, type) and issubclass(found, ServingSystem)
    require(right, f"{cls} of {file}", found, "a subclass of pimhost.systems.base.ServingSystem")
    return found  # type: ignore[return-value]
