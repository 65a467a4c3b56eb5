"""Devices behind :class:`pimspec.device.PimDevice`: formula and golden model; what any backend can build upon."""
