"""Predicting the next item: full softmax, sampled softmax with the logQ correction, BCE and gBCE.

Every loss is a sum over the batch's weighted targets; the caller puts the normalisation into the weights.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32
from mdrec_kernels import linear_xent

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.denoise import DenoiseConfig, denoised
from mdrec_jax.objectives.pools import Pools, make_pools
from mdrec_jax.objectives.sampling import Sampler, SamplerTables, draw, draw_from_batch, sampler_tables
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
        denoise: for logs with noise in them.
    """

    kind: Literal["softmax", "sampled_softmax", "bce", "gbce"] = "softmax"
    softmax_over: Literal["all", "target_domain"] = "all"
    negatives: int = 256
    sampler: Sampler = "uniform"
    popularity_power: float = 1.0
    correct: bool = True
    calibration: float = 0.75
    denoise: DenoiseConfig = dataclasses.field(default_factory=DenoiseConfig)

    def __post_init__(self) -> None:
        checks = {
            "negatives": (self.negatives, self.negatives >= 1, ">= 1"),
            "popularity_power": (self.popularity_power, self.popularity_power >= 0, ">= 0"),
            "calibration": (self.calibration, 0 <= self.calibration <= 1, "0 to 1"),
        }
        for name, (value, holds, expected) in checks.items():
            if not holds:
                raise ConfigError("out of range", column=f"loss.{name}", found=value, expected=expected)
        if self.denoise.robust == "mixture" and self.kind not in ("softmax", "sampled_softmax"):
            raise ConfigError(
                "a mixture needs the probability of an item among others",
                column="loss.denoise.robust", found=f"mixture with {self.kind}", expected="softmax or sampled_softmax",
            )  # fmt: skip


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
    beta: Float32[jax.Array, " G"]
    """Each pool's power of the positive's probability: 1 but for gBCE."""
    domains: int = dataclasses.field(metadata={"static": True})
    pools: Pools | None = None
    """The pools of a softmax, where there are several and they are few."""

    @property
    def _choices(self) -> Float32[jax.Array, " G"]:
        """How many items a target of each pool is told from, itself among them."""
        if self.needs_whole_table:
            return self.allowed.sum(1, dtype=jnp.int32).astype(jnp.float32)
        return jnp.full(self.allowed.shape[:1], self.config.negatives + 1.0, jnp.float32)

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
            return Candidates(
                {"target": jnp.asarray(batch.target)}, {"negative": draw(self.sampler, key, number).reshape(-1)}
            )
        target, pool, real = (
            jax.lax.all_gather(x.reshape(-1), axis, tiled=True)
            for x in (batch.target, self._pool(batch), batch.weight > 0)
        )
        keys = jax.random.split(key, pools)
        drawn = [draw_from_batch(target, real & (pool == g), keys[g], number) for g in range(pools)]
        return Candidates({"target": jnp.asarray(batch.target)}, {"negative": jnp.concatenate(drawn)})

    def loss(
        self,
        model: ItemVectors,
        dense: Any,
        rows: dict[str, Rows],
        encoded: Encoded,
        batch: Batch,
        weight: Float32[jax.Array, "R T"],
        candidates: Candidates,
        step: Int32[jax.Array, ""],
        axis: str,
    ) -> Float32[jax.Array, ""]:
        """The weighted sum over the targets of `batch`, the local rows of a batch spread over the mesh axis `axis`."""
        x, weights = encoded.h.reshape(-1, encoded.h.shape[-1]), weight.reshape(-1)
        if not self.config.denoise.used:
            return self._sum(model, dense, rows, x, batch, weights, candidates)
        each, domain = self.each(model, dense, rows, encoded, batch, candidates), jnp.asarray(batch.target_domain)
        choices = self._choices[self._pool(batch).reshape(-1)]
        given = domain.reshape(-1), self.domains, choices, step, axis
        weights, offset = denoised(self.config.denoise, each, weights, *given)
        return self._sum(model, dense, rows, x, batch, weights, candidates) + offset

    def each(
        self,
        model: ItemVectors,
        dense: Any,
        rows: dict[str, Rows],
        encoded: Encoded,
        batch: Batch,
        candidates: Candidates,
    ) -> Float32[jax.Array, " N"]:
        """The loss of each token, rows one behind the other, as constants; 0 without a target."""
        x = encoded.h.reshape(-1, encoded.h.shape[-1])
        fixed = partial(self._sum, model, *jax.lax.stop_gradient((dense, rows, x)), batch)
        # The gradient of the sum with respect to a token's weight is the token's loss.
        return jax.grad(fixed)((jnp.asarray(batch.weight) > 0).astype(jnp.float32).reshape(-1), candidates)

    def _sum(
        self,
        model: ItemVectors,
        dense: Any,
        rows: dict[str, Rows],
        x: Float[jax.Array, "N D"],
        batch: Batch,
        weight: Float32[jax.Array, " N"],
        candidates: Candidates,
    ) -> Float32[jax.Array, ""]:
        target, pool = jnp.asarray(batch.target).reshape(-1), self._pool(batch).reshape(-1)
        if not self.needs_whole_table:
            return self._sampled(model, dense, rows, x, target, pool, weight, candidates)
        vectors = model.item_vectors(dense, rows, None)
        if self.pools is not None:
            return self.pools.loss(x, vectors, target, weight, pool)
        return linear_xent.linear_xent_sum(x, vectors, target, weight, allowed=self.allowed, group=pool)

    def _sampled(
        self,
        model: ItemVectors,
        dense: Any,
        rows: dict[str, Rows],
        x: Float32[jax.Array, "N D"],
        target: Int32[jax.Array, " N"],
        pool: Int32[jax.Array, " N"],
        weight: Float32[jax.Array, " N"],
        candidates: Candidates,
    ) -> Float32[jax.Array, ""]:
        assert self.sampler is not None
        config, pools = self.config, self.allowed.shape[0]
        negative = candidates.shared["negative"]
        negative_pool = jnp.repeat(jnp.arange(pools, dtype=jnp.int32), config.negatives)
        positives = model.item_vectors(dense, rows, "target").reshape(x.shape)
        negatives = model.item_vectors(dense, rows, "negative")
        known: dict[str, Any] = {"positive_id": target, "negative_id": negative}
        if pools > 1:
            known |= {"group": pool, "negative_group": negative_pool}
        if config.kind == "sampled_softmax":
            if config.correct:
                known["positive_logq"] = self.sampler.log_probability[pool, target]
                known["negative_logq"] = self.sampler.log_probability[negative_pool, negative]
            return linear_xent.sampled_xent_sum(x, positives, negatives, weight, **known)
        return linear_xent.sampled_bce_sum(x, positives, negatives, weight, beta=self.beta[pool], **known)

    def _pool(self, batch: Batch) -> jax.Array:
        one_pool = self.config.softmax_over == "all"
        domain = jnp.asarray(batch.target_domain)
        return jnp.zeros_like(domain) if one_pool else domain


def make_objective(
    config: NextItemConfig, domain_items: Sequence[np.ndarray], counts: np.ndarray, table_rows: int
) -> NextItem:
    """The objective of a data set.

    Args:
        domain_items: sorted item ids of each domain.
        counts: training events of every item id, [num_items].
        table_rows: physical rows of the item table; those of no item are never in a softmax.
    """
    by_domain = config.softmax_over == "target_domain"
    pools = list(domain_items) if by_domain else [np.unique(np.concatenate(domain_items))]
    allowed = np.zeros((len(pools), table_rows), bool)
    for pool, items in enumerate(pools):
        allowed[pool, items] = True
    calibration = config.calibration if config.kind == "gbce" else 0.0
    beta = [linear_xent.gbce_beta(config.negatives, max(len(items), 2), calibration) for items in pools]
    powers, domains = jnp.asarray(beta, jnp.float32), len(domain_items)
    if config.kind == "softmax":
        return NextItem(config, jnp.asarray(allowed), None, powers, domains, make_pools(pools, table_rows))
    sampler = "popularity" if config.sampler == "in_batch" else config.sampler
    power = 1.0 if config.sampler == "in_batch" else config.popularity_power
    return NextItem(config, jnp.asarray(allowed), sampler_tables(pools, counts, sampler, power), powers, domains)
