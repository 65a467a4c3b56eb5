"""Requests that a serving system gets: recorded traces, and synthetic lengths from published statistics."""
