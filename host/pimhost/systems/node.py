"""Machine description: GPUs, and DIMMs with or without PIM behind memory channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pimspec.dram.organization import DramPreset, dram_preset
from pimspec.errors import require
from pimspec.params.presets import preset_named

from ..gpu.base import GpuTimes
from ..gpu.interconnect import Link
from ..gpu.registry import gpu_times
from ..gpu.specs import GpuSpec, gpu_named

__all__ = [
    "DGX_A100",
    "GIB",
    "MOST_CHANNELS",
    "MOST_RANKS_PER_CHANNEL",
    "MOST_RANK_BYTES",
    "MOST_TP",
    "Node",
]

GIB = 1 << 30
MOST_TP = 8
MOST_CHANNELS = 1024
MOST_RANKS_PER_CHANNEL = 64
MOST_RANK_BYTES = 4096 * GIB


@dataclass(frozen=True, kw_only=True)
class Node:
    """GPUs and memory channels, which the model's replicas share evenly.

    Parameters
    ----------
    gpu : str
        A GPU of :mod:`pimhost.gpu.specs`.
    tp_size : int
        GPUs of one replica (tensor parallelism).
    dp_size : int
        Replicas, each with its share of GPUs, channels and requests.
    channels : int
        Memory channels.
    ranks_per_channel : int
        R; the ranks with the same number in all channels form a rankset.
    rank_bytes : int
    preset : str
        Preset of the PIM rank; its DRAM part gives the timing of all DIMMs.
    gpu_memory_share : float
        Share of each GPU's memory for weights, K and V; the rest is for activations and the runtime.
    gpu_model : str
        Model of the GPU's kernel times (:mod:`pimhost.gpu.registry`).

    Raises
    ------
    ParameterError
    UnknownNameError
    """

    gpu: str = "A100"
    tp_size: int = 8
    dp_size: int = 1
    channels: int = 16
    ranks_per_channel: int = 4
    rank_bytes: int = 32 * GIB
    preset: str = "ddr4-3200-x8-8gb"
    gpu_memory_share: float = 0.9
    gpu_model: str = "roofline"

    def __post_init__(self) -> None:
        _ = self.spec, self.dram
        require(1 <= self.tp_size <= MOST_TP, "tp_size", self.tp_size, f"1..{MOST_TP}")
        require(1 <= self.dp_size <= MOST_CHANNELS, "dp_size", self.dp_size, f"1..{MOST_CHANNELS}")
        require(1 <= self.channels <= MOST_CHANNELS, "channels", self.channels, f"1..{MOST_CHANNELS}")
        require(self.channels % self.dp_size == 0, "channels", self.channels, f"a multiple of {self.dp_size} replicas")
        ranks, allowed = self.ranks_per_channel, f"1..{MOST_RANKS_PER_CHANNEL}"
        require(1 <= ranks <= MOST_RANKS_PER_CHANNEL, "ranks_per_channel", ranks, allowed)
        least, most = 1 << 20, MOST_RANK_BYTES
        require(least <= self.rank_bytes <= most, "rank_bytes", self.rank_bytes, f"{least}..{most}")
        require(0 < self.gpu_memory_share <= 1, "gpu_memory_share", self.gpu_memory_share, "above 0 and at most 1")

    @property
    def spec(self) -> GpuSpec:
        return gpu_named(self.gpu)

    @property
    def gpu_times(self) -> GpuTimes:
        """Kernel times of the GPU; raises if the model does not have this GPU or is not installed."""
        return gpu_times(self.gpu_model, self.gpu)

    @property
    def gpu_bytes(self) -> int:
        """Memory of one GPU for weights, K and V."""
        return int(self.spec.capacity_bytes * self.gpu_memory_share)

    @property
    def dram(self) -> DramPreset:
        return dram_preset(preset_named(self.preset).dram)

    @property
    def host_link(self) -> Link:
        return self.spec.host_link

    @property
    def num_ranks(self) -> int:
        return self.channels * self.ranks_per_channel

    def replica(self) -> Node:
        """Node of one replica."""
        return replace(self, dp_size=1, channels=self.channels // self.dp_size)


DGX_A100 = Node()
"""Node of L3/CHIME, Table I: 8 A100 of 80 GB; 16 channels of two DDR4-3200 DIMMs of two ranks, 2 TiB in all.

The paper's capacity needs 32 Gb dies, and its timing is that of an 8 Gb die; both are kept. The share of GPU memory is
vLLM's default ``gpu_memory_utilization``.
"""
