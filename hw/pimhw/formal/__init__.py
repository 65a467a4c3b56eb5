"""Properties of the hardware: components with assertions around them, to be proved with :mod:`pimsim.formal`."""
