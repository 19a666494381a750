"""Sorting tokens by expert, and back.

A token may go to several experts: its copies are rows of the sorted array. Both ways are a gather, and so are their
gradients, because the order is known in both directions: nothing is scattered, and results are the same every time.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Order:
    """Where the k copies of each token stand among the rows that are sorted by expert."""

    place: Int[Array, "T k"]
    source: Int[Array, "Tk"]
    """Of each row, the copy that stands there: token * k + choice."""
    counts: Int[Array, "E"]
    """Rows of each expert; copies without one stand after them."""


def sort_by_expert(expert: Int[Array, "T k"], experts: int) -> Order:
    """The stable order of the copies by expert.

    Args:
        expert: the k experts of each token, 0 .. experts - 1; any other number is no expert (a token that is padding,
            say), and what `combine` adds for it is 0.
        experts: number of experts.
    """
    flat = jnp.ravel(expert).astype(jnp.int32)
    key = jnp.where((flat >= 0) & (flat < experts), flat, experts)
    copies = jnp.arange(flat.size, dtype=jnp.int32)
    _, source = jax.lax.sort((key, copies), num_keys=1, is_stable=True)
    place = jnp.zeros_like(copies).at[source].set(copies, unique_indices=True)
    counts = jnp.sum(key[:, None] == jnp.arange(experts, dtype=jnp.int32)[None], axis=0, dtype=jnp.int32)
    return Order(place.reshape(expert.shape), source, counts)


@jax.custom_vjp
def take(x: Float[Array, "T d"], order: Order) -> Float[Array, "Tk d"]:
    """The tokens' copies, sorted by expert."""
    return x[order.source // order.place.shape[1]]


def _take_forward(x: Array, order: Order) -> tuple[Array, Order]:
    return take(x, order), order


def _take_backward(order: Order, cotangent: Float[Array, "Tk d"]) -> tuple[Array, None]:
    sums = np.promote_types(cotangent.dtype, jnp.float32)
    return jnp.sum(cotangent[order.place], axis=1, dtype=sums).astype(cotangent.dtype), None


take.defvjp(_take_forward, _take_backward)


@jax.custom_vjp
def combine(y: Float[Array, "Tk d"], order: Order, weight: Float[Array, "T k"]) -> Float[Array, "T d"]:
    """Each token's weighted sum of the rows that its copies became."""
    sums = np.promote_types(y.dtype, jnp.float32)
    return jnp.einsum("tkd,tk->td", y[order.place], weight, preferred_element_type=sums).astype(y.dtype)


def _combine_forward(y: Array, order: Order, weight: Array) -> tuple[Array, tuple]:
    return combine(y, order, weight), (y, order, weight)


def _combine_backward(saved: tuple, cotangent: Float[Array, "T d"]) -> tuple[Array, None, Array]:
    y, order, weight = saved
    sums = np.promote_types(y.dtype, jnp.float32)
    own = weight.ravel()[order.source].astype(sums)[:, None]
    dy = own * cotangent[order.source // weight.shape[1]].astype(sums)
    dweight = jnp.einsum("tkd,td->tk", y[order.place], cotangent, preferred_element_type=sums)
    return dy.astype(y.dtype), None, dweight.astype(weight.dtype)


combine.defvjp(_combine_forward, _combine_backward)
