"""GPU data sheets: peak rates, sizes, links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pimspec.errors import UnknownNameError

from .interconnect import NVLINK3, NVLINK4, PCIE4_X16, PCIE5_X16, Link

__all__ = ["GPUS", "GpuSpec", "gpu_named"]


@dataclass(frozen=True, kw_only=True)
class GpuSpec:
    """Data-sheet figures of one GPU.

    Parameters
    ----------
    name : str
    peak_flop_per_s : float
        Rate of dense 16-bit floating point with 32-bit accumulation.
    bandwidth_bytes_per_s : float
        Bandwidth of the GPU's memory.
    capacity_bytes : int
    num_sms : int
        Streaming multiprocessors.
    l2_bytes : int
    splits_mha_kv : bool
        True if the measured decode kernel splits the tokens of one head over several SMs when each query head has a
        kv_head of its own. FlashAttention-3 does; FlashAttention-2 does so only with grouped queries.
    tdp_w : float
    host_link : Link
    peer_link : Link or None
        Link to other GPUs.
    """

    name: str
    peak_flop_per_s: float
    bandwidth_bytes_per_s: float
    capacity_bytes: int
    num_sms: int
    l2_bytes: int
    splits_mha_kv: bool
    tdp_w: float
    host_link: Link
    peer_link: Link | None


GPUS: Mapping[str, GpuSpec] = MappingProxyType(
    {
        "A100": GpuSpec(
            name="A100",
            peak_flop_per_s=312e12,
            bandwidth_bytes_per_s=2.039e12,
            capacity_bytes=80 * 10**9,
            num_sms=108,
            l2_bytes=40 * 10**6,
            splits_mha_kv=False,
            tdp_w=400,
            host_link=PCIE4_X16,
            peer_link=NVLINK3,
        ),
        "H100": GpuSpec(
            name="H100",
            peak_flop_per_s=989e12,
            bandwidth_bytes_per_s=3.35e12,
            capacity_bytes=80 * 10**9,
            num_sms=132,
            l2_bytes=50 * 10**6,
            splits_mha_kv=True,
            tdp_w=700,
            host_link=PCIE5_X16,
            peer_link=NVLINK4,
        ),
        "H200": GpuSpec(
            name="H200",
            peak_flop_per_s=989e12,
            bandwidth_bytes_per_s=4.8e12,
            capacity_bytes=141 * 10**9,
            num_sms=132,
            l2_bytes=50 * 10**6,
            splits_mha_kv=True,
            tdp_w=700,
            host_link=PCIE5_X16,
            peer_link=NVLINK4,
        ),
        "L40S": GpuSpec(
            name="L40S",
            peak_flop_per_s=362.05e12,
            bandwidth_bytes_per_s=0.864e12,
            capacity_bytes=48 * 10**9,
            num_sms=142,
            l2_bytes=96 * 10**6,
            splits_mha_kv=False,
            tdp_w=350,
            host_link=PCIE4_X16,
            peer_link=None,
        ),
    }
)
"""GPUs by name: A100-SXM4-80G, H100-SXM5-80G, H200-SXM-141G, L40S-48G. Rates, capacity, power and links are from system
files of ai-dynamo/aiconfigurator (095f58a). SMs and L2 are from NVIDIA's white papers (Ampere, Hopper, Ada)."""


def gpu_named(name: str) -> GpuSpec:
    """Data sheet of the GPU of this name.

    Raises
    ------
    UnknownNameError
    """
    if name not in GPUS:
        raise UnknownNameError("GPU", name, GPUS)
    return GPUS[name]
