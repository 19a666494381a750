"""What one attention call computes (static), what it reads, and which tiles of the score matrix it can touch."""

from collections.abc import Iterator
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


@dataclass(frozen=True)
class Tile:
    """Queries [start, end) and every key [low, high) that one of them may see, whatever the segments are."""

    start: int
    end: int
    low: int
    high: int


def tiles(length: int, block: int, spec: Spec) -> Iterator[Tile]:
    """Cut a row into blocks of queries, each with the keys that causality and the window leave to it.

    Scores outside of these tiles are never computed: the work is length x (block + window), not length x length.
    """
    reach = length if spec.window is None else spec.window - 1
    for start in range(0, length, block):
        end = min(start + block, length)
        yield Tile(start, end, max(0, start - reach), end if spec.causal else min(length, end + reach))
