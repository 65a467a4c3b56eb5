"""Workloads of a serving system: recorded traces, and synthetic lengths from published statistics."""
