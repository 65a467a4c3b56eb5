"""Sequencer of the buffer chip: descriptors in; row tasks, bus commands and the rank PU's work out."""
