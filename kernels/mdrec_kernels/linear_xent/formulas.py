"""Losses of one token from the scores of its target and of its sampled negatives. Plain, differentiable functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def softmax_loss(
    positive: Float[Array, "*N"], negative: Float[Array, "*N S"], keep: Bool[Array, "*N S"]
) -> Float[Array, "*N"]:
    """-log of the target's share among itself and the negatives that are kept."""
    # A finite stand-in for minus infinity: where nothing is kept, the loss and its gradient are 0 and not NaN.
    others = jax.nn.logsumexp(jnp.where(keep, negative, -1e30), axis=-1)
    return jax.nn.softplus(others - positive)


def binary_loss(
    positive: Float[Array, "*N"],
    negative: Float[Array, "*N S"],
    keep: Bool[Array, "*N S"],
    beta: Float[Array, "*N"],
) -> Float[Array, "*N"]:
    """One against sampled, the mean over the target and the negatives that are kept.

    -(beta log sigmoid(s+) + sum_s log(1 - sigmoid(s-))) / (1 + number kept). beta = 1 is binary cross entropy;
    `gbce_beta` gives gBCE's (Petrov & Macdonald 2023, "gSASRec", equations 8 and 9).
    """
    below = jnp.sum(jnp.where(keep, jax.nn.softplus(negative), 0), axis=-1)
    number = 1 + jnp.sum(keep, axis=-1)
    return (beta * jax.nn.softplus(-positive) + below) / number.astype(positive.dtype)


def gbce_beta(negatives: int, items: int, calibration: float) -> float:
    """The power of the positive probability in gBCE.

    alpha = negatives / (items - 1); beta = alpha (t (1 - 1/alpha) + 1/alpha)   (Petrov & Macdonald 2023, eq. 9)

    Args:
        negatives: sampled for each target.
        items: in the catalogue that they are sampled from.
        calibration: t, from 0 (plain binary cross entropy: beta = 1) to 1 (beta = alpha: scores become calibrated).

    Raises:
        ValueError: a calibration outside [0, 1], or fewer than one negative or two items.
    """
    if not 0 <= calibration <= 1 or negatives < 1 or items < 2:
        found = f"negatives {negatives}, items {items}, calibration {calibration}"
        raise ValueError(f"gBCE needs a calibration from 0 to 1, negatives >= 1 and items >= 2, found {found}")
    alpha = min(1.0, negatives / (items - 1))
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
