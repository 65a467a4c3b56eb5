"""A DPA program of one's own: attention of the second kv_head alone, on the golden model and in the timing model."""

import dimmpim

# Virtual row = block * regions + region: with two kv_heads there are four regions, K and V of each.
PROGRAM = """
movi x0, 2                  ; queries of kv_head 1: two entries for each kv_head
movi x3, 2                  ; its K
movi x4, 3                  ; its V
wr_inp queries, x0
loop segments {
    softmax
    loop rows {
        mac tree, x3 += 4
        rd_out scores
    }
    loop rows {
        wr_inp probs
        mac lane, x4 += 4
    }
    rd_out sums
    merge x1                ; into entries 0 and 1
}
end advance
"""

for backend in ("golden", "timing"):
    result = dimmpim.run_program(PROGRAM, num_q_heads=4, num_kv_heads=2, tokens=500, backend=backend)
    print(
        f"{backend}: {result.instructions} instructions, {len(result.micro_ops)} micro-ops, fault {result.fault.name}"
    )
    print(f"  error {result.max_error:.1e}" if result.max_error else f"  clocks {result.clocks:,}")

wrong = dimmpim.run_program(PROGRAM.replace("movi x3, 2", "movi x3, 9999"), num_q_heads=4, num_kv_heads=2)
print(f"a wrong address: {wrong.fault.name} of row {wrong.fault_row} at `{wrong.fault_instruction}`")
