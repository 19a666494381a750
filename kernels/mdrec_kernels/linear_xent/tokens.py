"""The tokens that a loss is summed over: those with a weight first, in whole chunks."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.linear_xent.blocks import MASKED, pad_rows, token_columns
from mdrec_kernels.linear_xent.products import sums_in


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """M >= N tokens, M a multiple of the chunk. A token without weight is all zeros, whatever stood there before."""

    x: Float[Array, "M D"]
    columns: Float[Array, "M K"]
    """x and the groups' columns."""
    target: Int[Array, " M"]
    """V where another device has its row."""
    group: Int[Array, " M"] | None
    own: Float[Array, " M"]
    """Score of the target, or MASKED where it is not allowed."""
    weight: Float[Array, " M"]
    order: Int[Array, " N"]
    """Which of the caller's tokens each of the first N is."""
    live: Int[Array, ""]
    """How many of the first tokens hold all that have a weight."""

    def chunks(self, chunk: int) -> Int[Array, ""]:
        """How many chunks have to be looked at."""
        return (self.live + (chunk - 1)) // chunk

    def rows(self, w: Float[Array, "V D"]) -> Float[Array, "M D"]:
        """The targets' rows, in x's type; zeros where another device has them."""
        return w.at[self.target].get(mode="fill", fill_value=0).astype(self.x.dtype)

    def scored(self) -> tuple[Array, Array, Array, Array]:
        """What the pass over the scores reads."""
        return self.x, self.columns, self.own, self.weight

    def pick(self, value: Float[Array, " N"]) -> Float[Array, " M"]:
        """The caller's value of each token."""
        return pad_rows(value[self.order], self.weight.shape[0])


def gather_tokens(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    weight: Float[Array, " N"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " N"] | None,
    chunk: int,
    axis: str | None = None,
    *,
    compact: bool = True,
) -> Tokens:
    """The tokens in the order of the work, in whole chunks.

    Args:
        axis: the mesh axis over which the items are spread, of which w and `allowed` are this device's.
        compact: sort those without weight to the end, where no chunk is run.
    """
    number = x.shape[0]
    order = jnp.argsort(weight == 0, stable=True) if compact else jnp.arange(number)
    live = jnp.sum(weight != 0, dtype=jnp.int32) if compact else jnp.full_like(order, number, shape=())

    def take(value: Array) -> Array:
        return pad_rows(jnp.take(value, order, axis=0), -(-number // chunk) * chunk)

    weight = take(weight).astype(sums_in(x))
    real = weight != 0
    x = jnp.where(real[:, None], take(x), 0)
    target = jnp.where(real, take(target), 0)
    group = None if group is None else take(group)
    if axis is not None:
        target = _of_this_device(target, w.shape[0], axis)
    # A row that no device has: the loss is not a number.
    absent = jnp.nan if axis is None else 0
    rows = w.at[target].get(mode="fill", fill_value=absent).astype(x.dtype).astype(weight.dtype)
    own = jnp.sum(x.astype(weight.dtype) * rows, axis=1)
    if allowed is not None:
        may = allowed.at[0 if group is None else group, target].get(mode="fill", fill_value=True)
        own = jnp.where(may, own, MASKED)
    if axis is not None:
        own = lax.psum(own, axis)
    return Tokens(x, token_columns(x, allowed, group), target, group, own, weight, order, live)


def _of_this_device(target: Int[Array, " M"], items: int, axis: str) -> Int[Array, " M"]:
    """Row of the target on this device; `items` where it is on another."""
    place = target - (lax.axis_index(axis) * items).astype(target.dtype)
    return jnp.where((place >= 0) & (place < items), place, items)


def scatter_tokens(tokens: Tokens, value: Float[Array, "M *rest"]) -> Float[Array, "N *rest"]:
    """A value of the tokens in the caller's order."""
    number = tokens.order.shape[0]
    return (
        jnp.zeros_like(value, shape=(number, *value.shape[1:]))
        .at[tokens.order]
        .set(value[:number], unique_indices=True)
    )
