"""DRAM: organization, timing, commands, rules, energy and limits."""
