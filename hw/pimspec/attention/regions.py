"""Regions of the virtual rows of a request: K, and V, of each kv_head of each layer, on a rank with a DPA controller.

Row step n of region r is virtual row ``n * num_regions + r``, so that all regions grow together, token by token.
"""

from __future__ import annotations

from .shape import AttentionShape

__all__ = ["num_regions", "region_of"]


def num_regions(shape: AttentionShape, num_layers: int = 1) -> int:
    """Number of regions of a request whose memory holds `num_layers` layers."""
    return 2 * num_layers * shape.num_kv_heads


def region_of(shape: AttentionShape, layer: int, kv_head: int, *, v: bool) -> int:
    """Region of K, or of V, of a kv_head."""
    return 2 * (layer * shape.num_kv_heads + kv_head) + int(v)
