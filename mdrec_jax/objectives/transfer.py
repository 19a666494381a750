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


def domain_means(
    loss: Float[jax.Array, " N"],
    domain: Int32[jax.Array, " N"],
    counted: Bool[jax.Array, " N"],
    domains: int,
    axis: str,
) -> Float[jax.Array, " G"]:
    """The mean over each domain's counted tokens of the global batch; 0 where there are none.

    Args:
        loss, domain, counted: of the local tokens.
        axis: the mesh axis that the batch's rows lie along.
    """
    sums = jnp.where(_of_domains(domain, counted, domains), loss[:, None], 0.0).sum(0)
    return jax.lax.psum(sums, axis) / jnp.maximum(domain_counts(domain, counted, domains, axis), 1.0)


def domain_counts(
    domain: Int32[jax.Array, " N"], counted: Bool[jax.Array, " N"], domains: int, axis: str
) -> Float[jax.Array, " G"]:
    """How many counted tokens of the global batch each domain has."""
    return jax.lax.psum(_of_domains(domain, counted, domains).sum(0, dtype=jnp.float32), axis)


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
