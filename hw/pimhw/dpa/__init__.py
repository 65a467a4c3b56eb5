"""DPA controller: programs of requests become micro-ops for the sequencer."""
