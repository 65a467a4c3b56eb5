"""Compiler of DPA programs."""
