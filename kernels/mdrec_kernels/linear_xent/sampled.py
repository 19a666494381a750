"""What a sampled loss needs beside vectors and weights, and the losses of one token by its scores."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """The formula, the corrections of the scores, and which negatives count for which token.

    `positive_*`, `group` and `beta` are of the tokens [N], `negative_*` of the negatives [S].
    """

    loss: Literal["softmax", "binary"] = field(metadata={"static": True})
    positive_logq: Float[Array, " N"]
    negative_logq: Float[Array, " S"]
    beta: Float[Array, " N"]
    positive_id: Int[Array, " N"] | None
    negative_id: Int[Array, " S"] | None
    group: Int[Array, " N"] | None
    negative_group: Int[Array, " S"] | None

    @classmethod
    def of(
        cls,
        loss: Literal["softmax", "binary"],
        x: Array,
        negatives: Array,
        pairs: tuple[Array | None, Array | None, Array | None, Array | None],
        positive_logq: Array | None,
        negative_logq: Array | None,
        beta: float | Array | None,
    ) -> "Sampled":
        """`Sampled` with its defaults filled in and its pairs checked."""
        positive_id, negative_id, group, negative_group = pairs
        if (positive_id is None) != (negative_id is None) or (group is None) != (negative_group is None):
            raise ValueError("positive_id and negative_id, and group and negative_group, are given together")
        sums = jnp.promote_types(x.dtype, jnp.float32)
        tokens, drawn = jnp.zeros(x.shape[0], sums), jnp.zeros(negatives.shape[0], sums)
        return cls(
            loss=loss,
            positive_logq=tokens if positive_logq is None else positive_logq.astype(sums),
            negative_logq=drawn if negative_logq is None else negative_logq.astype(sums),
            beta=tokens if beta is None else jnp.broadcast_to(jnp.asarray(beta, sums), tokens.shape),
            positive_id=positive_id,
            negative_id=negative_id,
            group=group,
            negative_group=negative_group,
        )

    def losses(self, positive: Float[Array, " N"], negative: Float[Array, "N S"]) -> Float[Array, " N"]:
        """The tokens' losses from uncorrected scores."""
        keep = self._keep(negative.shape)
        if self.loss == "binary":
            return binary_loss(positive, negative, keep, self.beta)
        return softmax_loss(positive - self.positive_logq, negative - self.negative_logq[None, :], keep)

    def _keep(self, shape: tuple[int, ...]) -> Bool[Array, "N S"]:
        keep = jnp.ones(shape, bool)
        if self.positive_id is not None and self.negative_id is not None:
            keep &= self.positive_id[:, None] != self.negative_id[None, :]
        if self.group is not None and self.negative_group is not None:
            keep &= self.group[:, None] == self.negative_group[None, :]
        return keep

    def tokens(self) -> dict[str, Array]:
        """The fields that have a value a token."""
        names = ("positive_logq", "beta", "positive_id", "group")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


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
