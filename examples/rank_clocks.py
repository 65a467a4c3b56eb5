"""Time of the decode attention of a model on ranks with PIM, for several contexts and numbers of ranks."""

import dimmpim

MODEL = "Llama-3.1-8B"

rank = dimmpim.preset("ddr4-3200-x8-8gb")
print(f"{rank.name}: {rank.chips} chips x {rank.banks_per_chip} banks, {rank.bank_bytes_per_s / 1e9:.0f} GB/s inside")
print(f"{MODEL}: bank PUs for {rank.rank_for(MODEL).queries_at_once} queries of a kv_head")
print()
print(" tokens  ranks  ms a token  of peak  bound by")
for tokens in (1024, 8192, 65536):
    for ranks in (1, 8):
        time = dimmpim.attention_time(MODEL, tokens, ranks=ranks, preset=rank)
        print(f"{tokens:7,}  {ranks:5}  {time.ns / 1e6:10.3f}  {time.utilization_of_peak:7.1%}  {time.bound}")
