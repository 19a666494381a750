"""Whether a state can be kept: nothing in it is infinite or not a number, nor so large that its square is."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mdrec_jax.errors import NonFiniteError
from mdrec_jax.train.state import TrainState


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
