"""One pass of one layer over new events: what it keeps of a user, and how an event reads and changes that.

A *lane* is a sequence of its own: the mixed view has one, the in-domain view has one for each domain. Of each lane a
pass keeps a ring of the last W keys and values, and the written memory as it stood when the open chunk began, with what
the open chunk will do to it. So an event costs the same whatever came before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from mdrec_jax.models.attention import rotary_angles, rotate
from mdrec_jax.models.layers import at_least_float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lanes:
    """What a pass of a layer keeps of U users in N lanes.

    M = 0 without a memory of slots, h = 0 without a delta memory, else H.
    Event e of a lane, counted from 0, stands at place e mod W of its ring.
    """

    key: Float[Array, "U N W H K"]
    """With rotary positions turned by the place in the ring, so that no angle grows with the history."""
    value: Float[Array, "U N W H K"]
    slots: Float[Array, "U N M D"]
    """The memory of slots as it was when the open chunk began."""
    keep: Float[Array, "U N M"]
    """The share of each slot that the open chunk's events leave."""
    added: Float[Array, "U N M D"]
    """What the open chunk's events write."""
    delta: Float[Array, "U N h K K"]
    """The delta memory: values by key."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Arrivals:
    """Where B new events of each of U users go."""

    lane: Int32[Array, "U B"]
    here: Bool[Array, "U B"]
    """False where there is no event."""
    before: Int32[Array, "U B"]
    """Events of the lane before this one."""

    @classmethod
    def of(cls, lane: Int32[Array, "U B"], here: Bool[Array, "U B"], counts: Int32[Array, "U N"]) -> "Arrivals":
        """
        Args:
            lane: of each event.
            here: where there is an event.
            counts: events of each lane before all of these.
        """
        one = (lane[..., None] == jnp.arange(counts.shape[1], dtype=jnp.int32)[None, None, :]) & here[..., None]
        before = jnp.cumsum(one, axis=1, dtype=jnp.int32) - one + counts[:, None, :]
        return cls(lane, here, jnp.take_along_axis(before, lane[..., None], axis=2)[..., 0])

    @property
    def into(self) -> Int32[Array, "U B"]:
        """The lane to write to; one that does not exist where there is no event, so that nothing is written."""
        return jnp.where(self.here, self.lane, jnp.iinfo(jnp.int32).max)


def attend(
    lanes: Lanes,
    at: Arrivals,
    q: Float[Array, "U B H K"],
    k: Float[Array, "U B H K"],
    v: Float[Array, "U B H K"],
    *,
    rotary: bool,
    reads: bool = True,
) -> tuple[Lanes, Float[Array, "U B H K"] | None]:
    """softmax(q K^T / sqrt(K)) V over the lane's last W events, the new one among them.

    A key is turned by its place in the ring. Seen from the event at place p, keys at places up to p are of this round,
    and a query turned by p is as far from them as it should be; the others are of the round before, which the query,
    turned by p + W, sees rightly.
    """
    window, width = lanes.key.shape[2], q.shape[-1]
    place = at.before % window
    queries = [q]
    if rotary:
        cos, sin = (part[0] for part in rotary_angles(jnp.arange(2 * window, dtype=jnp.int32)[None], width))
        queries = [rotate(q, (cos[turn], sin[turn])) for turn in (place, place + window)]
        k = rotate(k, (cos[place], sin[place]))
    user, ring = (jnp.arange(n, dtype=jnp.int32) for n in (q.shape[0], window))
    wide = at_least_float32(q[:1, :1]).dtype

    def one(kept: tuple[Array, Array], event: tuple) -> tuple[tuple[Array, Array], Array | None]:
        lane, into, before, place, queries, k, v = event
        key, value = (x.at[user, into, place].set(new, mode="drop") for x, new in zip(kept, (k, v), strict=True))
        if not reads:
            return (key, value), None
        keys, values = key[user, lane], value[user, lane]
        scores = [jnp.einsum("uhk,uwhk->uhw", q, keys, preferred_element_type=wide) for q in queries]
        older = ring[None, :] > place[:, None]
        score = jnp.where(older[:, None, :], scores[-1], scores[0]) * width**-0.5
        there = ~older | (before >= window)[:, None]
        weight = jax.nn.softmax(jnp.where(there[:, None, :], score, -jnp.inf), axis=-1).astype(values.dtype)
        return (key, value), jnp.einsum("uhw,uwhk->uhk", weight, values, preferred_element_type=wide)

    events = at.lane, at.into, at.before, place, queries, k, v
    (key, value), out = _one_by_one(one, (lanes.key, lanes.value), events)
    return replace(lanes, key=key, value=value), None if out is None else out.astype(q.dtype)


def erase_and_add(
    lanes: Lanes,
    at: Arrivals,
    read: Float[Array, "U B M"],
    w: Float[Array, "U B M"],
    value: Float[Array, "U B D"],
    write: Float[Array, "U B"],
    erase: Float[Array, "U B"],
    *,
    chunk: int,
    reads: bool = True,
) -> tuple[Lanes, Float[Array, "U B D"] | None]:
    """The erase mode of `mdrec_kernels.slot_memory_scan`, event by event: writes are committed when a chunk is full.

    Args:
        read, w: softmax of the query's and of the key's scores with the slots' addresses.
    """
    user = jnp.arange(read.shape[0], dtype=jnp.int32)

    def one(kept: tuple[Array, ...], event: tuple) -> tuple[tuple[Array, ...], Array | None]:
        lane, into, fills, read, w, value, write, erase = event
        slots, keep, added = (x[user, lane] for x in kept)
        out = jnp.einsum("um,umd->ud", read, slots) if reads else None
        w = write[:, None] * w
        keep, added = keep * (1 - w * erase[:, None]), added + w[:, :, None] * value[:, None, :]
        slots = jnp.where(fills[:, None, None], slots * keep[:, :, None] + added, slots)
        keep, added = jnp.where(fills[:, None], 1, keep), jnp.where(fills[:, None, None], 0, added)
        changed = zip(kept, (slots, keep, added), strict=True)
        return tuple(x.at[user, into].set(new, mode="drop") for x, new in changed), out

    fills = (at.before + 1) % chunk == 0
    events = at.lane, at.into, fills, read, w, value, write, erase
    (slots, keep, added), out = _one_by_one(one, (lanes.slots, lanes.keep, lanes.added), events)
    return replace(lanes, slots=slots, keep=keep, added=added), out


def follow_delta(
    lanes: Lanes,
    at: Arrivals,
    q: Float[Array, "U B H K"],
    k: Float[Array, "U B H K"],
    value: Float[Array, "U B H K"],
    write: Float[Array, "U B H"],
    log_keep: Float[Array, "U B H"],
    *,
    reads: bool = True,
) -> tuple[Lanes, Float[Array, "U B H K"] | None]:
    """The delta mode of `mdrec_kernels.slot_memory_scan`, event by event."""
    user = jnp.arange(q.shape[0], dtype=jnp.int32)

    def one(delta: Array, event: tuple) -> tuple[Array, Array | None]:
        lane, into, q, k, value, write, log_keep = event
        faded = jnp.exp(log_keep)[..., None, None] * delta[user, lane]
        wrong = write[..., None] * (value - jnp.einsum("uhk,uhkv->uhv", k, faded))
        new = faded + k[..., None] * wrong[..., None, :]
        return delta.at[user, into].set(new, mode="drop"), jnp.einsum("uhk,uhkv->uhv", q, new) if reads else None

    events = at.lane, at.into, q, k, value, write, log_keep
    delta, out = _one_by_one(one, lanes.delta, events)
    return replace(lanes, delta=delta), out


def _one_by_one[Kept](
    one: Callable[[Kept, Any], tuple[Kept, Array | None]], kept: Kept, events: tuple
) -> tuple[Kept, Array | None]:
    """`one(kept, event)` for each event of a block in turn; the answers [U, B, ...]."""
    kept, out = jax.lax.scan(one, kept, jax.tree.map(lambda x: x.swapaxes(0, 1), events))
    return kept, None if out is None else out.swapaxes(0, 1)
