"""A block of columns: some chunks of some rows, and the recurrence from chunk to chunk."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """n chunks of C tokens of G rows."""

    q: Float[Array, "G n C K"]
    k: Float[Array, "G n C K"]
    value: Float[Array, "G n C V"]
    write: Float[Array, "G n C"]
    """0 at padding, as is `fade`."""
    fade: Float[Array, "G n C"]
    counts: Bool[Array, "G n C"]
    opens: Bool[Array, "G n"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gradients:
    """Of a block's inputs."""

    q: Float[Array, "G n C K"]
    k: Float[Array, "G n C K"]
    value: Float[Array, "G n C V"]
    write: Float[Array, "G n C"]
    fade: Float[Array, "G n C"]


def advance(
    step: Callable, opens: Bool[Array, "G n"], start: Float[Array, "G K V"], state: Float[Array, "G K V"], *chunks: Any
) -> tuple[Float[Array, "G K V"], Float[Array, "G n K V"]]:
    """The state after the block, and the one that each chunk starts with; step(state, *chunk) is a chunk's change."""

    def body(state: Array, at: tuple) -> tuple[Array, Array]:
        opens, *chunk = at
        state = jnp.where(opens[:, None, None], start, state)
        return step(state, *chunk), state

    state, states = jax.lax.scan(body, state, _chunks_first(opens, *chunks))
    return state, states.swapaxes(0, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StateGradients:
    """Of the state at a place between chunks, and of what segments start from as far as it is known there."""

    state: Float[Array, "G K V"]
    start: Float[Array, "G K V"]


def retreat(
    step: Callable, opens: Bool[Array, "G n"], after: StateGradients, *chunks: Any
) -> tuple[StateGradients, Float[Array, "G n K V"]]:
    """From after the block to before it, and the gradient of the state after each chunk.

    step(gradient of the state after a chunk, *chunk) is the gradient of the state that the chunk starts with.
    """

    def body(after: StateGradients, at: tuple) -> tuple[StateGradients, Array]:
        opens, *chunk = at
        before, opens = step(after.state, *chunk), opens[:, None, None]
        return StateGradients(jnp.where(opens, 0, before), after.start + jnp.where(opens, before, 0)), after.state

    before, each = jax.lax.scan(body, after, _chunks_first(opens, *chunks), reverse=True)
    return before, each.swapaxes(0, 1)


def _chunks_first(*chunks: Any) -> Any:
    return jax.tree.map(lambda x: x.swapaxes(0, 1), chunks)
