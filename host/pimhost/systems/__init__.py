"""Serving systems: which part of a model runs where, what that takes, and when a prompt begins."""
