"""Softmax over the items of the target's domain, at the cost of that domain's items."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32
from mdrec_kernels import linear_xent

MOST_POOLS = 16
"""Each pool is a program of its own inside the step: with more of them a mask over all items compiles faster."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pools:
    """The pools' items one behind the other."""

    items: Int32[jax.Array, " P"]
    place: Int32[jax.Array, "G V"]
    """Where an item stands in a pool; 0 where it is no item of the pool."""
    ends: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """Where in `items` each pool but the last ends."""

    def loss(
        self,
        x: Float[jax.Array, "N D"],
        vectors: Float[jax.Array, "V D"],
        target: Int32[jax.Array, " N"],
        weight: Float32[jax.Array, " N"],
        pool: Int32[jax.Array, " N"],
    ) -> Float32[jax.Array, ""]:
        """sum_n weight_n cross entropy of token n among the items of pool_n.

        Tokens of other pools have weight 0 there, and `linear_xent_sum` computes no score for those.
        """
        parts = jnp.split(vectors[self.items], self.ends)
        place = self.place[pool, target]
        losses = [
            linear_xent.linear_xent_sum(x, part, place, jnp.where(pool == number, weight, 0))
            for number, part in enumerate(parts)
        ]
        return sum(losses, jnp.float32(0.0))


def make_pools(pools: Sequence[np.ndarray], table_rows: int) -> Pools | None:
    """The pools of a softmax; None where one pool, or too many, are better served by a mask.

    Args:
        pools: sorted item ids of each; an item may be in several.
        table_rows: V.
    """
    if not 1 < len(pools) <= MOST_POOLS or not all(len(items) for items in pools):
        return None
    place = np.zeros((len(pools), table_rows), np.int32)
    for number, items in enumerate(pools):
        place[number, items] = np.arange(len(items))
    ends = np.cumsum([len(items) for items in pools])[:-1]
    return Pools(jnp.asarray(np.concatenate(pools), jnp.int32), jnp.asarray(place), tuple(int(end) for end in ends))
