"""The serving simulator: requests, memory for their K and V, batches, time."""
