"""What a run is trained on: the next-item loss, and the weighted sum of the further objectives that are switched on.

A further objective is a mean over what it compares in the global batch, as the next-item loss is a mean over targets.
So its weight means the same for any batch. It is a config with a method `losses(seen)`, which reads a `Forward`, and a
field of `ObjectivesConfig`; while its weights are 0 it is off.
"""

import dataclasses
from dataclasses import dataclass, field

import jax
from jaxtyping import Float32, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.disentangle import DisentangleLossConfig
from mdrec_jax.objectives.forward import Forward, Weighted
from mdrec_jax.objectives.next_item import Candidates, NextItem
from mdrec_jax.objectives.routers import router_losses
from mdrec_jax.objectives.taxonomy import TAXONOMY, TaxonomyConfig, items_of
from mdrec_jax.objectives.transfer import TransferConfig
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.types import Batch


@dataclass(frozen=True)
class ObjectivesConfig:
    """What is learned besides the next item; everything is off by default.

    Args:
        contrastive: a user's states against other users', within and between domains.
        disentangle: what keeps a shared and a specific code apart.
        taxonomy: items against each other, over the tree of their categories.
        transfer: weights of the domains' next-item losses by what each gains from the others.
    """

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    disentangle: DisentangleLossConfig = field(default_factory=DisentangleLossConfig)
    taxonomy: TaxonomyConfig = field(default_factory=TaxonomyConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)


def check_objectives(objectives: ObjectivesConfig, *, views: bool, codes: bool, micro_batches: int) -> None:
    """Refuses objectives that a run cannot have.

    Args:
        views, codes: whether the model has an in-domain view, and a shared and a specific code.
        micro_batches: that a step's rows are split into.

    Raises:
        ConfigError: naming the field.
    """
    contrastive, transfer = objectives.contrastive.used, objectives.transfer.weight > 0
    compare_rows = contrastive or transfer or objectives.taxonomy.weight > 0 or objectives.disentangle.mmd > 0
    for name, wanted, there, problem, expected in (
        ("objectives.contrastive", contrastive, views, "in-domain states are compared", "model.views.in_domain"),
        ("objectives.transfer", transfer, views, "gains are over the in-domain state", "model.views.in_domain"),
        ("objectives.disentangle", objectives.disentangle.used, codes, "codes are compared", "model.disentangle.codes"),
    ):
        if wanted and not there:
            raise ConfigError(f"{problem}, and the model has none", column=name, expected=f"a model with {expected}")
    if compare_rows and micro_batches > 1:
        raise ConfigError(
            "objectives that compare rows of a batch need it in one part",
            column="train.accumulate",
            found=micro_batches,
            expected="1",
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Objectives:
    """The objectives of one run. A pytree; only the tables that they read are traced."""

    next_item: NextItem
    categories: Int32[jax.Array, "V L"] | None
    """`data.taxonomy.category_numbers`, where the taxonomy is used."""
    config: ObjectivesConfig = dataclasses.field(metadata={"static": True})

    def candidates(self, batch: Batch, key: jax.Array, spread: Spread) -> Candidates:
        """What to look up for `batch`, the local rows of a batch that is spread over devices."""
        found = self.next_item.candidates(batch, key, spread)
        if self.categories is None:
            return found
        return Candidates(found.per_row, {**found.shared, TAXONOMY: items_of(batch, spread)})

    def losses(self, seen: Forward) -> tuple[Float32[jax.Array, ""], dict[str, Float32[jax.Array, ""]]]:
        """This device's part of the whole loss, and of what is shown: each objective by name, unweighted."""
        seen = dataclasses.replace(seen, categories=self.categories)
        parts: Weighted = {
            f"{name}_router": (1.0, value / seen.targets) for name, value in router_losses(seen.encoded.traces).items()
        }
        for one in dataclasses.fields(self.config):
            parts |= getattr(self.config, one.name).losses(seen)
        weight, shown = self.config.transfer.weights(seen)
        loss = seen.score(seen.encoded.h, weight)
        total = sum((weight * part for weight, part in parts.values()), loss)
        return total, {"loss": loss, **shown, **{name: part for name, (_, part) in parts.items()}}
