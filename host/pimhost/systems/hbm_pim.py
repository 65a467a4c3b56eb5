"""PIM in the GPU's own memory: AttAcc, NeuPIMs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import require

from ..gpu.operators import ELEMENT_BYTES
from ..models import ModelShape
from ..serving.batch import Load, Times
from .disaggregated import OnePool
from .gpu_only import GpuOnly
from .memory_energy import HBM_BANK_PJ_PER_BIT, HBM_PJ_PER_BIT, MemoryEnergy, host_link_pj_per_byte
from .node import Node
from .pim_latency import AttentionLatency, StreamLatency

__all__ = ["ATTACC_BANDWIDTH_RATIO", "HbmPim", "HbmPimExtended"]

IntArray = NDArray[np.int64]

ATTACC_BANDWIDTH_RATIO = 16
"""Bandwidth of all banks of an HBM over that of its interface: AttAcc, as CHIME counts it (Table I: 260.8 TB/s over
16.3). Under AttAcc's power limit the ratio is 9. CHIME gives its baselines their maximum, and so does this model."""


class HbmPim(GpuOnly):
    """System with the capacity of a GPU's memory and the bandwidth of its banks; GPU and PIM alternate, as in AttAcc.

    Two sub-batches (NeuPIMs) would read the weights twice, to overlap an attention that takes hardly any time.
    """

    name = "HBM-PIM"
    has_pim = True

    def times(self, loads: Sequence[Load], steps: int) -> Times:
        (load,) = loads
        gpu = self.shape.num_layers * self.dense_layer_ns(load) + self.head_ns(load)
        pim = self.shape.num_layers * self.attention_ns(load, steps)
        return Times(
            duration=gpu + pim,
            gpu=np.full(steps, gpu, np.int64),
            pim=pim,
            pim_mean=pim,
            link_bytes=np.zeros(steps, np.int64),
        )

    def attention_ns(self, load: Load, steps: int) -> IntArray:
        """Attention time of one layer, at the bandwidth of all banks."""
        rate = ATTACC_BANDWIDTH_RATIO * self.node.spec.bandwidth_bytes_per_s * self.node.tp_size
        tokens = load.context_sum + load.decodes * np.arange(steps)
        kv_bytes = 2 * self.shape.num_kv_heads * self.shape.head_dim * ELEMENT_BYTES
        return np.rint(tokens * (kv_bytes / rate * 1e9)).astype(np.int64)

    def memory_energy(self) -> MemoryEnergy:
        """Energy of PIM reads; the GPUs' static power holds the standby, and their work the bytes of new K and V."""
        return MemoryEnergy(read_pj_per_byte=8 * HBM_BANK_PJ_PER_BIT)


class HbmPimExtended(OnePool):
    """System with further HBM-PIM modules beside the GPUs, for the price of the DIMMs: only they hold K and V."""

    name = "HBM-PIM-EXT"

    MODULES = 20
    MODULE_BYTES = 16 * 10**9
    MODULE_BYTES_PER_S = 130.4e12 / 20
    """Figures of CHIME, Table I: 20 modules, 320 GB, 130.4 TB/s."""

    def __init__(self, shape: ModelShape, node: Node) -> None:
        require(node.channels * self.MODULES % 16 == 0, "channels", node.channels, "a multiple of 4, for 20 modules")
        super().__init__(shape, node)

    @property
    def modules(self) -> int:
        """Modules of one replica: its share of them equals its share of the node's 16 channels."""
        return self.node.channels * self.MODULES // 16

    @property
    def memory_bytes_per_s(self) -> float:
        return self.modules * self.MODULE_BYTES_PER_S / ATTACC_BANDWIDTH_RATIO

    @property
    def pool_bytes(self) -> int:
        return self.modules * self.MODULE_BYTES

    def memory_energy(self) -> MemoryEnergy:
        link = host_link_pj_per_byte(self.node)
        found = MemoryEnergy(read_pj_per_byte=8 * HBM_BANK_PJ_PER_BIT, write_pj_per_byte=8 * HBM_PJ_PER_BIT)
        found = found.unknown("no documented standby of HBM modules", "standby_w", "refresh_w", "active_w")
        reason = f"no measured energy of {self.node.host_link.name}"
        return found.unknown(reason, "link_pj_per_byte") if link is None else replace(found, link_pj_per_byte=link)

    def attention_latency(self) -> AttentionLatency:
        return StreamLatency(bytes_per_s=self.modules * self.MODULE_BYTES_PER_S, head_dim=self.shape.head_dim)
