"""Contrast of a user's states with other users' states, within a domain and between two of them.

Decoupled (Yeh et al. 2022, arXiv 2110.06848, as FedSCOPE, doi 10.1038/s41598-026-38628-y, has it): the positive
is no part of the denominator,

    l(z, z+) = -<z, z+> / tau + log sum_{z-} exp(<z, z-> / tau),   all of length 1.

Both sides of a pair are anchors in turn. A segment gives one pair of each kind, so the cost does not grow with its
length. What is compared:

intra   at the segment's last target: the mixed state and the in-domain state, two views of what the user does next in
        one domain.
inter   the in-domain state at that target and the one at the segment's last target of another domain.

The negatives are both sides of other users' pairs, those of the positive's own domain alone: otherwise telling the
domains apart would be enough. Where there is no earlier event in a target's domain the in-domain state says nothing of
the user, and the target gives no pair.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.forward import Forward, Weighted
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.types import Batch

NEGATIVES = 1024
"""At most this many states of the global batch are compared with, the first of its rows."""
ROBUST_POWER, ROBUST_SHARE = 0.5, 0.025
"""q and lambda of `robust`: towards q = 0 it is InfoNCE, at 1 it is symmetric against noise."""
FAR = -1e30
"""The score of what is no negative: finite, so that an anchor without negatives has finite gradients."""


@dataclass(frozen=True)
class ContrastiveConfig:
    """
    Args:
        intra: weight of the contrast within a domain; 0 leaves it out.
        inter: weight of the contrast between two domains of a user; 0 leaves it out.
        form: `decoupled`; `infonce`, with the positive in the denominator (van den Oord et al. 2018); `robust`, which
            gives less weight to pairs that do not fit, such as false ones (RINCE, arXiv 2201.04309).
        temperature: tau.
    """

    intra: float = 0.0
    inter: float = 0.0
    form: Literal["decoupled", "infonce", "robust"] = "decoupled"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        checks = {
            "intra": (0 <= self.intra < math.inf, "a weight, >= 0"),
            "inter": (0 <= self.inter < math.inf, "a weight, >= 0"),
            "temperature": (0 < self.temperature < math.inf, "> 0"),
        }
        if self.form == "robust" and self.temperature > 0:
            largest = ROBUST_POWER * (1 / self.temperature + math.log(NEGATIVES + 1))
            checks["temperature"] = (largest < 80, "> .0067 for `robust`: exp of its inverse is taken")
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ConfigError(
                    "out of range",
                    column=f"objectives.contrastive.{name}",
                    found=getattr(self, name),
                    expected=expected,
                )

    @property
    def used(self) -> bool:
        """Whether anything is compared: the model must then have an in-domain view."""
        return self.inter > 0 or self.intra > 0

    def losses(self, seen: Forward) -> Weighted:
        parts: Weighted = {}
        if self.used:
            views = seen.encoded.views
            assert views is not None
            pairs = {
                "intra": (self.intra, lambda: intra_pairs(seen.batch, views.mixed, views.in_domain)),
                "inter": (self.inter, lambda: inter_pairs(seen.batch, views.in_domain)),
            }
            for name, (weight, make) in pairs.items():
                if weight:
                    parts[f"contrastive_{name}"] = weight, pair_loss(self, make(), seen.spread)
        return parts


@dataclass(frozen=True)
class Pairs:
    """N pairs of states of one user each; `left` and `right` of a pair are each other's positive."""

    left: Float[jax.Array, "N D"]
    right: Float[jax.Array, "N D"]
    left_domain: Int32[jax.Array, " N"]
    right_domain: Int32[jax.Array, " N"]
    user: Int32[jax.Array, " N"]
    real: Bool[jax.Array, " N"]


def intra_pairs(batch: Batch, left: Float[jax.Array, "R T D"], right: Float[jax.Array, "R T D"]) -> Pairs:
    """Two states at each segment's last target that has an earlier event in its domain."""
    column = last_columns(batch, _targets(batch))
    domain = pick(jnp.asarray(batch.target_domain), column)
    return Pairs(pick(left, column), pick(right, column), domain, domain, _users(batch), (column >= 0).reshape(-1))


def inter_pairs(batch: Batch, own: Float[jax.Array, "R T D"]) -> Pairs:
    """In-domain states `own` at each segment's last target, and at its last target of another domain."""
    targets, asked = _targets(batch), jnp.asarray(batch.target_domain)
    first = last_columns(batch, targets)
    domain = jnp.take_along_axis(asked, jnp.maximum(first, 0), axis=1)
    of_token = jnp.take_along_axis(domain, jnp.maximum(jnp.asarray(batch.segment) - 1, 0), axis=1)
    second = last_columns(batch, targets & (asked != of_token))
    return Pairs(
        pick(own, first), pick(own, second), pick(asked, first), pick(asked, second), _users(batch),
        (second >= 0).reshape(-1),
    )  # fmt: skip


def last_columns(batch: Batch, wanted: Bool[jax.Array, "R T"]) -> Int32[jax.Array, "R S"]:
    """The last wanted column of each segment; -1 where it has none."""
    numbers = jnp.arange(1, batch.segment_user.shape[1] + 1, dtype=jnp.int32)
    here = (jnp.asarray(batch.segment)[:, None, :] == numbers[None, :, None]) & wanted[:, None, :]
    columns = jnp.arange(wanted.shape[1], dtype=jnp.int32)
    return jnp.where(here, columns[None, None, :], -1).max(-1)


def pick(x: jax.Array, column: Int32[jax.Array, "R S"]) -> jax.Array:
    """What stands at the columns of x [R, T] or [R, T, D], with rows and segments as one axis; anything at -1."""
    place = jnp.maximum(column, 0)
    found = jnp.take_along_axis(x, place if x.ndim == 2 else place[..., None], axis=1)
    return found.reshape(-1, *x.shape[2:])


def pair_loss(config: ContrastiveConfig, pairs: Pairs, spread: Spread) -> Float[jax.Array, ""]:
    """This device's part of the mean over all anchors of the global batch that have a negative.

    Args:
        pairs: of the local rows.
    """
    left, right = unit_length(pairs.left), unit_length(pairs.right)
    others = _first_real(pairs, jnp.stack([left, right], axis=1), NEGATIVES, spread)
    anchor, positive = jnp.concatenate([left, right]), jnp.concatenate([right, left])
    asked = jnp.concatenate([pairs.right_domain, pairs.left_domain])
    user, real = jnp.tile(pairs.user, 2), jnp.tile(pairs.real, 2)
    negative = others.real[None, :] & (others.left_domain[None, :] == asked[:, None])
    negative &= others.user[None, :] != user[:, None]
    counted = real & negative.any(-1)
    losses = contrast(config, anchor, positive, others.left, negative)
    number = spread.sum(counted.sum(dtype=jnp.float32))
    return jnp.where(counted, losses, 0.0).sum() / jnp.maximum(number, 1.0)


def contrast(
    config: ContrastiveConfig,
    anchor: Float[jax.Array, "N D"],
    positive: Float[jax.Array, "N D"],
    others: Float[jax.Array, "M D"],
    negative: Bool[jax.Array, "N M"],
) -> Float[jax.Array, " N"]:
    """Each anchor's loss, in the form that `config` names. States are of length 1.

    Args:
        negative: which of the others each anchor is told from; the loss of an anchor without any means nothing.
    """
    own = (anchor * positive).sum(-1) / config.temperature
    against = jnp.where(negative, anchor @ others.T / config.temperature, FAR)
    total = jax.nn.logsumexp(against, axis=-1)
    if config.form == "decoupled":
        return total - own
    together = jnp.logaddexp(own, total)
    if config.form == "infonce":
        return together - own
    power = ROBUST_POWER
    return (ROBUST_SHARE**power * jnp.exp(power * together) - jnp.exp(power * own)) / power


def unit_length(x: Float[jax.Array, "... D"]) -> Float[jax.Array, "... D"]:
    """x over its Euclidean length, in float32 or wider; a zero vector stays zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def _first_real(pairs: Pairs, sides: Float[jax.Array, "N 2 D"], most: int, spread: Spread) -> Pairs:
    """Both sides of the first real pairs of the global batch, at most `most` states, as the `left` of one `Pairs`."""
    domain = jnp.stack([pairs.left_domain, pairs.right_domain], axis=1)
    user, real = (jnp.repeat(x, 2) for x in (pairs.user, pairs.real))
    local = sides.reshape(-1, sides.shape[-1]), domain.reshape(-1), user, real
    states, domain, user, real = spread.gather(local)
    first = jnp.argsort(~real, stable=True)[:most]
    states, domain, user, real = (x[first] for x in (states, domain, user, real))
    return Pairs(states, states, domain, domain, user, real)


def _targets(batch: Batch) -> Bool[jax.Array, "R T"]:
    return (jnp.asarray(batch.weight) > 0) & (jnp.asarray(batch.previous_in_target_domain) >= 0)


def _users(batch: Batch) -> Int32[jax.Array, " N"]:
    return jnp.asarray(batch.segment_user).reshape(-1)
