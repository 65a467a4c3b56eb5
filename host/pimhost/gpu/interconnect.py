"""Links between GPU, host and DIMMs: bandwidth in one direction, and latency of an empty transfer.

Bandwidths follow from the standards: they count payload after line coding, and ignore packet headers. Latencies are
those of the hardware. Software overheads (a launch, a doorbell) belong to the code that models the transfer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pimspec.errors import UnknownNameError, require

__all__ = [
    "DDR4_3200_CHANNEL",
    "DDR5_4800_CHANNEL",
    "LINKS",
    "NVLINK3",
    "NVLINK4",
    "PCIE4_X16",
    "PCIE5_X16",
    "Link",
    "link_named",
]


@dataclass(frozen=True, kw_only=True)
class Link:
    """A point-to-point link or a memory channel.

    Parameters
    ----------
    name : str
    bytes_per_s : float
        In one direction; for a memory channel, in both together.
    latency_ns : int
        Time before the first byte.
    source : str
    """

    name: str
    bytes_per_s: float
    latency_ns: int
    source: str

    def transfer_ns(self, num_bytes: int) -> int:
        """Time of one transfer; 0 for 0 bytes.

        Raises
        ------
        ParameterError
        """
        require(num_bytes >= 0, "num_bytes", num_bytes, "0 or more")
        return self.latency_ns + round(num_bytes / self.bytes_per_s * 1e9) if num_bytes else 0


_PCIE_LATENCY = "latency: 0.8 us round trip of a read, measured by github.com/andre-richter/pcie-lat, issue 4"
_NVLINK_LATENCY = "latency: not published, that of PCIe assumed; all-reduce has fitted ones of its own"

PCIE4_X16 = Link(
    name="PCIe 4.0 x16",
    bytes_per_s=16 * 16e9 / 8 * 128 / 130,
    latency_ns=800,
    source=f"PCI Express 4.0: 16 lanes of 16 GT/s, 128b/130b; {_PCIE_LATENCY}",
)
PCIE5_X16 = Link(
    name="PCIe 5.0 x16",
    bytes_per_s=16 * 32e9 / 8 * 128 / 130,
    latency_ns=800,
    source=f"PCI Express 5.0: 16 lanes of 32 GT/s, 128b/130b; {_PCIE_LATENCY}",
)
NVLINK3 = Link(
    name="NVLink 3",
    bytes_per_s=300e9,
    latency_ns=800,
    source=f"A100 data sheet: 600 GB/s in both directions; {_NVLINK_LATENCY}",
)
NVLINK4 = Link(
    name="NVLink 4",
    bytes_per_s=450e9,
    latency_ns=800,
    source=f"H100 data sheet: 900 GB/s in both directions; {_NVLINK_LATENCY}",
)
DDR4_3200_CHANNEL = Link(
    name="DDR4-3200 channel",
    bytes_per_s=3200e6 * 8,
    latency_ns=30,
    source="JESD79-4: 64 bits at 3200 MT/s; latency: tRCD + CL + BL/2 of the 22-22-22 bin, 48 clocks of 0.625 ns",
)
DDR5_4800_CHANNEL = Link(
    name="DDR5-4800 channel",
    bytes_per_s=4800e6 * 8,
    latency_ns=37,
    source="JESD79-5: 2 x 32 bits at 4800 MT/s; latency: tRCD + CL + BL/2 of the 40-39-39 bin, 87 clocks of 0.417 ns",
)

LINKS: Mapping[str, Link] = MappingProxyType(
    {
        link.name: link
        for link in (PCIE4_X16, PCIE5_X16, NVLINK3, NVLINK4, DDR4_3200_CHANNEL, DDR5_4800_CHANNEL)
    }
)  # fmt: skip


def link_named(name: str) -> Link:
    """The link of this name.

    Raises
    ------
    UnknownNameError
    """
    if name not in LINKS:
        raise UnknownNameError("link", name, LINKS)
    return LINKS[name]
