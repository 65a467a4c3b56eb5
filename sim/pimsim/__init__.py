"""Simulation: harnesses, stimulus, cocotb benches, checkers, and the timing model of a rank."""
