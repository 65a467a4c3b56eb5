"""Batches of requests on a GPU and ranks that share a memory channel."""
