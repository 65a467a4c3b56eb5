"""L3 with a request's kv_heads spread over the channels, which a rank with tokens dealt over its chips allows."""

from __future__ import annotations

from .l3 import L3

__all__ = ["L3Spread"]


class L3Spread(L3):
    """L3 with as many channels for a request as its kv_heads fill evenly: a long request holds up each rank less.

    CHIME's mapping puts the kv_heads of GQA-8 side by side on the chips of one rank. Here each kv_head lies on all
    chips of a rank, so the kv_heads need not be together. The system equals L3 for MHA.
    """

    name = "L3-spread"

    @property
    def channels_per_request(self) -> int:
        heads = self.shape.num_kv_heads
        even = [n for n in range(1, self.num_channels + 1) if self.num_channels % n == 0]
        return self.num_channels if self.shape.gqa_group_size == 1 else max(n for n in even if n <= heads)
