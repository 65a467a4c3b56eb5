"""Formal properties: components with assertions around them, proved by :mod:`pimsim.formal`."""
