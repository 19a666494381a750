"""What a run is trained on: the next-item loss, and the weighted sum of the further objectives that are switched on.

A further objective is a mean over what it compares in the global batch, as the next-item loss is a mean over targets.
So its weight means the same for any batch. It reads what `Pass` holds, and it is off while its weight is 0.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives import contrastive
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.next_item import Candidates, NextItem, NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig, items_of, taxonomy_loss
from mdrec_jax.types import Batch, Encoded, Rows

TAXONOMY = "taxonomy"
"""The name under which the compared items' rows are looked up."""


@dataclass(frozen=True)
class ObjectivesConfig:
    """What is learned besides the next item; everything is off by default.

    Args:
        contrastive: a user's states against other users', within and between domains.
        taxonomy: items against each other, over the tree of their categories.
    """

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    taxonomy: TaxonomyConfig = field(default_factory=TaxonomyConfig)


def check_objectives(objectives: ObjectivesConfig, loss: NextItemConfig, *, views: bool, micro_batches: int) -> None:
    """Refuses objectives that a run cannot have.

    Args:
        views: whether the model has an in-domain view.
        micro_batches: parts that a step's rows are worked on in.

    Raises:
        ConfigError: naming the field.
    """
    contrast = objectives.contrastive
    if contrast.needs_views and not views:
        raise ConfigError(
            "this contrast compares in-domain states, and the model has none",
            column="objectives.contrastive",
            expected="a model with views.in_domain, or intra with second=dropout",
        )
    compare_rows = contrast.intra, contrast.inter, objectives.taxonomy.weight, loss.denoise.trim
    if any(compare_rows) and micro_batches > 1:
        raise ConfigError(
            "objectives that compare rows of a batch need it in one part",
            column="train.accumulate",
            found=micro_batches,
            expected="1",
        )


@dataclass(frozen=True)
class Pass:
    """One forward pass over the local rows, as the objectives see it."""

    batch: Batch
    rows: dict[str, Rows]
    encoded: Encoded
    candidates: Candidates
    vectors: Callable[[str], jax.Array]
    """Vectors of the items that were looked up under a name."""
    again: Callable[[Batch, dict[str, Rows], int], Encoded]
    """A batch and its rows encoded under the dropout masks of this number, from 1."""
    axis: str
    """The mesh axis that the rows of the global batch lie along."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Objectives:
    """The objectives of one run. A pytree; only the tables that they read are traced."""

    next_item: NextItem
    categories: Int32[jax.Array, "V L"] | None
    """`data.taxonomy.category_numbers`, where the taxonomy is used."""
    config: ObjectivesConfig = dataclasses.field(metadata={"static": True})

    def candidates(self, batch: Batch, key: jax.Array, axis: str) -> Candidates:
        """What to look up for `batch`, the local rows of a batch that is spread over the mesh axis `axis`."""
        found = self.next_item.candidates(batch, key, axis)
        if self.categories is None:
            return found
        items = items_of(batch, self.config.taxonomy.items, axis)
        return Candidates(found.per_row, {**found.shared, TAXONOMY: items})

    def further(self, seen: Pass) -> tuple[Float32[jax.Array, ""], dict[str, Float32[jax.Array, ""]]]:
        """This device's part of the weighted sum of what is switched on, and of each by name, unweighted."""
        parts: dict[str, tuple[float, jax.Array]] = {}
        config, codes = self.config.contrastive, seen.encoded.codes
        if config.intra:
            own = config.second == "in_domain"
            h = seen.encoded.h
            views = (codes["mixed"], codes["in_domain"]) if own else (h, seen.again(seen.batch, seen.rows, 1).h)
            pairs = contrastive.intra_pairs(seen.batch, *views, own)
            parts["contrastive_intra"] = config.intra, contrastive.pair_loss(config, pairs, seen.axis)
        if config.inter:
            pairs = contrastive.inter_pairs(seen.batch, codes["in_domain"])
            parts["contrastive_inter"] = config.inter, contrastive.pair_loss(config, pairs, seen.axis)
        if self.categories is not None:
            taxonomy, items = self.config.taxonomy, seen.candidates.shared[TAXONOMY]
            loss = taxonomy_loss(taxonomy, seen.vectors(TAXONOMY), self.categories[items], items > 0)
            # Every device compares the same items.
            parts["taxonomy"] = taxonomy.weight, loss / jax.lax.axis_size(seen.axis)
        total = sum((weight * loss for weight, loss in parts.values()), jnp.float32(0.0))
        return total, {name: loss for name, (_, loss) in parts.items()}
