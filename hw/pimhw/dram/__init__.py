"""DRAM side of a rank: timers and the command engine."""
