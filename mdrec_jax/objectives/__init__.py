"""Losses over a model's states."""
