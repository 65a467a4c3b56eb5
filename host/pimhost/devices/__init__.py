"""Devices behind :class:`~pimspec.hostif.device.PimDevice`: formula, golden model, and their common base."""
