"""What the forms of `delta_memory_scan` are handed."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, DTypeLike, Float

PADDING, TOKEN, OPENING = 0, 1, 2
"""What stands in a column: nothing; a token; a token of the chunk that opens its segment."""


@dataclass(frozen=True)
class Spec:
    """The static side of a call."""

    chunk: int
    scale: float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inputs:
    """What gradients flow to. T is a multiple of the chunk."""

    q: Float[Array, "R T K"]
    k: Float[Array, "R T K"]
    value: Float[Array, "R T V"]
    write: Float[Array, "R T"]
    fade: Float[Array, "R T"]
    """The logarithm of what the whole memory keeps."""
    state: Float[Array, "R K V"]

    @property
    def dtype(self) -> np.dtype:
        """Of the state and of every sum."""
        return wide(self.q.dtype)


def wide(dtype: DTypeLike) -> np.dtype:
    """float32, or float64 for float64."""
    return np.promote_types(dtype, np.float32)
