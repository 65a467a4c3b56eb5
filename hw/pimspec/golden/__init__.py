"""Bit-exact models: pure functions on integer bit patterns, one file a hardware unit."""
