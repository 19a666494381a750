"""The critic that infomax trains beside the model: is this in-domain state of the same user as that mixed one?"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from mdrec_jax.models.layers import Linear


class Critic(nnx.Module):
    """d W, such that a pair's score is <d W, m>, for in-domain states d and mixed states m.

    A bilinear critic (C2DSR, arXiv 2304.03891). Being linear, it scores means of states as well: the mean of d W. One W
    serves all domains, as one encoder does.
    """

    def __init__(self, key: jax.Array, dim: int) -> None:
        self.map = Linear(key, dim, dim, ("embed", "embed"), bias=False)

    def __call__(self, own: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
        return self.map(own)
