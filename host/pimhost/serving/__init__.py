"""Serving simulator: requests, KV-cache memory, batches, time."""
