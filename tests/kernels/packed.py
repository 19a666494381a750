"""Packed rows for the tests of `packed_attention`."""

import jax.numpy as jnp
import numpy as np


def pack(rows: list[list[int]], length: int) -> np.ndarray:
    """segment [R, T] of rows whose segments have the given lengths; a negative length is padding between them."""
    segment = np.zeros((len(rows), length), np.int32)
    for r, lengths in enumerate(rows):
        start, number = 0, 1
        for n in lengths:
            if n > 0:
                segment[r, start : start + n] = number
                number += 1
            start += abs(n)
    return segment


def arrays(seed: int, *shape: int, count: int = 3, dtype: str = "float32") -> list:
    """`count` arrays of normal numbers."""
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.normal(size=shape), dtype) for _ in range(count)]


def times(seed: int, rows: int, length: int) -> np.ndarray:
    """Rising times whose steps are anything from a second to months."""
    steps = np.exp(np.random.default_rng(seed).uniform(0, 15, size=(rows, length)))
    return np.cumsum(steps, axis=1).astype(np.int32)
