"""Next-item losses for logs in which some events are noise.

Trimming: a model fits clean targets before noisy ones, so a target with a large loss is more often noise. A share of
the largest losses is left out, and the share rises as the model learns (truncated cross entropy, Wang et al. 2021,
arXiv 2006.04153):

    drop(step) = trim * min(step / trim_steps, 1).

It is a share of each domain's targets in the global batch: taken over all targets together, a domain that is harder
than the others would lose most of its own. What stays is weighted up to the domain's old weight.

Robust losses bound what one target can do. With l the cross entropy and p = exp(-l) the target's probability:

generalised   (1 - p^q) / q          Zhang and Sabuncu 2018, arXiv 1805.07836: l for q -> 0, 1 - p at q = 1
symmetric     l + reverse (1 - p)    Wang et al. 2019, arXiv 1908.06112: `reverse` is their -beta A / alpha
mixture       -log((1 - e) p + e / n)   Patrini et al. 2017, arXiv 1609.03683, theorem 2 (forward correction): a share e
                                   of the targets is drawn uniformly from the n candidates
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mdrec_jax.errors import ConfigError


@dataclass(frozen=True)
class DenoiseConfig:
    """
    Args:
        trim: share of each domain's largest losses that are left out in the end; 0 keeps all.
        trim_steps: steps over which the share rises to `trim`.
        robust: what becomes of the cross entropy of those that stay.
        power: q of `generalised`.
        reverse: weight of the reverse cross entropy of `symmetric`.
        noise: e of `mixture`.
    """

    trim: float = 0.0
    trim_steps: int = 1000
    robust: Literal["none", "generalised", "symmetric", "mixture"] = "none"
    power: float = 0.3
    reverse: float = 4.0
    noise: float = 0.2

    def __post_init__(self) -> None:
        checks = {
            "trim": (0 <= self.trim < 1, "a share, 0 <= trim < 1"),
            "trim_steps": (self.trim_steps >= 1, ">= 1"),
            "power": (0 < self.power <= 1, "above 0, at most 1"),
            "reverse": (0 < self.reverse < math.inf, "> 0"),
            "noise": (0 < self.noise < 1, "a share, above 0, below 1"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ConfigError(
                    "out of range", column=f"loss.denoise.{name}", found=getattr(self, name), expected=expected
                )

    @property
    def used(self) -> bool:
        return self.trim > 0 or self.robust != "none"


def denoised(
    config: DenoiseConfig,
    loss: Float[jax.Array, " N"],
    weight: Float[jax.Array, " N"],
    domain: Int32[jax.Array, " N"],
    domains: int,
    choices: Float[jax.Array, " N"],
    step: Int32[jax.Array, ""],
    axis: str,
) -> tuple[Float[jax.Array, " N"], Float[jax.Array, ""]]:
    """Weights under which a sum of cross entropies has the gradient of the denoised loss, and what its value lacks.

    Args:
        loss: each local token's cross entropy, a constant; anything where there is no target.
        weight: of the targets; 0 where there is none.
        choices: how many candidates each cross entropy is over.
        step: optimiser steps done.
        axis: the mesh axis that the batch's rows lie along.
    """
    real = weight > 0
    loss = jnp.where(real, loss, 0.0)
    if config.trim:
        weight = weight * trimmed(config, loss, domain, real, domains, step, axis)
    value, pull = jax.vjp(partial(robust, config, choices=choices), loss)
    (slope,) = pull(jnp.ones_like(loss))
    return weight * slope, jnp.sum(weight * (value - slope * loss))


def robust(
    config: DenoiseConfig, loss: Float[jax.Array, " N"], choices: Float[jax.Array, " N"]
) -> Float[jax.Array, " N"]:
    """Each target's loss from its cross entropy over that many candidates."""
    match config.robust:
        case "none":
            return loss
        case "generalised":
            return -jnp.expm1(-config.power * loss) / config.power
        case "symmetric":
            return loss - config.reverse * jnp.expm1(-loss)
        case "mixture":
            return -jnp.logaddexp(math.log1p(-config.noise) - loss, math.log(config.noise) - jnp.log(choices))


def trimmed(
    config: DenoiseConfig,
    loss: Float[jax.Array, " N"],
    domain: Int32[jax.Array, " N"],
    real: Bool[jax.Array, " N"],
    domains: int,
    step: Int32[jax.Array, ""],
    axis: str,
) -> Float[jax.Array, " N"]:
    """What each local target's weight is multiplied by: 0 if it is trimmed, else what its domain's weight is kept by.

    Args:
        loss, domain, real: of the local rows' tokens; `real` where there is a target.
        step: optimiser steps done.
        axis: the mesh axis that the batch's rows lie along. Of equal losses the first tokens stay.
    """
    share = config.trim * jnp.minimum(step / config.trim_steps, 1.0)
    size, first = loss.shape[0], jax.lax.axis_index(axis) * loss.shape[0]
    # Tokens without a target are a group of their own, behind the domains.
    group = jnp.where(real, domain, domains)
    loss, group = (jax.lax.all_gather(x, axis, tiled=True) for x in (loss, group))
    counts = (group[:, None] == jnp.arange(domains + 1, dtype=jnp.int32)[None, :]).sum(0, dtype=jnp.int32)
    kept = counts - jnp.floor(share * counts.astype(jnp.float32)).astype(jnp.int32)
    order = jnp.lexsort((loss, group))
    rank = jnp.argsort(order).astype(jnp.int32) - (jnp.cumsum(counts) - counts)[group]
    factor = jnp.where(rank < kept[group], counts[group] / jnp.maximum(kept[group], 1), 0.0)
    return jax.lax.dynamic_slice_in_dim(factor, first, size)
