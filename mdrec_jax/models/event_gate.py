"""A gate against noise: each token keeps of its own event what its history bears out.

After the interest-aware attention of MACD (arXiv 2311.04760), which weighs a noisy log's events by the user's interest;
here the interest is what the block's own attention reads, so it costs one product a token and nothing is to be kept
when serving:

    h <- sigmoid(w [norm(h); attention(norm(h))] + 3) h + attention(norm(h))
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mdrec_jax.models.layers import Linear, at_least_float32

OPEN = 3.0
"""What the sigmoid of a gate starts at: nearly all of an event is kept."""


class EventGate(nnx.Module):
    """One gate a token, in float32."""

    def __init__(self, key: jax.Array, dim: int) -> None:
        self.keep = Linear(key, 2 * dim, 1, ("embed", "gate"), gain=0.1, bias_value=OPEN)

    def __call__(
        self, x: Float[Array, "R T D"], normed: Float[Array, "R T D"], read: Float[Array, "R T D"]
    ) -> Float[Array, "R T D"]:
        """What is kept of x.

        Args:
            normed: x after the norm.
            read: what attention adds to x.
        """
        logit = at_least_float32(self.keep(jnp.concatenate([normed, read], axis=-1)))
        return x * jax.nn.sigmoid(logit).astype(x.dtype)
