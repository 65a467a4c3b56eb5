"""Backends by name: what stands behind a :class:`~pimspec.device.PimDevice` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dimmpim.rtl_device import RtlDevice
from pimhost.devices.stored import GoldenDevice, ReferenceDevice
from pimspec.attention import AttentionShape
from pimspec.device import PimDevice
from pimspec.dpa_params import DpaParams
from pimspec.errors import UnknownNameError

__all__ = ["BACKENDS", "open_device"]

BACKENDS: Mapping[str, Callable[[DpaParams, AttentionShape, int], PimDevice]] = MappingProxyType(
    {"reference": ReferenceDevice, "golden": GoldenDevice, "rtl": RtlDevice}
)
"""From names to functions of the rank, the shape of a layer, and the number of layers."""


def open_device(backend: str, dpa: DpaParams, shape: AttentionShape, num_layers: int) -> PimDevice:
    """A device without requests, to be closed by the caller; raises :class:`UnknownNameError`."""
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    return BACKENDS[backend](dpa, shape, num_layers)
