"""CPU-offload system: K and V in the host's memory, attention on its CPU (FastDecode, NEO)."""

from __future__ import annotations

from pimspec.dram import limits

from .disaggregated import OnePool
from .memory_energy import MemoryEnergy, cpu_memory
from .pim_latency import AttentionLatency, StreamLatency

__all__ = ["CpuOffload"]


class CpuOffload(OnePool):
    """Two sub-batches alternate between GPU and CPU; the CPU reads K and V at the bandwidth of the memory channels.

    The CPU's arithmetic is assumed to keep up. NEO leaves some requests on the GPU; here, as in FastDecode, the CPU
    attends for all of them.
    """

    name = "CPU"

    @property
    def memory_bytes_per_s(self) -> float:
        return self.node.channels * limits.external_bandwidth_bytes_per_s(self.node.dram)

    @property
    def pool_bytes(self) -> int:
        return self.node.num_ranks * self.node.rank_bytes

    def attention_latency(self) -> AttentionLatency:
        rate = self.memory_bytes_per_s * limits.refresh_efficiency(self.node.dram.timing)
        return StreamLatency(bytes_per_s=rate, head_dim=self.shape.head_dim)

    def memory_energy(self) -> MemoryEnergy:
        return cpu_memory(self.node)
