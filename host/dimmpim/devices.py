"""Backends by name: what stands behind a :class:`~pimspec.hostif.device.PimDevice` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dimmpim.rank_run import open_rank
from pimhost.devices.stored import GoldenDevice, ReferenceDevice
from pimhost.driver.rank_device import RtlDevice
from pimspec.attention.shape import AttentionShape
from pimspec.errors import UnknownNameError
from pimspec.hostif.device import PimDevice
from pimspec.params.dpa import DpaParams

__all__ = ["BACKENDS", "open_device", "open_rtl_device"]


def open_rtl_device(dpa: DpaParams, shape: AttentionShape, num_layers: int, *, threads: int = 1) -> RtlDevice:
    """A device in RTL; the first build of its rank takes minutes."""
    return RtlDevice(dpa, shape, num_layers, sim=open_rank(dpa.rank, dpa, threads=threads))


BACKENDS: Mapping[str, Callable[[DpaParams, AttentionShape, int], PimDevice]] = MappingProxyType(
    {"reference": ReferenceDevice, "golden": GoldenDevice, "rtl": open_rtl_device}
)
"""From names to functions of the rank, the shape of a layer, and the number of layers."""


def open_device(backend: str, dpa: DpaParams, shape: AttentionShape, num_layers: int) -> PimDevice:
    """A device without requests, to be closed by the caller; raises :class:`UnknownNameError`."""
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    return BACKENDS[backend](dpa, shape, num_layers)
