"""Weights of the domains' losses by how much each domain gains from the others (SyNCRec, Park et al., SIGIR 2024).

Two tasks are learned at once: the next item from everything the user did (cross), and from what the user did in the
target's domain alone (single). Their losses on the same targets say what a domain gains; below zero it is negative
transfer. The cross loss of a domain g is then weighted by

    w_g = softmax_g( sharpness (single_g - cross_g) ),

scaled so that the weights of all targets add up to what they were: a domain that the others harm pulls less at what is
shared. The paper adds a multiple of the last step's weights inside the softmax; a packed batch holds thousands of
targets, so here the batch's own losses are the measure, and a step depends on nothing but its batch.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.forward import Forward, Weighted
from mdrec_jax.parallel.collectives import Spread


@dataclass(frozen=True)
class TransferConfig:
    """
    Args:
        weight: of the single-domain loss; 0 leaves out the loss and the weights.
        sharpness: how strongly the gain decides the weights; 0 measures it and leaves them alike.
    """

    weight: float = 0.0
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "sharpness"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError("out of range", column=f"objectives.transfer.{name}", found=value, expected=">= 0")

    def losses(self, seen: Forward) -> Weighted:
        """Of the in-domain state by itself."""
        views = seen.encoded.views
        if not self.weight or views is None:
            return {}
        return {"single_domain": (self.weight, seen.score(views.in_domain_state, seen.weight))}

    def weights(self, seen: Forward) -> tuple[Float[jax.Array, "R T"], dict[str, Float[jax.Array, ""]]]:
        """The targets' weights by what their domain gains, and the gains (of each device an equal part)."""
        views = seen.encoded.views
        if not self.weight or views is None:
            return seen.weight, {}
        domain, domains, spread = jnp.asarray(seen.batch.target_domain), seen.next_item.domains, seen.spread
        real = (seen.weight > 0).reshape(-1)
        known = real & (jnp.asarray(seen.batch.previous_in_target_domain) >= 0).reshape(-1)
        single, cross = (
            domain_means(seen.each(state), domain.reshape(-1), known, domains, spread)
            for state in (views.in_domain_state, seen.encoded.h)
        )
        gain, number = single - cross, domain_counts(domain.reshape(-1), real, domains, spread)
        factor = domain_weights(self, gain, number)
        return seen.weight * factor[domain], {f"gain_{g}": gain[g] / spread.size for g in range(domains)}


def domain_means(
    loss: Float[jax.Array, " N"],
    domain: Int32[jax.Array, " N"],
    counted: Bool[jax.Array, " N"],
    domains: int,
    spread: Spread,
) -> Float[jax.Array, " G"]:
    """The mean over each domain's counted tokens of the global batch; 0 where there are none.

    Args:
        loss, domain, counted: of the local tokens.
    """
    sums = jnp.where(_of_domains(domain, counted, domains), loss[:, None], 0.0).sum(0)
    return spread.sum(sums) / jnp.maximum(domain_counts(domain, counted, domains, spread), 1.0)


def domain_counts(
    domain: Int32[jax.Array, " N"], counted: Bool[jax.Array, " N"], domains: int, spread: Spread
) -> Float[jax.Array, " G"]:
    """How many counted tokens of the global batch each domain has."""
    return spread.sum(_of_domains(domain, counted, domains).sum(0, dtype=jnp.float32))


def domain_weights(
    config: TransferConfig, gain: Float[jax.Array, " G"], targets: Float[jax.Array, " G"]
) -> Float[jax.Array, " G"]:
    """What the weights of each domain's targets are multiplied by.

    Args:
        gain: single-domain loss less cross-domain loss.
        targets: how many targets of the global batch each domain has; without any, it takes no part.
    """
    share = jax.nn.softmax(jnp.where(targets > 0, config.sharpness * gain, -1e30))
    return share * targets.sum() / jnp.maximum((share * targets).sum(), 1e-30)


def _of_domains(domain: Int32[jax.Array, " N"], counted: Bool[jax.Array, " N"], domains: int) -> Bool[jax.Array, "N G"]:
    return (domain[:, None] == jnp.arange(domains, dtype=jnp.int32)[None, :]) & counted[:, None]
