"""Contrast of items over the tree of their categories: the nearer two items lie in the tree, the nearer their vectors.

"Use all the labels" (HMLC, Zhang et al. 2022, arXiv 2204.13207). Level l of L, 1 the coarsest. A pair belongs to the
deepest level whose category its items share, and P_l(i) are item i's partners at level l:

    loss_l = mean_i 1/|P_l(i)| sum_{p in P_l(i)} [ log sum_{a != i} exp(<z_i, z_a> / tau) - <z_i, z_p> / tau ]
    total  = 1/L sum_l exp(1 / (L - l + 1)) max(loss_l, loss_{l+1}, ..., loss_L)

Finer levels weigh more, and the maximum is the hierarchical constraint: items that share less are never
drawn together more than items that share more. As in the authors' code it is taken over whole levels, not over pairs.
The mean is over items with a partner; a level without pairs in the batch counts nothing.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.contrastive import FAR, unit_length
from mdrec_jax.objectives.forward import Forward, Weighted
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.types import Batch

TAXONOMY = "taxonomy"
"""The name under which the compared items' rows are looked up."""
TEMPERATURE = 0.1
"""tau."""
ITEMS = 512
"""How many different targets of the global batch are compared, at most: the first of its rows."""


@dataclass(frozen=True)
class TaxonomyConfig:
    """
    Args:
        weight: of the objective; 0 leaves it out.
        levels: L, how many levels of the category path are used, from the root.
    """

    weight: float = 0.0
    levels: int = 3

    def __post_init__(self) -> None:
        checks = {
            "weight": (0 <= self.weight < math.inf, "a weight, >= 0"),
            "levels": (self.levels >= 1, ">= 1"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ConfigError(
                    "out of range", column=f"objectives.taxonomy.{name}", found=getattr(self, name), expected=expected
                )

    def losses(self, seen: Forward) -> Weighted:
        if seen.categories is None:
            return {}
        items = seen.candidates.shared[TAXONOMY]
        loss = taxonomy_loss(self, seen.vectors(TAXONOMY), seen.categories[items], items > 0)
        # Every device compares the same items.
        return {"taxonomy": (self.weight, loss / seen.spread.size)}


def items_of(batch: Batch, spread: Spread) -> Int32[jax.Array, " M"]:
    """The first different targets of the global batch, in the order of its rows; 0 behind them."""
    real = jnp.asarray(batch.weight) > 0
    target = jnp.where(real, jnp.asarray(batch.target), 0).reshape(-1)
    target = spread.gather(target)
    order = jnp.argsort(target, stable=True)
    ordered = target[order]
    new = (ordered > 0) & (ordered != jnp.roll(ordered, 1))
    # All the same: rolling brings the item in front of itself.
    new = new.at[0].set(ordered[0] > 0)
    first = jnp.zeros_like(new).at[order].set(new)
    places = jnp.argsort(~first, stable=True)[:ITEMS]
    return jnp.where(first[places], target[places], 0)


def taxonomy_loss(
    config: TaxonomyConfig,
    vectors: Float[jax.Array, "M D"],
    categories: Int32[jax.Array, "M L"],
    real: Bool[jax.Array, " M"],
) -> Float[jax.Array, ""]:
    """The loss over M items, each there once.

    Args:
        categories: `data.taxonomy.category_numbers` of the items.
        real: which of them count; those without a category do not.
    """
    real = real & (categories[:, 0] > 0)
    z = unit_length(vectors)
    others = real[:, None] & real[None, :] & ~jnp.eye(len(z), dtype=bool)
    scores = jnp.where(others, z @ z.T / TEMPERATURE, FAR)
    distance = jax.nn.logsumexp(scores, axis=-1)[:, None] - scores
    shared = ((categories[:, None, :] == categories[None, :, :]) & (categories > 0)[:, None, :]).sum(-1)
    total, finest = jnp.zeros((), z.dtype), jnp.zeros((), z.dtype)
    for level in range(config.levels, 0, -1):
        pairs = others & (shared == level)
        partners = pairs.sum(-1, dtype=z.dtype)
        each = jnp.where(pairs, distance, 0.0).sum(-1) / jnp.maximum(partners, 1.0)
        anchors = (partners > 0).sum(dtype=z.dtype)
        loss = each.sum() / jnp.maximum(anchors, 1.0)
        loss = jnp.where(anchors > 0, jnp.maximum(loss, finest), 0.0)
        finest = jnp.maximum(loss, finest)
        total = total + math.exp(1 / (config.levels - level + 1)) * loss
    return total / config.levels
