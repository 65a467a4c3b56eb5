"""Host side of the buffer chip: plain DDR4 commands and a reserved window."""
