"""One decode step of attention in float64, on the golden model, on the RTL of a small rank, and in its timing model.

The first run compiles the RTL of the rank, which takes some seconds.
"""

import numpy as np

import dimmpim

q, k, v = dimmpim.synthetic_qkv(num_q_heads=4, num_kv_heads=2, head_dim=16, num_tokens=200, seed=7)

exact = dimmpim.attention(q, k, v, backend="reference", preset="tiny")
golden = dimmpim.attention(q, k, v, backend="golden", preset="tiny")
rtl = dimmpim.attention(q, k, v, backend="rtl", preset="tiny")
timing = dimmpim.attention(q, k, v, backend="timing", preset="tiny")

print(f"first output of head 0: {exact.output[0, 0]:.6f} in float64, {golden.output[0, 0]:.6f} on the golden model")
print(f"greatest relative error of a head: {golden.max_error:.1e}")
print(f"RTL equals the golden model: {np.array_equal(rtl.output, golden.output)}")
print(f"clocks: {rtl.clocks:,} on RTL, {timing.clocks:,} in the timing model")
print(f"share of the peak of all banks: {rtl.utilization_of_peak:.1%}")
