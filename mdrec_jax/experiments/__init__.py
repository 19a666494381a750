"""Experiments of many runs: what each part of a model is worth, and which settings are best."""
