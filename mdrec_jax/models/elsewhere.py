"""What a user did elsewhere: states that have read no event of the target's domain.

The domains are dealt into two halves, anew for every row and step, and each half's events are a sequence of their own,
as in the in-domain view. A target in one half is put to the state of the other half. What serves there is true of the
user whatever the domain, for nothing else reached that state. (Two views of one thing share what can be told from one
about the other: contrastive multiview coding, Tian et al. 2020, arXiv 1906.05849.)
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from mdrec_jax.models.layers import fold_seeds
from mdrec_jax.models.views import InDomain
from mdrec_jax.types import Batch

HALVES = 2


@dataclass(frozen=True)
class Elsewhere:
    """The view of the halves, and for each target the mixed view's column whose state knows only the other half."""

    view: InDomain
    column: Int32[Array, "R T"]
    """The segment's latest event, up to this one, in the half that the target's domain is not in; -1 = none."""

    @classmethod
    def of(cls, batch: Batch, domains: int, seeds: UInt32[Array, "R 2"]) -> "Elsewhere":
        side = dealt(seeds, domains)
        half, asked = (jnp.take_along_axis(side, jnp.asarray(x), axis=1) for x in (batch.domain, batch.target_domain))
        view = InDomain.of(dataclasses.replace(batch, domain=half, domain_position=jnp.zeros_like(half)), HALVES)
        domain = jnp.take_along_axis(jnp.asarray(batch.domain), view.order, axis=1)
        position = since_start(jnp.asarray(view.batch.segment))
        view = dataclasses.replace(view, batch=dataclasses.replace(view.batch, domain=domain, position=position))
        return cls(view, latest(half, 1 - asked, jnp.asarray(batch.segment)))

    def states(self, h: Float[Array, "R T D"]) -> tuple[Float[Array, "R T D"], Bool[Array, "R T 1"]]:
        """The states that stand at the targets, and where there is one."""
        null = jnp.zeros((h.shape[-1],), h.dtype)
        return self.view.previous(h, self.column, null), (self.column >= 0)[..., None]


def dealt(seeds: UInt32[Array, "R 2"], domains: int) -> Int32[Array, "R G"]:
    """Each row's half, 0 or 1, of every domain. Neither is empty where there are two domains."""
    drawn = fold_seeds(seeds, jnp.uint32(2003))
    assert drawn is not None

    def one(seed: UInt32[Array, " 2"]) -> Int32[Array, " G"]:
        keys = jax.random.split(jax.random.wrap_key_data(seed))
        order = jax.random.permutation(keys[0], domains)
        side = jax.random.bernoulli(keys[1], shape=(domains,)).astype(jnp.int32)
        fixed = jnp.minimum(jnp.arange(domains, dtype=jnp.int32), 1)
        return jnp.zeros_like(side).at[order].set(jnp.where(jnp.arange(domains) < HALVES, fixed, side))

    return jax.vmap(one)(drawn)


def since_start(segment: Int32[Array, "R T"]) -> Int32[Array, "R T"]:
    """0, 1, ... within each run of equal segments."""
    index = jnp.broadcast_to(jnp.arange(segment.shape[1], dtype=jnp.int32), segment.shape)
    begins = jnp.diff(segment, axis=1, prepend=-1) != 0
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


def latest(half: Int32[Array, "R T"], wanted: Int32[Array, "R T"], segment: Int32[Array, "R T"]) -> Int32[Array, "R T"]:
    """The column of the segment's latest event, up to each one, in the half `wanted` there; -1 = none."""
    index = jnp.broadcast_to(jnp.arange(half.shape[1], dtype=jnp.int32), half.shape)
    seen = [jax.lax.cummax(jnp.where((half == side) & (segment > 0), index, -1), axis=1) for side in range(HALVES)]
    column = jnp.where(wanted == 0, *seen)
    own = jnp.take_along_axis(segment, jnp.maximum(column, 0), axis=1) == segment
    return jnp.where(own & (column >= 0), column, -1)
