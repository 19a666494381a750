"""Infomax between a user's behaviour in one domain and in the others (C2DSR, arXiv 2304.03891).

A critic tells a user's own pair from a false one. For a domain g, d is the mean of the user's in-domain states at the
targets of g, m the mean of the mixed states at the targets of all other domains, and m' the same of the corrupted
sequence, each of whose items is replaced by one drawn from the events of its domain in the batch:

    loss = softplus(-<W d, m>) + softplus(<W d, m'>)

A segment takes part with one domain g, that of its last target, where it has targets in g and in another domain. In the
paper the sequence is corrupted once for each domain, in the others' items alone; here it is corrupted once as a whole,
so that the cost, one more pass, does not grow with the number of domains.
"""

import dataclasses
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.contrastive import last_columns
from mdrec_jax.types import Batch, Rows


@dataclass(frozen=True)
class InfomaxConfig:
    """
    Args:
        weight: of the objective; 0 leaves it out. The model needs a critic.
    """

    weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ConfigError(
                "out of range", column="objectives.infomax.weight", found=self.weight, expected="a weight, >= 0"
            )


def corrupted(batch: Batch, rows: dict[str, Rows], key: jax.Array, axis: str) -> tuple[Batch, dict[str, Rows]]:
    """The batch with every item replaced by that of a random event of the same domain in the global batch.

    What was looked up for a token goes with its item; nothing new is looked up.

    Args:
        batch, rows: of the local rows.
        key: of the draws, the same on every device.
        axis: the mesh axis that the batch's rows lie along.
    """
    source = _sources(batch, key, axis)
    shape = batch.item.shape

    def moved(ids: jax.Array) -> jax.Array:
        return jax.lax.all_gather(ids, axis, tiled=True).reshape(-1)[source]

    def of_tokens(rows: Rows) -> Rows:
        index = {name: moved(ids) if ids.shape == shape else ids for name, ids in rows.index.items()}
        return Rows(rows.values, index)

    item = jnp.where(jnp.asarray(batch.segment) > 0, moved(jnp.asarray(batch.item)), 0)
    return dataclasses.replace(batch, item=item), {name: of_tokens(table) for name, table in rows.items()}


def _sources(batch: Batch, key: jax.Array, axis: str) -> Int32[jax.Array, "R T"]:
    """For each local token, the place in the global batch of a random token of its domain; padding's own place."""
    rows, columns = batch.item.shape
    first = jax.lax.axis_index(axis) * rows
    numbers = first + jnp.arange(rows, dtype=jnp.int32)
    uniform = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (columns,)))(numbers)
    real, domain = jnp.asarray(batch.segment) > 0, jnp.asarray(batch.domain)
    group = jnp.where(real, domain, jnp.iinfo(jnp.int32).max)
    ordered = jax.lax.all_gather(group.reshape(-1), axis, tiled=True)
    order = jnp.argsort(ordered, stable=True).astype(jnp.int32)
    ordered = ordered[order]
    begin, end = (jnp.searchsorted(ordered, domain, side=side).astype(jnp.int32) for side in ("left", "right"))
    size = end - begin
    drawn = begin + jnp.minimum((uniform * size.astype(jnp.float32)).astype(jnp.int32), size - 1)
    own = numbers[:, None] * columns + jnp.arange(columns, dtype=jnp.int32)[None, :]
    return jnp.where(real, order[jnp.maximum(drawn, 0)], own)


def infomax_loss(
    batch: Batch,
    own: Float[jax.Array, "R T D"],
    mixed: Float[jax.Array, "R T D"],
    false: Float[jax.Array, "R T D"],
    axis: str,
) -> Float[jax.Array, ""]:
    """This device's part of the mean over the global batch's segments that take part.

    Args:
        batch: the local rows.
        own: W d of the in-domain states d.
        mixed, false: mixed states of the rows, and of the corrupted ones.
        axis: the mesh axis that the batch's rows lie along.
    """
    targets = (jnp.asarray(batch.weight) > 0) & (jnp.asarray(batch.previous_in_target_domain) >= 0)
    asked, last = jnp.asarray(batch.target_domain), last_columns(batch, targets)
    domain = jnp.take_along_axis(asked, jnp.maximum(last, 0), axis=1)
    same = asked == jnp.take_along_axis(domain, jnp.maximum(jnp.asarray(batch.segment) - 1, 0), axis=1)
    others = (jnp.asarray(batch.weight) > 0) & ~same
    here, elsewhere = (_of_segments(batch, chosen) for chosen in (targets & same, others))
    counted = (last >= 0) & elsewhere.any(-1)
    d = _mean(own, here)
    true, wrong = ((d * _mean(states, elsewhere)).sum(-1) for states in (mixed, false))
    losses = jax.nn.softplus(-true) + jax.nn.softplus(wrong)
    number = jax.lax.psum(counted.sum(dtype=jnp.float32), axis)
    return jnp.where(counted, losses, 0.0).sum() / jnp.maximum(number, 1.0)


def _of_segments(batch: Batch, chosen: Bool[jax.Array, "R T"]) -> Bool[jax.Array, "R S T"]:
    """Which of the chosen tokens belong to each segment."""
    numbers = jnp.arange(1, batch.segment_user.shape[1] + 1, dtype=jnp.int32)
    return (jnp.asarray(batch.segment)[:, None, :] == numbers[None, :, None]) & chosen[:, None, :]


def _mean(x: Float[jax.Array, "R T D"], tokens: Bool[jax.Array, "R S T"]) -> Float[jax.Array, "R S D"]:
    """The mean of x over each segment's tokens, in float32 or wider; zeros where there are none."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    share = tokens.astype(x.dtype)
    return jnp.einsum("rst,rtd->rsd", share / jnp.maximum(share.sum(-1, keepdims=True), 1.0), x)
