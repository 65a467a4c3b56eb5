"""L3 with the kv_heads of a request spread over the channels, which a token-per-chip rank allows."""

from __future__ import annotations

from .l3 import L3

__all__ = ["L3Spread"]


class L3Spread(L3):
    """As many channels for one request as its kv_heads fill evenly: long requests hold up one rank less.

    CHIME's mapping puts the kv_heads of GQA-8 side by side on the chips of one rank; ours has each kv_head on all chips
    of a rank, so that they need not be together. The same as L3 for MHA.
    """

    name = "L3-spread"

    @property
    def channels_per_request(self) -> int:
        heads = self.shape.num_kv_heads
        even = [n for n in range(1, self.num_channels + 1) if self.num_channels % n == 0]
        return self.num_channels if self.shape.gqa_group_size == 1 else max(n for n in even if n <= heads)
