"""What one attention call computes (static), and what it reads."""

from dataclasses import dataclass
from typing import Literal

import jax
from jaxtyping import Array, Float, Int, UInt32

type Mode = Literal["softmax", "silu"]

MASKED = -1e30
"""Score of a pair that may not see each other: exp of it is 0 beside any score a model makes, and it is no NaN."""


@dataclass(frozen=True)
class Spec:
    """The static side of a call."""

    mode: Mode
    causal: bool
    window: int | None
    scale: float
    normalizer: float
    """N of the silu mode; 1 in softmax mode."""
    dropout_rate: float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """What gradients flow to."""

    q: Float[Array, "R T H K"]
    k: Float[Array, "R T H K"]
    v: Float[Array, "R T H K"]
    position_bias: Float[Array, "h P"] | None
    time_bias: Float[Array, "h B"] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Where every token stands: in which segment, at what time; and the seeds of the rows' dropout."""

    segment: Int[Array, "R T"]
    query_time: Int[Array, "R T"] | None
    key_time: Int[Array, "R T"] | None
    seeds: UInt32[Array, "R 2"] | None
