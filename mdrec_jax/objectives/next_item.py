"""Predicting the next item: full softmax, sampled softmax with the logQ correction, BCE and gBCE.

Every loss is a sum over the batch's weighted targets; the caller puts the normalisation into the weights.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32
from mdrec_kernels import linear_xent

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.sampling import Sampler, SamplerTables, draw, draw_from_batch
from mdrec_jax.types import Batch, Encoded, Rows


@dataclass(frozen=True)
class NextItemConfig:
    """
    Args:
        kind: `softmax` over the whole catalogue, exact and never materialised; `sampled_softmax` (Bengio & Senecal
            2008), with the correction for how often an item is drawn; `bce`, one-against-sampled; `gbce`, its
            calibrated form (Petrov & Macdonald 2023, gSASRec, eq. 9).
        softmax_over: `all` items, or only those of the target's domain.
        negatives: draws shared by the batch, for each pool; unused by `softmax`.
        sampler: how they are drawn.
        popularity_power: flattens `popularity`.
        correct: subtract log q from sampled logits (sampled softmax).
        calibration: gBCE's t, from 0 (BCE) to 1.
    """

    kind: Literal["softmax", "sampled_softmax", "bce", "gbce"] = "softmax"
    softmax_over: Literal["all", "target_domain"] = "all"
    negatives: int = 256
    sampler: Sampler = "uniform"
    popularity_power: float = 1.0
    correct: bool = True
    calibration: float = 0.75

    def __post_init__(self) -> None:
        checks = {
            "negatives": (self.negatives, self.negatives >= 1, ">= 1"),
            "popularity_power": (self.popularity_power, self.popularity_power >= 0, ">= 0"),
            "calibration": (self.calibration, 0 <= self.calibration <= 1, "0 to 1"),
        }
        for name, (value, holds, expected) in checks.items():
            if not holds:
                raise ConfigError("out of range", column=f"loss.{name}", found=value, expected=expected)


@dataclass(frozen=True)
class Candidates:
    """Item ids that the loss needs vectors of: some belong to a row of the batch, some are shared by all rows."""

    per_row: dict[str, Int32[jax.Array, "R T"]]
    shared: dict[str, Int32[jax.Array, " N"]]

    def all(self) -> dict[str, jax.Array]:
        return {**self.per_row, **self.shared}


class ItemVectors(Protocol):
    """The part of a model that the loss calls."""

    def item_vectors(self, dense: Any, rows: dict[str, Rows], name: str | None) -> jax.Array: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NextItem:
    """The objective of one run: its configuration, and the tables it reads. A pytree; only the tables are traced."""

    config: NextItemConfig = dataclasses.field(metadata={"static": True})
    allowed: Bool[jax.Array, "G V"]
    """Which rows of the table each pool's softmax runs over."""
    sampler: SamplerTables | None

    @property
    def needs_whole_table(self) -> bool:
        return self.config.kind == "softmax"

    def candidates(self, batch: Batch, key: jax.Array, axis: str) -> Candidates:
        """What to look up for `batch`, the local rows of a batch that is spread over the mesh axis `axis`."""
        if self.needs_whole_table:
            return Candidates({}, {})
        assert self.sampler is not None
        pools, number = self.allowed.shape[0], self.config.negatives
        if self.config.sampler != "in_batch":
            return Candidates({"target": batch.target}, {"negative": draw(self.sampler, key, number).reshape(-1)})
        target, pool, real = (
            jax.lax.all_gather(x.reshape(-1), axis, tiled=True)
            for x in (batch.target, self._pool(batch), batch.weight > 0)
        )
        keys = jax.random.split(key, pools)
        drawn = [draw_from_batch(target, real & (pool == g), keys[g], number) for g in range(pools)]
        return Candidates({"target": batch.target}, {"negative": jnp.concatenate(drawn)})

    def loss(
        self,
        model: ItemVectors,
        dense: Any,
        rows: dict[str, Rows],
        encoded: Encoded,
        batch: Batch,
        weight: Float32[jax.Array, "R T"],
        candidates: Candidates,
    ) -> Float32[jax.Array, ""]:
        """The weighted sum over the targets of `batch`."""
        width = encoded.h.shape[-1]
        x, target, pool = encoded.h.reshape(-1, width), batch.target.reshape(-1), self._pool(batch).reshape(-1)
        if self.needs_whole_table:
            vectors = model.item_vectors(dense, rows, None)
            return linear_xent.linear_xent_sum(x, vectors, target, weight.reshape(-1), allowed=self.allowed, group=pool)
        return self._sampled(model, dense, rows, x, target, pool, weight.reshape(-1), candidates)

    def _pool(self, batch: Batch) -> jax.Array:
        one_pool = self.config.softmax_over == "all"
        return jnp.zeros_like(batch.target_domain) if one_pool else batch.target_domain
