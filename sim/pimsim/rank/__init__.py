"""Simulation of a whole rank."""
