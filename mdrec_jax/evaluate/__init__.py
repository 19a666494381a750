"""Protocols, ranking, metrics, floors and intervals."""
