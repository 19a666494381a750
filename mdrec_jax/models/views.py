"""Two views of the same tokens: the mixed sequence, and each domain's events by themselves.

The in-domain view is the same row, stably sorted by (segment, domain): an ordinary packed row whose segments are a
user's events in one domain. So any number of domains costs two passes through the encoder and not one more for each.
What a domain has of its own are low-rank paths (the dLoRA and iLoRA of ABXI, arXiv 2501.15118).
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.models import init
from mdrec_jax.models.checks import check
from mdrec_jax.models.pure import parameter
from mdrec_jax.types import Batch


@dataclass(frozen=True)
class ViewsConfig:
    """
    Args:
        in_domain: whether the in-domain view is there.
        domain_rank: rank of each domain's own path beside the feed-forward layer of the in-domain view; 0 has none.
        invariant_rank: rank of each domain's own path from the mixed view to its scores; 0 has none.
        projectors: a map of the mixed states that all domains share, and one of the in-domain states.
        critic: the critic of the infomax objective, which trains it.
    """

    in_domain: bool = False
    domain_rank: int = 0
    invariant_rank: int = 0
    projectors: bool = True
    critic: bool = False

    def __post_init__(self) -> None:
        for name in ("domain_rank", "invariant_rank"):
            check(f"views.{name}", getattr(self, name), getattr(self, name) >= 0, "a rank, >= 0")
        ranked = self.domain_rank + self.invariant_rank
        check("views.domain_rank", self.domain_rank, self.in_domain or not ranked, "0 without views.in_domain")
        check("views.critic", self.critic, self.in_domain or not self.critic, "False without views.in_domain")


@dataclass(frozen=True)
class InDomain:
    """The in-domain view of a batch, and the way back."""

    batch: Batch
    order: Int32[Array, "R T"]
    """The column of the mixed view that stands at each place of this view."""
    place: Int32[Array, "R T"]
    """The place in this view of each column of the mixed view."""

    @classmethod
    def of(cls, batch: Batch, domains: int) -> "InDomain":
        """Padding stays behind everything else."""
        segment, domain = jnp.asarray(batch.segment), jnp.asarray(batch.domain)
        number = jnp.where(segment > 0, (segment - 1) * domains + domain + 1, 0)
        sort_key = jnp.where(segment > 0, number, jnp.iinfo(jnp.int32).max)
        order = jnp.argsort(sort_key, axis=1, stable=True).astype(jnp.int32)
        place = jnp.argsort(order, axis=1).astype(jnp.int32)
        moved = {
            name: jnp.take_along_axis(jnp.asarray(getattr(batch, name)), order, axis=1)
            for name in ("item", "domain", "event", "time")
        }
        view = dataclasses.replace(
            batch,
            **moved,
            segment=jnp.take_along_axis(number, order, axis=1),
            position=jnp.take_along_axis(jnp.asarray(batch.domain_position), order, axis=1),
        )
        return cls(view, order, place)

    def into(self, x: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
        """What stands at the columns of the mixed view, at the places of this one."""
        return jnp.take_along_axis(x, self.order[..., None], axis=1)

    def back(self, x: Float[Array, "R T *D"]) -> Float[Array, "R T *D"]:
        """What stands at the places of this view, at the columns of the mixed one."""
        return jnp.take_along_axis(x, jnp.expand_dims(self.place, range(2, x.ndim)), axis=1)

    def previous(
        self, h: Float[Array, "R T D"], column: Int32[Array, "R T"], null: Float[Array, " D"]
    ) -> Float[Array, "R T D"]:
        """This view's state at `column` of the mixed view; `null` where that is -1."""
        place = jnp.take_along_axis(self.place, jnp.maximum(column, 0), axis=1)
        found = jnp.take_along_axis(h, place[..., None], axis=1)
        return jnp.where(column[..., None] >= 0, found, null.astype(h.dtype)[None, None, :])


class DomainPaths(nnx.Module):
    """x A_g B_g for each token's domain g, of low rank r; zero when training starts.

    One product with all domains' A side by side, a mask, and one with all B stacked.
    """

    def __init__(self, key: jax.Array, dim: int, domains: int, rank: int) -> None:
        self.rank = rank
        down = init.matrix(key, dim, domains * rank)
        self.down = parameter(down, "embed", "domain_rank", scope="private")
        self.up = parameter(jnp.zeros((domains * rank, dim)), "domain_rank", "embed", scope="private")

    def __call__(self, x: Float[Array, "R T D"], domain: Int32[Array, "R T"]) -> Float[Array, "R T D"]:
        y = x @ self.down.get_value().astype(x.dtype)
        own = jnp.arange(y.shape[-1], dtype=jnp.int32)[None, None, :] // self.rank == domain[..., None]
        return jnp.where(own, y, jnp.zeros((), y.dtype)) @ self.up.get_value().astype(x.dtype)
