"""A Llama-architecture model in NumPy whose decode attention a PIM device computes."""
