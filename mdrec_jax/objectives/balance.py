"""What a run is trained on: the next-item loss, and the weighted sum of the further objectives that are switched on.

A further objective is a mean over what it compares in the global batch, as the next-item loss is a mean over targets.
So its weight means the same for any batch. It reads what `Pass` holds, and it is off while its weight is 0.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives import contrastive
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.next_item import NextItem
from mdrec_jax.types import Batch, Encoded


@dataclass(frozen=True)
class ObjectivesConfig:
    """What is learned besides the next item; everything is off by default.

    Args:
        contrastive: a user's states against other users', within and between domains.
    """

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)

    @property
    def compare_rows(self) -> bool:
        """Whether an objective compares what lies in different rows of the batch."""
        return self.contrastive.intra > 0 or self.contrastive.inter > 0

    def check(self, *, views: bool, micro_batches: int) -> None:
        """Refuses objectives that a run cannot have.

        Args:
            views: whether the model has an in-domain view.
            micro_batches: parts that a step's rows are worked on in.

        Raises:
            ConfigError: naming the field.
        """
        if self.contrastive.needs_views and not views:
            raise ConfigError(
                "this contrast compares in-domain states, and the model has none",
                column="objectives.contrastive",
                expected="a model with views.in_domain, or intra with second=dropout",
            )
        if self.compare_rows and micro_batches > 1:
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
    encoded: Encoded
    again: Callable[[int], Encoded]
    """The same rows encoded once more under the dropout masks of this number, from 1."""
    axis: str
    """The mesh axis that the rows of the global batch lie along."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Objectives:
    """The objectives of one run. A pytree; only the tables that they read are traced."""

    next_item: NextItem
    config: ObjectivesConfig = dataclasses.field(metadata={"static": True})

    def further(self, seen: Pass) -> tuple[Float32[jax.Array, ""], dict[str, Float32[jax.Array, ""]]]:
        """This device's part of the weighted sum of what is switched on, and of each by name, unweighted."""
        config, codes = self.config.contrastive, seen.encoded.codes
        parts: dict[str, tuple[float, jax.Array]] = {}
        if config.intra:
            own = config.second == "in_domain"
            views = (codes["mixed"], codes["in_domain"]) if own else (seen.encoded.h, seen.again(1).h)
            pairs = contrastive.intra_pairs(seen.batch, *views, own)
            parts["contrastive_intra"] = config.intra, contrastive.pair_loss(config, pairs, seen.axis)
        if config.inter:
            pairs = contrastive.inter_pairs(seen.batch, codes["in_domain"])
            parts["contrastive_inter"] = config.inter, contrastive.pair_loss(config, pairs, seen.axis)
        total = sum((weight * loss for weight, loss in parts.values()), jnp.float32(0.0))
        return total, {name: loss for name, (_, loss) in parts.items()}
