"""Exports: files for other simulators."""
