"""Relative bias of attention scores: by distance in events, and by the logarithm of the time between events.

Both are tables with one column a bucket and one row a head (or one row for all heads), as in HSTU (Zhai et al., 2024,
"Actions speak louder than words", section 3.2 and the published code's relative bucketed time and position bias).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def time_bucket(seconds: Int[Array, "..."], buckets: int) -> Int[Array, "..."]:
    """The bucket of a time difference: two buckets for every doubling of it, the last one open-ended.

    With n = seconds + 1 = 2^e (1 + f), 0 <= f < 1, the bucket is 2e + (f >= 1/2): 0 s -> 0, 1 s -> 2, 2 s -> 3,
    3 s -> 4, an hour -> 23, a day -> 32, a year -> 49, and 62 for the largest int32. Read off the bits of a float32,
    so it is the same integer on every platform, where a logarithm is not. Negative differences count as 0.
    """
    # The largest int32 would overflow; the one before it has the same float32.
    n = (jnp.clip(seconds, 0, 2**31 - 2).astype(jnp.int32) + 1).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(n, jnp.int32)
    return jnp.minimum((bits >> 22) - (127 << 1), buckets - 1)


def distance_bucket(distance: Int[Array, "..."], buckets: int) -> Int[Array, "..."]:
    """The column of the position table: the distance itself, the last column for everything farther."""
    return jnp.clip(distance, 0, buckets - 1)


def position_tile(table: Float[Array, "h P"], distance: Int[Array, "t s"]) -> Float[Array, "h t s"]:
    """The bias of a tile of scores whose entries lie `distance` events apart."""
    return table[:, distance_bucket(distance, table.shape[1])]


def position_gradient(tile: Float[Array, "h t s"], first: int, buckets: int) -> Float[Array, "h P"]:
    """The transpose of `position_tile` for a tile whose entry (i, j) lies at distance first + i - j.

    All entries of a diagonal share a distance: skewing the tile by one column a row turns diagonals into columns,
    which are summed, and only t + s sums are scattered.
    """
    h, t, s = tile.shape
    # Entry (i, j) stands at i (s + t) + t + j of the padded rows, which is column t + j - i of rows one wider.
    padded = jnp.pad(tile, ((0, 0), (0, 0), (t, 0))).reshape(h, t * (s + t))
    diagonals = jnp.pad(padded, ((0, 0), (0, t))).reshape(h, t, s + t + 1).sum(1)
    distance = first + t - jnp.arange(s + t + 1)
    return jnp.zeros((h, buckets), tile.dtype).at[:, distance_bucket(distance, buckets)].add(diagonals)


def time_tile(table: Float[Array, "h B"], bucket: Int[Array, "R t s"]) -> Float[Array, "R h t s"]:
    """The bias of a tile of scores whose entries fall into the buckets `bucket`."""
    return jnp.moveaxis(table[:, bucket], 0, 1)


def time_gradient(tile: Float[Array, "R h t s"], bucket: Int[Array, "R t s"], buckets: int) -> Float[Array, "h B"]:
    """The transpose of `time_tile`."""
    return jax.vmap(jnp.zeros((buckets,), tile.dtype).at[bucket].add, in_axes=1)(tile)
