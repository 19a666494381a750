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
from mdrec_jax.objectives.infomax import InfomaxConfig, corrupted, infomax_loss
from mdrec_jax.objectives.next_item import Candidates, NextItem, NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig, items_of, taxonomy_loss
from mdrec_jax.objectives.transfer import TransferConfig, domain_counts, domain_means, domain_weights
from mdrec_jax.types import Batch, Encoded, Rows

type Weighted = dict[str, tuple[float, jax.Array]]
"""Objectives by name: their weight, and this device's part of them."""

TAXONOMY = "taxonomy"
"""The name under which the compared items' rows are looked up."""


@dataclass(frozen=True)
class ObjectivesConfig:
    """What is learned besides the next item; everything is off by default.

    Args:
        contrastive: a user's states against other users', within and between domains.
        infomax: a user's states in one domain and in the others, told from corrupted ones.
        taxonomy: items against each other, over the tree of their categories.
        transfer: weights of the domains' next-item losses by what each gains from the others.
    """

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    infomax: InfomaxConfig = field(default_factory=InfomaxConfig)
    taxonomy: TaxonomyConfig = field(default_factory=TaxonomyConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)


def check_objectives(
    objectives: ObjectivesConfig, loss: NextItemConfig, *, views: bool, critic: bool, micro_batches: int
) -> None:
    """Refuses objectives that a run cannot have.

    Args:
        views, critic: whether the model has an in-domain view, and a critic.
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
    if objectives.infomax.weight and not critic:
        raise ConfigError(
            "infomax trains a critic, and the model has none",
            column="objectives.infomax",
            expected="a model with views.critic",
        )
    if objectives.transfer.weight and not views:
        raise ConfigError(
            "transfer is measured against the in-domain state, and the model has none",
            column="objectives.transfer",
            expected="a model with views.in_domain",
        )
    further = objectives.infomax, objectives.taxonomy, objectives.transfer
    compare_rows = contrast.intra, contrast.inter, *(part.weight for part in further), loss.denoise.trim
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
    score: Callable[[jax.Array, jax.Array], jax.Array]
    """The next-item loss of states [R, T, D] under weights [R, T] of the targets."""
    each: Callable[[jax.Array], jax.Array]
    """Each token's next-item loss [R * T] from states [R, T, D], as constants."""
    key: jax.Array
    """Of the objectives' own draws, the same on every device."""
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

    def losses(
        self, seen: Pass, weight: Float32[jax.Array, "R T"]
    ) -> tuple[Float32[jax.Array, ""], dict[str, Float32[jax.Array, ""]]]:
        """This device's part of the whole loss, and of what is shown: each objective by name, unweighted.

        Args:
            weight: of the targets, over the whole batch adding up to 1.
        """
        config = self.config
        parts = {**self._contrasts(seen), **self._others(seen)}
        shown: dict[str, jax.Array] = {}
        if config.transfer.weight:
            parts["single_domain"] = config.transfer.weight, seen.score(seen.encoded.codes["single"], weight)
            weight, shown = self._by_transfer(seen, weight)
        loss = seen.score(seen.encoded.h, weight)
        total = sum((weight * part for weight, part in parts.values()), loss)
        return total, {"loss": loss, **shown, **{name: part for name, (_, part) in parts.items()}}

    def _contrasts(self, seen: Pass) -> Weighted:
        parts: Weighted = {}
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
        return parts

    def _others(self, seen: Pass) -> Weighted:
        parts: Weighted = {}
        codes = seen.encoded.codes
        if self.config.infomax.weight:
            false = seen.again(*corrupted(seen.batch, seen.rows, seen.key, seen.axis), 2).codes["mixed"]
            loss = infomax_loss(seen.batch, codes["critic"], codes["mixed"], false, seen.axis)
            parts["infomax"] = self.config.infomax.weight, loss
        if self.categories is not None:
            taxonomy, items = self.config.taxonomy, seen.candidates.shared[TAXONOMY]
            loss = taxonomy_loss(taxonomy, seen.vectors(TAXONOMY), self.categories[items], items > 0)
            # Every device compares the same items.
            parts["taxonomy"] = taxonomy.weight, loss / jax.lax.axis_size(seen.axis)
        return parts

    def _by_transfer(
        self, seen: Pass, weight: Float32[jax.Array, "R T"]
    ) -> tuple[Float32[jax.Array, "R T"], dict[str, Float32[jax.Array, ""]]]:
        """The targets' weights by what their domain gains, and the gains (of each device an equal part)."""
        domain = jnp.asarray(seen.batch.target_domain)
        real = (weight > 0).reshape(-1)
        known = real & (jnp.asarray(seen.batch.previous_in_target_domain) >= 0).reshape(-1)
        domains = self.next_item.domains
        single, cross = (
            domain_means(seen.each(state), domain.reshape(-1), known, domains, seen.axis)
            for state in (seen.encoded.codes["single"], seen.encoded.h)
        )
        number = domain_counts(domain.reshape(-1), real, domains, seen.axis)
        factor = domain_weights(self.config.transfer, single - cross, number)
        size = jax.lax.axis_size(seen.axis)
        return weight * factor[domain], {f"gain_{g}": (single - cross)[g] / size for g in range(domains)}
