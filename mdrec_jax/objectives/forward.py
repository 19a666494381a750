"""One forward pass, as the objectives see it."""

from dataclasses import dataclass

import jax
from jaxtyping import Float, Float32, Int32, UInt32

from mdrec_jax.models.api import Model
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.objectives.next_item import Candidates, ItemVectors, NextItem
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.types import Batch

type Weighted = dict[str, tuple[float, jax.Array]]
"""Objectives by name: their weight, and this device's part of them."""


@dataclass(frozen=True)
class Forward:
    """This device's rows, and what the model makes of them."""

    model: Model
    batch: Batch
    encoded: Encoded
    next_item: NextItem
    candidates: Candidates
    vectors: ItemVectors
    seeds: UInt32[jax.Array, "R 2"]
    """Of the rows' draws."""
    targets: Float32[jax.Array, ""]
    """Of the global batch, at least 1."""
    spread: Spread
    categories: Int32[jax.Array, "V L"] | None = None
    """`data.taxonomy.category_numbers`, where they are used."""

    @property
    def weight(self) -> Float32[jax.Array, "R T"]:
        """Of the targets: 1 in all, over the global batch."""
        return jax.numpy.asarray(self.batch.weight) / self.targets

    def score(self, h: Float[jax.Array, "R T D"], weight: Float32[jax.Array, "R T"]) -> Float32[jax.Array, ""]:
        """The next-item loss of states that are ready for inner products, under weights of the targets."""
        return self.next_item.loss(self.vectors, h, self.batch, weight, self.candidates)

    def each(self, h: Float[jax.Array, "R T D"]) -> Float32[jax.Array, " N"]:
        """Each token's next-item loss, rows one behind the other, as constants."""
        return self.next_item.each(self.vectors, h, self.batch, self.candidates)
