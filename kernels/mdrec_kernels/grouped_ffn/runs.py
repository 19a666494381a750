"""Items laid out expert after expert: blocks of rows, or visits of tiles."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int

type Reader = Callable[[Int[Array, "E"]], Int[Array, "n"]]


def runs(numbers: Int[Array, "E"], most: int) -> tuple[Int[Array, "n"], Int[Array, "n"], Reader]:
    """Where each of `most` items belongs, expert e having `numbers[e]` of them.

    By comparing every item with every expert: a few thousand integers, where a search and a gather would be loops on a
    CPU and arrays of one padded column on a TPU.

    Returns:
        expert of each item, ascending; the last expert for items after all of theirs.
        number of each item among its expert's.
        reader: what an array of one value an expert has for each item.
    """
    after = jnp.cumsum(numbers)
    which, every = jnp.arange(most, dtype=jnp.int32), jnp.arange(numbers.size, dtype=jnp.int32)
    expert = jnp.sum(after[None] <= which[:, None], axis=1, dtype=jnp.int32)
    expert = jnp.minimum(expert, numbers.size - 1)
    own = expert[:, None] == every[None]

    def read(values: Int[Array, "E"]) -> Int[Array, "n"]:
        return jnp.sum(jnp.where(own, values[None], 0), axis=1)

    return expert, which - read(after - numbers), read
