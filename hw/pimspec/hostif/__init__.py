"""Interface between a host and a rank: device, port and window."""
