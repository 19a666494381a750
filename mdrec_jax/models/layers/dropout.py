"""Dropout whose masks are a pure function of the row's seeds, the site, the column and the channel."""

from enum import IntEnum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32


class Site(IntEnum):
    """The dropouts of a model: each draws a mask of its own."""

    INPUT = 0
    MIXED = 1
    """What attention or mixers add."""
    FFN_HIDDEN = 2
    FFN = 3
    """What the feed-forward layer or experts add."""
    LEARNED_MEMORY = 5
    DOMAIN_PATH = 6
    SHARED_MAP = 7
    """The map of the mixed state, into the shared code."""
    TARGET_PATH = 8
    SPECIFIC_MAP = 9
    """The map of the in-domain state, into the specific code."""
    FILTERED = 10


class Fold(IntEnum):
    """What a row's seeds are folded with where a part of a model draws on its own, beside the numbers of layers."""

    FIRST_PASS = 100
    IN_DOMAIN = 1000
    SAMPLE = 2002
    HALVES = 2003
    CROSS_DOMAIN = 3000


def row_seeds(key: jax.Array, rows: int, row_offset: int | jax.Array) -> UInt32[Array, "R 2"]:
    """64 random bits for each row from its *global* number, so that masks do not depend on where a row is computed."""
    numbers = row_offset + jnp.arange(rows, dtype=jnp.int32)
    return jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (2,), jnp.uint32))(numbers)


def fold_seeds(seeds: UInt32[Array, "R 2"] | None, number: int | jax.Array) -> UInt32[Array, "R 2"] | None:
    """Seeds of block or part `number`: each draws masks of its own. None stays None."""
    return None if seeds is None else _mix(seeds + _mix(jnp.asarray(number, jnp.uint32) + jnp.uint32(1)))


def keep_mask(
    seeds: UInt32[Array, "R 2"], site: int | jax.Array, shape: tuple[int, ...], rate: float
) -> Bool[Array, "R T D"]:
    """True with probability 1 - rate (to 2^-32), a pure function of (row's seeds, site, column, channel).

    Threefry for every entry would cost a third of a small model's step on a CPU. Here threefry makes the rows' seeds,
    and a 32-bit finaliser (two rounds of xor-shift and multiply, the second keyed by the second seed) makes the
    entries: one fused elementwise loop, nothing is stored but the mask.
    """
    columns, channels = shape[1:]
    site = jnp.asarray(site).astype(jnp.uint32)
    first = _mix(seeds[:, 0] + site * jnp.uint32(0x9E3779B9))
    second = _mix(seeds[:, 1] ^ (site * jnp.uint32(0x85EBCA6B)))
    column = jax.lax.broadcasted_iota(jnp.uint32, (1, columns, channels), 1)
    channel = jax.lax.broadcasted_iota(jnp.uint32, (1, columns, channels), 2)
    x = column * jnp.uint32(channels) + channel + first[:, None, None]
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x ^ second[:, None, None]
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    x = x ^ (x >> 16)
    return x >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A 32-bit bijection in which every input bit changes every output bit about half the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def dropout(
    x: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None, site: int | jax.Array, rate: float
) -> Float[Array, "R T D"]:
    """Zero each entry with probability `rate` and scale the others by 1 / (1 - rate); x itself without seeds.

    Args:
        seeds: from `row_seeds`; None when evaluating.
        site: which dropout of the model this is; each site draws a mask of its own.
    """
    if seeds is None or rate == 0.0:
        return x
    keep = keep_mask(seeds, site, x.shape, rate)
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))
