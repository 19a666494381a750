"""Initial values: dense matrices, small embeddings, and the item table."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from mdrec_jax.types import FIRST_ITEM, table_length


def matrix(key: jax.Array, inputs: int, outputs: int, *, gain: float = 1.0) -> Float32[Array, "inputs outputs"]:
    """A normal matrix cut at two standard deviations, of variance gain^2 / inputs: it keeps its input's scale."""
    # A normal cut at two standard deviations has a standard deviation of 0.87962566.
    scale = gain / (0.87962566 * inputs**0.5)
    return scale * jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs), jnp.float32)


def embedding(key: jax.Array, length: int, dim: int, *, scale: float) -> Float32[Array, "length dim"]:
    """`length` normal vectors with standard deviation `scale`."""
    return scale * jax.random.normal(key, (length, dim), jnp.float32)


def item_table(key: jax.Array, num_items: int, dim: int, *, scale: float) -> Float32[Array, "V D"]:
    """The item table at its physical length, normal with standard deviation `scale`.

    The rows that no target and no negative ever names (padding, unknown, and those past `num_items`) are zero: an
    unknown input is then "an event happened" and nothing else.
    """
    length = table_length(num_items)
    ids = jnp.arange(length)[:, None]
    real = (ids >= FIRST_ITEM) & (ids < num_items)
    return jnp.where(real, embedding(key, length, dim, scale=scale), 0.0)
