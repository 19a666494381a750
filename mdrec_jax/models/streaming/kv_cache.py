"""What serving keeps of the events before: a ring of keys and values, and the user memory.

Each *sequence* is one by itself: the mixed view has one a user, the in-domain view one for each domain. Of each, a pass
of a layer keeps the keys and values of the last W events, and the user memory. So an event costs the same whatever came
before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from mdrec_jax.models.layers.attention import rotary_angles, rotate
from mdrec_jax.models.layers.norm import at_least_float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """What a pass of a layer keeps of U users in N sequences. h = H with a user memory, else 0.

    Event e of a sequence, counted from 0, stands at place e mod W of its ring.
    """

    key: Float[Array, "U N W H K"]
    """With rotary positions turned by the place in the ring, so that no angle grows with the history."""
    value: Float[Array, "U N W H K"]
    memory: Float[Array, "U N h K K"]
    """The user memory: values by key."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Arrivals:
    """Where B new events of each of U users go."""

    sequence: Int32[Array, "U B"]
    here: Bool[Array, "U B"]
    """False where there is no event."""
    before: Int32[Array, "U B"]
    """Events of the sequence before this one."""

    @classmethod
    def of(cls, sequence: Int32[Array, "U B"], here: Bool[Array, "U B"], counts: Int32[Array, "U N"]) -> "Arrivals":
        """
        Args:
            sequence: of each event.
            here: where there is an event.
            counts: events of each sequence before all of these.
        """
        one = (sequence[..., None] == jnp.arange(counts.shape[1], dtype=jnp.int32)[None, None, :]) & here[..., None]
        before = jnp.cumsum(one, axis=1, dtype=jnp.int32) - one + counts[:, None, :]
        return cls(sequence, here, jnp.take_along_axis(before, sequence[..., None], axis=2)[..., 0])

    @property
    def into(self) -> Int32[Array, "U B"]:
        """The sequence to write to; one that does not exist where there is no event, so that nothing is written."""
        return jnp.where(self.here, self.sequence, jnp.iinfo(jnp.int32).max)


def attend(
    cache: KVCache,
    at: Arrivals,
    q: Float[Array, "U B H K"],
    k: Float[Array, "U B H K"],
    v: Float[Array, "U B H K"],
    *,
    rotary: bool,
    reads: bool = True,
) -> tuple[KVCache, Float[Array, "U B H K"] | None]:
    """softmax(q K^T / sqrt(K)) V over the sequence's last W events, the new one among them.

    A key is turned by its place in the ring. Seen from the event at place p, keys at places up to p are of this round,
    and a query turned by p is as far from them as it should be; the others are of the round before, which the query,
    turned by p + W, sees rightly.
    """
    window, width = cache.key.shape[2], q.shape[-1]
    place = at.before % window
    queries = [q]
    if rotary:
        cos, sin = (part[0] for part in rotary_angles(jnp.arange(2 * window, dtype=jnp.int32)[None], width))
        queries = [rotate(q, (cos[turn], sin[turn])) for turn in (place, place + window)]
        k = rotate(k, (cos[place], sin[place]))
    user, ring = (jnp.arange(n, dtype=jnp.int32) for n in (q.shape[0], window))
    wide = at_least_float32(q[:1, :1]).dtype

    def one(kept: tuple[Array, Array], event: tuple) -> tuple[tuple[Array, Array], Array | None]:
        sequence, into, before, place, queries, k, v = event
        key, value = (x.at[user, into, place].set(new, mode="drop") for x, new in zip(kept, (k, v), strict=True))
        if not reads:
            return (key, value), None
        keys, values = key[user, sequence], value[user, sequence]
        scores = [jnp.einsum("uhk,uwhk->uhw", q, keys, preferred_element_type=wide) for q in queries]
        older = ring[None, :] > place[:, None]
        score = jnp.where(older[:, None, :], scores[-1], scores[0]) * width**-0.5
        there = ~older | (before >= window)[:, None]
        weight = jax.nn.softmax(jnp.where(there[:, None, :], score, -jnp.inf), axis=-1).astype(values.dtype)
        return (key, value), jnp.einsum("uhw,uwhk->uhk", weight, values, preferred_element_type=wide)

    events = at.sequence, at.into, at.before, place, queries, k, v
    (key, value), out = _one_by_one(one, (cache.key, cache.value), events)
    return replace(cache, key=key, value=value), None if out is None else out.astype(q.dtype)


def remember(
    cache: KVCache,
    at: Arrivals,
    q: Float[Array, "U B H K"],
    k: Float[Array, "U B H K"],
    value: Float[Array, "U B H K"],
    write: Float[Array, "U B H"],
    log_keep: Float[Array, "U B H"],
    *,
    reads: bool = True,
) -> tuple[KVCache, Float[Array, "U B H K"] | None]:
    """The gated delta rule of the user memory, event by event."""
    user = jnp.arange(q.shape[0], dtype=jnp.int32)

    def one(memory: Array, event: tuple) -> tuple[Array, Array | None]:
        sequence, into, q, k, value, write, log_keep = event
        faded = jnp.exp(log_keep)[..., None, None] * memory[user, sequence]
        wrong = write[..., None] * (value - jnp.einsum("uhk,uhkv->uhv", k, faded))
        new = faded + k[..., None] * wrong[..., None, :]
        return memory.at[user, into].set(new, mode="drop"), jnp.einsum("uhk,uhkv->uhv", q, new) if reads else None

    events = at.sequence, at.into, q, k, value, write, log_keep
    memory, out = _one_by_one(one, cache.memory, events)
    return replace(cache, memory=memory), out


def _one_by_one[Kept](
    one: Callable[[Kept, Any], tuple[Kept, Array | None]], kept: Kept, events: tuple
) -> tuple[Kept, Array | None]:
    """`one(kept, event)` for each event of a block in turn; the answers [U, B, ...]."""
    kept, out = jax.lax.scan(one, kept, jax.tree.map(lambda x: x.swapaxes(0, 1), events))
    return kept, None if out is None else out.swapaxes(0, 1)
