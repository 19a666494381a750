"""A router: which k of several modules a token's output is made of, and with which weights.

What keeps routers from sending everything to one module is an objective (`objectives/routers.py`) that reads `Routed`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.layers.context import Context, ContextRows
from mdrec_jax.models.layers.linear import Linear
from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.types import DatasetSpec

CHOSEN = 2
"""Modules that a token's output is made of."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routed:
    """Where tokens go. Of several layers and passes, each has an axis in front: [L, P, R, T, .]."""

    logits: Float[Array, "*L R T E"]
    """In float32 or wider."""
    chosen: Int32[Array, "*L R T k"]
    weight: Float[Array, "*L R T k"]
    """Softmax over the chosen: they sum to 1."""

    def dense(self) -> Float[Array, "*L R T E"]:
        """The weights by module; zeros for those that are not chosen."""
        hot = jax.nn.one_hot(self.chosen, self.logits.shape[-1], dtype=self.weight.dtype)
        return (hot * self.weight[..., None]).sum(-2)

    def entropy(self) -> Float[Array, "*L R T"]:
        """Of the softmax over all modules, as a share of the most that it can be."""
        log = jax.nn.log_softmax(self.logits, axis=-1)
        return -(jnp.exp(log) * log).sum(-1) / math.log(max(self.logits.shape[-1], 2))


class Router(nnx.Module):
    """logits = W [state; domain; context]: an event's state and facts of its own, nothing of other users.

    With each fact one-hot, its part of the product is a row of W.
    """

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, number: int) -> None:
        keys = jax.random.split(key)
        self.chosen = min(CHOSEN, number)
        self.state = Linear(keys[0], dim, number, ("embed", "expert"))
        self.context = ContextRows(keys[1], spec, number, "expert")

    def __call__(self, x: Float[Array, "R T D"], context: Context) -> Routed:
        logits = at_least_float32(self.state(x))
        logits = logits + self.context(context).astype(logits.dtype)
        best, chosen = jax.lax.top_k(logits, self.chosen)
        return Routed(logits, chosen, jax.nn.softmax(best, axis=-1))
