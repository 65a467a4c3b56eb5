"""Rank-level PIM: a PU on the buffer chip only, which reads K and V over the bus of its own chips."""

from __future__ import annotations

from pimspec.dram import limits

from .l3 import DimmSystem
from .memory_energy import MemoryEnergy, rank_memory
from .pim_latency import AttentionLatency, StreamLatency

__all__ = ["RankPim"]


class RankPim(DimmSystem):
    """System with the DIMMs, layout and scheduler of L3 and the bandwidth of a rank's bus: CHIME's R-PIM.

    Rows open and close under the reads of other banks. The bus bandwidth is reduced by the time of refresh.
    """

    name = "R-PIM"

    def attention_latency(self) -> AttentionLatency:
        dram = self.node.dram
        rate = limits.external_bandwidth_bytes_per_s(dram) * limits.refresh_efficiency(dram.timing)
        return StreamLatency(bytes_per_s=rate, head_dim=self.shape.head_dim)

    def memory_energy(self) -> MemoryEnergy:
        return rank_memory(self.node)
