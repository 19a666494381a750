"""Where segments open, and which columns count.

Chunks are counted from a segment's start: a segment starts at a multiple of the chunk, so that a chunk holds one
segment. Where a chunk holds several all the same, those of the lowest number count and the others are padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from mdrec_kernels.delta_memory_scan.spec import OPENING, PADDING, TOKEN

NONE = int(np.iinfo(np.int32).max)
"""Above every segment's number."""


def places(segment: Int[Array, "R T"], chunk: int) -> Int[Array, "R T"]:
    """PADDING, TOKEN or OPENING for every column; T is a multiple of the chunk."""
    rows, length = segment.shape
    chunks = segment.astype(jnp.int32).reshape(rows, length // chunk, chunk)
    own = jnp.where(chunks > 0, chunks, NONE).min(axis=2)
    # The last chunk up to each one that holds anything, and what the last one before it holds.
    last = jax.lax.cummax(jnp.where(own < NONE, jnp.arange(own.shape[1], dtype=jnp.int32)[None], -1), axis=1)
    before = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    previous = jnp.where(before >= 0, jnp.take_along_axis(own, jnp.maximum(before, 0), axis=1), NONE)
    kind = jnp.where((own < NONE) & (own != previous), OPENING, TOKEN)
    return jnp.where((chunks == own[:, :, None]), kind[:, :, None], PADDING).reshape(rows, length)


def openings(place: Int[Array, "R T"], chunk: int) -> Bool[Array, "R n"]:
    """Whether a chunk opens a segment."""
    return place.reshape(place.shape[0], -1, chunk).max(axis=2) == OPENING
