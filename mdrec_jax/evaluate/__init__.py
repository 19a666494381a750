"""Protocols, ranking, metrics, baselines and intervals."""
