"""Serving systems under the same requests: GPUs alone, and GPUs with DIMM-PIM as in L3/CHIME."""

import dimmpim

requests = dimmpim.workload(lengths="Dolphin-r1", num_requests=30, rate=2.0, seed=1)
node = dimmpim.Node(gpu="A100", tp_size=8, channels=16, ranks_per_channel=4)

l3 = dimmpim.serve("L3", "GPT-175B", requests, node=node).figures
print(f"L3: {l3.output_tokens_per_s:,.0f} tokens/s, TPOT p50 {l3.tpot.p50:.1f} ms")
print(f"    {l3.energy.j_per_output_token:.1f} J a token, the GPUs at work {l3.gpu_utilization:.0%} of the time")
print()
print(dimmpim.compare(["GPU", "R-PIM", "L3"], "GPT-175B", requests, node=node))
