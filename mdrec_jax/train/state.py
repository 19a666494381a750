"""Everything that a step changes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool

from mdrec_jax.errors import NonFiniteError
from mdrec_jax.optim import optimiser
from mdrec_jax.optim.optimiser import OptimConfig, Slots
from mdrec_jax.parallel.mesh import replicated
from mdrec_jax.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    step: jax.Array
    """Optimiser steps done, int32 scalar: also the position in the stream of batches."""
    params: Params
    slots: Slots


def init_state(params: Params, facts: Params, optim: OptimConfig, mesh: Mesh) -> TrainState:
    """A new run's state, every leaf placed on `mesh`. `facts`: the model's."""
    state = TrainState(jnp.zeros((), jnp.int32), params, optimiser.init(optim, facts, params))
    # A copy: the step donates its argument, and the caller may still hold `params`.
    return jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))


def abstract(state: TrainState) -> TrainState:
    """Shapes, types and shardings of `state`: the target of a restore, with a sharding on every leaf."""

    def describe(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(describe, state)


def shapes(tree: Any) -> dict[str, Any]:
    """Name of each leaf -> [its type, its shape], as plain values for JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}


def not_finite(state: TrainState) -> str | None:
    """The name of the first array of `state` that cannot be kept; None when all can.

    Parameters are refused already where the sum of their squares leaves float32: scores are sums of products of them,
    and a parameter of 1e30 gives none. Slots of the optimiser hold squares themselves, so they have to be finite only.
    One compiled reduction on the devices; a flag an array comes back.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, _), good in zip(leaves, jax.device_get(_flags(state)), strict=True):
        if not good:
            return jax.tree_util.keystr(path)
    return None


def check_finite(state: TrainState, step: int) -> None:
    """Refuses a state that cannot be kept. Raises NonFiniteError, naming the array."""
    if (name := not_finite(state)) is not None:
        raise NonFiniteError(f"{name} is not finite, or its square is not, after step {step}")


@jax.jit
def _flags(state: TrainState) -> list[Bool[Array, ""]]:
    params = jax.tree.map(lambda leaf: jnp.isfinite(jnp.sum(jnp.square(leaf.astype(jnp.float32)))), state.params)
    rest = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), (state.step, state.slots))
    return jax.tree.leaves(TrainState(rest[0], params, rest[1]))
