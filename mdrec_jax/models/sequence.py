"""What a block runs over: the tokens of a packed batch, or new events beside what is kept of those before.

A block asks both for the same: to attend, and what is known of the tokens. So serving event by event is the same code
as training.
"""

from dataclasses import dataclass, field
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from mdrec_jax.models.layers.attention import Attention, Rotation
from mdrec_jax.models.layers.context import Context
from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.models.layers.user_memory import UserMemory
from mdrec_jax.models.streaming import kv_cache
from mdrec_jax.models.streaming.kv_cache import Arrivals, KVCache


class Sequence(Protocol):
    """The tokens that a pass of a layer runs over."""

    @property
    def segment(self) -> Int32[Array, "R T"]:
        """1, 2, ... within the row; 0 where there is no token."""
        ...

    @property
    def path(self) -> Int32[Array, "R T"]:
        """Which low-rank path a token takes: 0 in the mixed view, 1 + its domain in the in-domain view."""
        ...

    @property
    def context(self) -> Context: ...

    def attend(
        self,
        attention: Attention,
        memory: UserMemory | None,
        x: Float[Array, "R T D"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        """What attention sees within its window, and the memory behind it."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """A batch, or one view of it."""

    segment: Int32[Array, "R T"]
    rotation: Rotation | None
    path: Int32[Array, "R T"]
    context: Context
    segments: int = field(metadata={"static": True})
    """The most segments that a row has."""

    def attend(
        self,
        attention: Attention,
        memory: UserMemory | None,
        x: Float[Array, "R T D"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        heads = attention.heads_of(x)
        mixed = attention.mixed(*heads, self.segment, self.rotation, seeds)
        if memory is not None:
            mixed = mixed + memory(x, *heads, self.segment, self.segments)
        return attention.out(mixed.reshape(x.shape))


@dataclass
class Cached:
    """New events for one pass of one layer; `cache` is what the pass keeps, before `attend` and after it.

    Args:
        cache: what it kept before.
        arrivals: where the events go.
        context, path: as of `Packed`.
        rotary: whether queries and keys are turned by their positions.
        runs: the tokens that take the pass; None = all. For any other the pass keeps what the token's state, unchanged
            by attention, gives.
        reads: False where no token takes the pass: nothing is read, and the answers are zeros.
    """

    cache: KVCache
    arrivals: Arrivals
    context: Context
    path: Int32[Array, "U B"]
    rotary: bool
    runs: Bool[Array, "U B"] | None = None
    reads: bool = True

    @property
    def segment(self) -> Int32[Array, "U B"]:
        return self.arrivals.here.astype(jnp.int32)

    def attend(
        self,
        attention: Attention,
        memory: UserMemory | None,
        x: Float[Array, "U B D"],
        seeds: UInt32[Array, "U 2"] | None,
    ) -> Float[Array, "U B D"]:
        """There is no dropout: `seeds` has to be None."""
        assert seeds is None
        q, k, v = attention.heads_of(x)
        self.cache, mixed = kv_cache.attend(self.cache, self.arrivals, q, k, v, rotary=self.rotary, reads=self.reads)
        if memory is not None:
            parts = (at_least_float32(part) for part in memory.tokens(x, q, k, v))
            self.cache, read = kv_cache.remember(self.cache, self.arrivals, *parts, reads=self.reads)
            mixed = mixed if mixed is None or read is None else mixed + memory.gated(x, read.astype(x.dtype))
        if mixed is None:
            return jnp.zeros_like(x)
        y = attention.out(mixed.reshape(x.shape))
        return y if self.runs is None else jnp.where(self.runs[..., None], y, jnp.zeros((), y.dtype))
