"""The command line, which composes the hardware, simulation and host packages."""
