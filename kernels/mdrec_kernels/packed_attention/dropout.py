"""Which attention weights are dropped: a hash of (row's key, head, query column, key column).

A weight's fate depends on nothing else: not on the tiling, not on the implementation, not on which device or batch of
rows holds the row. A counter-based hash costs two rounds of integer arithmetic a weight, where `jax.random`'s
Threefry would cost as much as the attention itself on a CPU. A pair of columns is one 32-bit counter, so rows are at
most 65,536 tokens long where weights are dropped.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32


def row_seeds(keys: Array) -> UInt32[Array, "R 2"]:
    """Two words a row from typed keys [R] (or raw keys [R, 2])."""
    return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The finaliser of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def keep(
    seeds: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
    head: UInt32[Array, "..."],
    query: Int[Array, "..."],
    key: Int[Array, "..."],
    rate: float,
) -> Bool[Array, "..."]:
    """True where the weight of (row's seeds, head, query column, key column) stays; dropped with probability `rate`."""
    pair = (query.astype(jnp.uint32) << 16) | key.astype(jnp.uint32)
    salt = seeds[1] + head * jnp.uint32(0x9E3779B9)
    return _mix(_mix(pair ^ seeds[0]) ^ salt) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def keep_mask(
    seeds: UInt32[Array, "G 2"], heads: int, query: Int[Array, "g t"], key: Int[Array, "g s"], rate: float
) -> Bool[Array, "G H t s"]:
    """`keep` for every head of rows with these seeds.

    Columns are given for each of the rows (g = G), or once for all of them (g = 1).
    """
    rows = seeds[:, 0, None, None, None], seeds[:, 1, None, None, None]
    head = jnp.arange(heads, dtype=jnp.uint32)[None, :, None, None]
    return keep(rows, head, query[:, None, :, None], key[:, None, None, :], rate)
