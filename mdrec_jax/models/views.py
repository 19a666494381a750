"""Views of the same tokens: the mixed sequence, each domain's events by themselves, and what was done in other domains.

The in-domain view is the same row, stably sorted by (segment, domain): an ordinary packed row whose segments are a
user's events in one domain. So any number of domains costs two passes through the encoder and not one more for each.
What a domain has of its own are low-rank paths (the dLoRA and iLoRA of ABXI, arXiv 2501.15118).
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, UInt32

from mdrec_jax.models.layers.checks import check
from mdrec_jax.models.layers.dropout import Fold, Site, dropout, fold_seeds
from mdrec_jax.models.layers.linear import DomainPaths, Linear
from mdrec_jax.models.layers.norm import Norm
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import Batch

HALVES = 2


@dataclass(frozen=True)
class ViewsConfig:
    """
    Args:
        in_domain: whether the in-domain view is there.
        path_rank: rank of each domain's own paths: beside the feed-forward layer of the in-domain view, and from the
            mixed view (of a disentangled model, from the in-domain one) to its scores; 0 has none.
    """

    in_domain: bool = False
    path_rank: int = 0

    def __post_init__(self) -> None:
        check("views.path_rank", self.path_rank, self.path_rank >= 0, "a rank, >= 0")
        check("views.path_rank", self.path_rank, self.in_domain or not self.path_rank, "0 without views.in_domain")


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

    def previous(
        self, h: Float[Array, "R T D"], column: Int32[Array, "R T"], null: Float[Array, " D"]
    ) -> Float[Array, "R T D"]:
        """This view's state at `column` of the mixed view; `null` where that is -1."""
        place = jnp.take_along_axis(self.place, jnp.maximum(column, 0), axis=1)
        found = jnp.take_along_axis(h, place[..., None], axis=1)
        return jnp.where(column[..., None] >= 0, found, null.astype(h.dtype)[None, None, :])


@dataclass(frozen=True)
class CrossDomain:
    """What a user did in other domains than the target's: states that have read no event of its half of the domains.

    The domains are dealt into two halves, anew for every row and step, and each half's events are a sequence of their
    own, as in the in-domain view. A target in one half is scored by the state of the other half. What serves there is
    true of the user whatever the domain, for nothing else reached that state. (Two views of one thing share what can be
    told from one about the other: contrastive multiview coding, Tian et al. 2020, arXiv 1906.05849.)
    """

    view: InDomain
    column: Int32[Array, "R T"]
    """The mixed view's column whose state knows only the other half: the segment's latest event, up to this one, in the
    half that the target's domain is not in; -1 = none."""

    @classmethod
    def of(cls, batch: Batch, domains: int, seeds: UInt32[Array, "R 2"]) -> "CrossDomain":
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
    drawn = fold_seeds(seeds, Fold.HALVES)
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


class Fusion(nnx.Module):
    """The state that a target's domain g is scored with (after ABXI, arXiv 2501.15118):

    norm(m + P m + C_g m) + norm(d + Q d), m the mixed state, d the state after the user's last event in g.
    """

    def __init__(self, key: jax.Array, dim: int, domains: int, *, path_rank: int, rate: float) -> None:
        """
        Args:
            path_rank: of the domains' low-rank paths C; 0 has none.
            rate: of dropout on what each map adds.
        """
        keys = jax.random.split(key, 3)
        self.rate = rate
        self.mixed_norm, self.own_norm = Norm(dim), Norm(dim)
        self.mixed_map, self.own_map = (Linear(key, dim, dim, ("embed", "embed_out"), gain=0.5) for key in keys[:2])
        self.paths = DomainPaths(keys[2], dim, domains, path_rank) if path_rank else None
        self.null = parameter(jnp.zeros((dim,)), "embed", group="vector", scope="private")

    def __call__(
        self,
        mixed: Float[Array, "R T D"],
        own: Float[Array, "R T D"],
        target_domain: Int32[Array, "R T"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        parts = mixed + dropout(self.mixed_map(mixed), seeds, Site.SHARED_MAP, self.rate)
        if self.paths is not None:
            parts = parts + dropout(self.paths(mixed, target_domain), seeds, Site.TARGET_PATH, self.rate)
        return self.mixed_norm(parts) + self.alone(own, seeds)

    def alone(self, own: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None) -> Float[Array, "R T D"]:
        """The in-domain state's part of the sum: a state by itself, of what the user did in the target's domain."""
        return self.own_norm(own + dropout(self.own_map(own), seeds, Site.SPECIFIC_MAP, self.rate))
