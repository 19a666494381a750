"""Predicting the next item: full softmax, sampled softmax with the logQ correction, BCE and gBCE.

Every loss is a sum over the batch's weighted targets; the caller puts the normalisation into the weights.

For logs in which a share e of the events is noise, the cross entropy l becomes -log((1 - e) exp(-l) + e / n): a share e
of the targets is drawn uniformly from the n candidates (forward correction, Patrini et al. 2017, arXiv 1609.03683,
theorem 2).
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32
from mdrec_kernels import linear_xent

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.domain_softmax import Pools, make_pools
from mdrec_jax.objectives.sampling import Sampler, SamplerTables, draw, draw_from_batch, sampler_tables
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.types import Batch

CALIBRATION = 0.75
"""gBCE's t: 0 would be BCE."""


@dataclass(frozen=True)
class NextItemConfig:
    """
    Args:
        kind: `softmax` over the whole catalogue, exact and never materialised; `sampled_softmax` (Bengio & Senecal
            2008), with the correction for how often an item is drawn; `bce`, one-against-sampled; `gbce`, its
            calibrated form (Petrov & Macdonald 2023, gSASRec, eq. 9).
        softmax_over: `all` items, or only those of the target's domain.
        negatives: draws for each pool; unused by `softmax`. `sampled_softmax` shares them in the batch. Those of
            `bce` and `gbce` are shared by a row of it alone: there half of every token pulls on a negative at first,
            and a whole batch together drowns what the item gains as a target.
        sampler: how they are drawn: `uniform`, by `popularity`, or from the batch's own targets (`in_batch`).
        noise: e, the share of events that are nobody's choice; 0 trusts the log.
    """

    kind: Literal["softmax", "sampled_softmax", "bce", "gbce"] = "softmax"
    softmax_over: Literal["all", "target_domain"] = "all"
    negatives: int = 256
    sampler: Sampler = "uniform"
    noise: float = 0.0

    def __post_init__(self) -> None:
        checks = {
            "negatives": (self.negatives, self.negatives >= 1, ">= 1"),
            "noise": (self.noise, 0 <= self.noise < 1, "a share, 0 <= noise < 1"),
        }
        for name, (value, holds, expected) in checks.items():
            if not holds:
                raise ConfigError("out of range", column=f"loss.{name}", found=value, expected=expected)
        if self.noise and self.kind not in ("softmax", "sampled_softmax"):
            raise ConfigError(
                "allowing for noise needs the probability of an item among others",
                column="loss.noise", found=f"{self.noise} with {self.kind}", expected="softmax or sampled_softmax",
            )  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """Item ids that the loss needs vectors of: some belong to a row of the batch, some are shared by all rows."""

    per_row: dict[str, Int32[jax.Array, "R _"]]
    shared: dict[str, Int32[jax.Array, " N"]]

    def all(self) -> dict[str, jax.Array]:
        return {**self.per_row, **self.shared}


class ItemVectors(Protocol):
    """Vectors of the items that were looked up under a name, as states are scored against them; None = all rows."""

    def __call__(self, ids: str | None) -> jax.Array: ...


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
    def needs_whole_table(self) -> bool:
        return self.config.kind == "softmax"

    def candidates(self, batch: Batch, key: jax.Array, spread: Spread) -> Candidates:
        """What to look up for `batch`, the local rows of a batch that is spread over devices."""
        if self.needs_whole_table:
            return Candidates({}, {})
        own = {"target": jnp.asarray(batch.target)}
        if not self._binary:
            return Candidates(own, {"negative": self._draw(batch, key, spread)})
        rows = spread.index * batch.target.shape[0] + jnp.arange(batch.target.shape[0])
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        return Candidates(own | {"negative": jax.vmap(lambda key: self._draw(batch, key, spread))(keys)}, {})

    @property
    def _binary(self) -> bool:
        return self.config.kind in ("bce", "gbce")

    def _draw(self, batch: Batch, key: jax.Array, spread: Spread) -> Int32[jax.Array, " N"]:
        assert self.sampler is not None
        pools, number = self.allowed.shape[0], self.config.negatives
        if self.config.sampler != "in_batch":
            return draw(self.sampler, key, number).reshape(-1)
        target, pool, real = spread.gather((jnp.asarray(batch.target).reshape(-1), self._pool(batch), _real(batch)))
        keys = jax.random.split(key, pools)
        drawn = [draw_from_batch(target, real & (pool == g), keys[g], number) for g in range(pools)]
        return jnp.concatenate(drawn)

    def loss(
        self,
        vectors: ItemVectors,
        h: Float[jax.Array, "R T D"],
        batch: Batch,
        weight: Float32[jax.Array, "R T"],
        candidates: Candidates,
    ) -> Float32[jax.Array, ""]:
        """The weighted sum over the targets of `batch`, this device's rows.

        Args:
            h: states, ready for inner products.
        """
        x, weights, noise = h.reshape(-1, h.shape[-1]), weight.reshape(-1), self.config.noise
        if not noise:
            return self._sum(vectors, x, batch, weights, candidates)
        # Weights under which a sum of cross entropies has the gradient of the corrected loss, and what its value lacks.
        each = jnp.where(weights > 0, self.each(vectors, h, batch, candidates), 0.0)
        value, pull = jax.vjp(lambda loss: corrected(loss, self._choices[self._pool(batch)], noise), each)
        (slope,) = pull(jnp.ones_like(each))
        offset = jnp.sum(weights * (value - slope * each))
        return self._sum(vectors, x, batch, weights * slope, candidates) + offset

    def each(
        self, vectors: ItemVectors, h: Float[jax.Array, "R T D"], batch: Batch, candidates: Candidates
    ) -> Float32[jax.Array, " N"]:
        """The loss of each token, rows one behind the other, as constants; 0 without a target."""
        x = jax.lax.stop_gradient(h.reshape(-1, h.shape[-1]))

        def fixed(weight: Float32[jax.Array, " N"]) -> Float32[jax.Array, ""]:
            return self._sum(lambda ids: jax.lax.stop_gradient(vectors(ids)), x, batch, weight, candidates)

        # The gradient of the sum with respect to a token's weight is the token's loss.
        return jax.grad(fixed)(_real(batch).astype(jnp.float32))

    def _sum(
        self,
        vectors: ItemVectors,
        x: Float[jax.Array, "N D"],
        batch: Batch,
        weight: Float32[jax.Array, " N"],
        candidates: Candidates,
    ) -> Float32[jax.Array, ""]:
        target, pool = jnp.asarray(batch.target).reshape(-1), self._pool(batch)
        if not self.needs_whole_table:
            return self._sampled(vectors, x, target, pool, weight, candidates)
        if self.pools is not None:
            return self.pools.loss(x, vectors(None), target, weight, pool)
        return linear_xent.linear_xent_sum(x, vectors(None), target, weight, allowed=self.allowed, group=pool)

    def _sampled(
        self,
        vectors: ItemVectors,
        x: Float32[jax.Array, "N D"],
        target: Int32[jax.Array, " N"],
        pool: Int32[jax.Array, " N"],
        weight: Float32[jax.Array, " N"],
        candidates: Candidates,
    ) -> Float32[jax.Array, ""]:
        assert self.sampler is not None
        config, pools = self.config, self.allowed.shape[0]
        negative = candidates.all()["negative"]
        negative_pool = jnp.repeat(jnp.arange(pools, dtype=jnp.int32), config.negatives)
        positives, negatives = vectors("target").reshape(x.shape), vectors("negative")
        if self._binary:

            def of_row(x: Any, positive: Any, target: Any, pool: Any, weight: Any, ids: Any, row: Any) -> jax.Array:
                known = {"group": pool, "negative_group": negative_pool} if pools > 1 else {}
                return linear_xent.sampled_bce_sum(
                    x, positive, row, weight, beta=self.beta[pool], positive_id=target, negative_id=ids, **known
                )

            def rows(of_tokens: jax.Array) -> jax.Array:
                return of_tokens.reshape(len(negative), -1, *of_tokens.shape[1:])

            sums = jax.vmap(of_row)(
                rows(x), rows(positives), rows(target), rows(pool), rows(weight), negative, negatives
            )
            return jnp.sum(sums)
        known: dict[str, Any] = {"positive_id": target, "negative_id": negative}
        if pools > 1:
            known |= {"group": pool, "negative_group": negative_pool}
        known["positive_logq"] = self.sampler.log_probability[pool, target]
        known["negative_logq"] = self.sampler.log_probability[negative_pool, negative]
        return linear_xent.sampled_xent_sum(x, positives, negatives, weight, **known)

    @property
    def _choices(self) -> Float32[jax.Array, " G"]:
        """How many items a target of each pool is told from, itself among them."""
        if self.needs_whole_table:
            return self.allowed.sum(1, dtype=jnp.int32).astype(jnp.float32)
        return jnp.full(self.allowed.shape[:1], self.config.negatives + 1.0, jnp.float32)

    def _pool(self, batch: Batch) -> Int32[jax.Array, " N"]:
        domain = jnp.asarray(batch.target_domain).reshape(-1)
        return jnp.zeros_like(domain) if self.config.softmax_over == "all" else domain


def corrected(loss: Float[jax.Array, " N"], choices: Float[jax.Array, " N"], noise: float) -> Float[jax.Array, " N"]:
    """-log((1 - e) exp(-loss) + e / choices), from cross entropies over that many candidates."""
    return -jnp.logaddexp(math.log1p(-noise) - loss, math.log(noise) - jnp.log(choices))


def _real(batch: Batch) -> Bool[jax.Array, " N"]:
    return (jnp.asarray(batch.weight) > 0).reshape(-1)


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
    calibration = CALIBRATION if config.kind == "gbce" else 0.0
    beta = [linear_xent.gbce_beta(config.negatives, max(len(items), 2), calibration) for items in pools]
    powers, domains = jnp.asarray(beta, jnp.float32), len(domain_items)
    if config.kind == "softmax":
        return NextItem(config, jnp.asarray(allowed), None, powers, domains, make_pools(pools, table_rows))
    tables = sampler_tables(pools, counts, "uniform" if config.sampler == "uniform" else "popularity")
    return NextItem(config, jnp.asarray(allowed), tables, powers, domains)
