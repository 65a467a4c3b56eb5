"""Published figures of other projects, to print beside measured ones; each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["CHIME_ABLATION", "CHIME_TOKENS"]

CHIME_TOKENS = (512, 1024, 2048, 4096, 8192)

CHIME_ABLATION: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "MHA": {
            "R-DP": (4.510, 5.041, 5.357, 5.530, 5.620),
            "Base": (1.0, 1.0, 1.0, 1.0, 1.0),
            "+Relayout": (0.831, 0.906, 0.950, 0.974, 0.987),
            "+Pipeline": (0.606, 0.654, 0.682, 0.698, 0.706),
        },
        "GQA-8": {
            "R-DP": (1.611, 1.745, 1.821, 1.861, 1.883),
            "Base": (1.0, 1.0, 1.0, 1.0, 1.0),
            "+Relayout": (0.886, 0.938, 0.967, 0.983, 0.992),
            "+Pipeline": (0.251, 0.245, 0.242, 0.240, 0.239),
        },
    }
)
"""Attention latency over that of Base at CHIME_TOKENS: L3/CHIME, data of the ablation figure; DDR4-3200 x8, d 128.

Simulated without tFAW; R-DP is a PU on the buffer chip only, at the bandwidth of the rank's bus.
"""
