"""A Llama-architecture model in NumPy; a PIM device computes its decode attention."""
