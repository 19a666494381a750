"""Drawing negatives: which items, with what probability, from the run's random key alone.

The draws are shared by all tokens of the global batch, so scoring them is one matrix product, and every device draws
the same ones whatever the mesh.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt32

from mdrec_jax.types import FIRST_ITEM

type Sampler = Literal["uniform", "popularity", "in_batch"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplerTables:
    """What drawing needs, for each pool of items. With one pool, it is the catalogue; else one a domain.

    `cumulative` is the pool's distribution in units of 2^-32 (its last entry stands for 2^32), so the probability
    that `log_probability` reports is exactly the one that is drawn with.
    """

    items: Int32[jax.Array, "G P"]
    """Item ids of each pool, filled up with 0."""
    cumulative: UInt32[jax.Array, "G P"]
    log_probability: Float32[jax.Array, "G V"]
    """Of each item in each pool; 0 for an item outside the pool."""


def _fixed_point(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative distribution in 2^-32 steps, at least one step an item, and the probabilities it stands for."""
    total = 2**32
    steps = np.maximum(1, np.floor(weights / weights.sum() * (total - len(weights))).astype(np.int64))
    steps[np.argmax(steps)] += total - steps.sum()
    cumulative = np.cumsum(steps)
    return (cumulative - 1).astype(np.uint32), steps / total


def sampler_tables(pools: list[np.ndarray], counts: np.ndarray, sampler: Sampler) -> SamplerTables:
    """Tables for drawing from `pools` (sorted item ids each).

    Args:
        pools: the items of each pool.
        counts: training events of every item id, [num_items].
        sampler: `uniform` over the pool, or `popularity`: in proportion to `count + 1`. `in_batch` draws training
            targets themselves, whose distribution is the count's: it has the tables of `popularity`.
    """
    longest = max(len(pool) for pool in pools)
    items = np.zeros((len(pools), longest), np.int32)
    cumulative = np.full((len(pools), longest), np.uint32(0xFFFFFFFF), np.uint32)
    log_probability = np.zeros((len(pools), len(counts)), np.float32)
    for g, pool in enumerate(pools):
        weights = np.ones(len(pool)) if sampler == "uniform" else counts[pool] + 1.0
        items[g, : len(pool)] = pool
        cumulative[g, : len(pool)], probability = _fixed_point(weights)
        log_probability[g, pool] = np.log(probability)
    return SamplerTables(jnp.asarray(items), jnp.asarray(cumulative), jnp.asarray(log_probability))


def draw(tables: SamplerTables, key: jax.Array, number: int) -> Int32[jax.Array, "G N"]:
    """`number` items of each pool, with replacement."""
    pools = tables.items.shape[0]
    bits = jax.random.bits(key, (pools, number), jnp.uint32)
    place = jax.vmap(lambda edges, drawn: jnp.searchsorted(edges, drawn, side="left"))(tables.cumulative, bits)
    return jnp.take_along_axis(tables.items, place.astype(jnp.int32), axis=1)


def draw_from_batch(
    target: Int32[jax.Array, " X"], allowed: Bool[jax.Array, " X"], key: jax.Array, number: int
) -> Int32[jax.Array, " N"]:
    """`number` targets of the batch, uniformly with replacement among the `allowed` ones (item 2 if there is none)."""
    order = jnp.cumsum(allowed.astype(jnp.int32))
    wanted = jax.random.randint(key, (number,), 0, jnp.maximum(order[-1], 1)) + 1
    place = jnp.searchsorted(order, wanted, side="left").astype(jnp.int32)
    return jnp.where(order[-1] > 0, target[jnp.minimum(place, target.shape[0] - 1)], FIRST_ITEM)
