"""Timing model of a rank: clocks and commands without data."""
