"""Compiler from attention shapes, and from text, to DPA programs."""
