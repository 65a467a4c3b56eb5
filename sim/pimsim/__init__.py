"""Simulation: harnesses, stimulus, cocotb benches and checkers."""
