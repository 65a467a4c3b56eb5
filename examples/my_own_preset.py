"""A rank of one's own: half the chips of a preset and smaller segments, and what that does to the clocks."""

from dataclasses import replace

import dimmpim

base = dimmpim.preset("ddr4-3200-x8-8gb")
mine = dimmpim.Preset(
    name="four-chips", description="half a rank", rank=replace(base.rank, chips=4, segment_tokens=4096)
)

for preset in (base, mine):
    time = dimmpim.attention_time("Llama-3.1-8B", tokens=8192, preset=preset)
    print(f"{preset.name}: {preset.capacity_bytes / 2**30:g} GiB, {preset.bank_bytes_per_s / 1e9:.1f} GB/s inside")
    print(f"  {time.ns / 1e6:.2f} ms a token, {time.utilization_of_peak:.1%} of the peak")

q, k, v = dimmpim.synthetic_qkv(num_q_heads=4, num_kv_heads=1, head_dim=128, num_tokens=1000)
print(f"error against float64: {dimmpim.attention(q, k, v, preset=mine).max_error:.1e}")

try:
    dimmpim.Preset(name="no-rank", rank=replace(base.rank, chips=3))
except dimmpim.PimError as error:
    print(f"refused: {error}")
