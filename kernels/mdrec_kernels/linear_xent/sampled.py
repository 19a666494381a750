"""What a sampled loss needs beside vectors and weights."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.linear_xent import formulas


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

    def losses(self, positive: Float[Array, " N"], negative: Float[Array, "N S"]) -> Float[Array, " N"]:
        """The tokens' losses from uncorrected scores."""
        keep = self._keep(negative.shape)
        if self.loss == "binary":
            return formulas.binary_loss(positive, negative, keep, self.beta)
        return formulas.softmax_loss(positive - self.positive_logq, negative - self.negative_logq[None, :], keep)

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
