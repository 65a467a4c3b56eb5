"""Serving systems: placement of a model's parts on devices, times of iterations, and admission of prompts."""
