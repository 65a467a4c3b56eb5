"""The side of the buffer chip that the host's memory controller sees: plain DDR4 commands and a reserved window."""
