"""Serving event by event: each user's state is brought up to date by new events alone.

    state = initial_state(model, users)
    state = stream_update(model, params, state, events)
    scores, items = stream_recommend(model, params, state, domain, candidates, k)

The state is what encoding the whole history as a batch would have left behind, so the answers are those of `encode`
(with the window of attention that the model was trained with), and an event costs the same however long
the history is. All functions are pure, have the users as leading axis, and may be compiled with the model static.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Shaped
from mdrec_kernels.linear_xent import top_k

from mdrec_jax.models.api import Model
from mdrec_jax.models.block import Block
from mdrec_jax.models.items import INPUT
from mdrec_jax.models.layers.context import Context, bucket, context_of
from mdrec_jax.models.layers.loop import Halting
from mdrec_jax.models.recommender import Encoder
from mdrec_jax.models.sequence import Cached
from mdrec_jax.models.streaming.kv_cache import Arrivals, KVCache
from mdrec_jax.models.streaming.state import Layers, StreamState, initial_state, state_bytes, streamable
from mdrec_jax.types import AnyArray, Batch, DatasetSpec, Params, Rows

__all__ = [
    "Events",
    "StreamState",
    "initial_state",
    "state_bytes",
    "stream_queries",
    "stream_recommend",
    "stream_update",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Events:
    """The next B events of each of U users, oldest first."""

    item: Int32[AnyArray, "U B"]
    """0 = no event here (anywhere in the row); 1 = an item that the catalogue does not have."""
    domain: Int32[AnyArray, "U B"]
    event: Int32[AnyArray, "U B"]
    """The behaviour type."""
    time: Int32[AnyArray, "U B"]
    """Seconds since the data set's first event; 0 where the data set has no times."""


def stream_update(
    model: Model, params: Params, state: StreamState, events: Events, *, tolerance: float | None = None
) -> StreamState:
    """The state after more events.

    Args:
        params: of the model.
        events: a user may have none. How they are cut into blocks changes nothing, nor does what others do.
        tolerance: None = a looping model takes all of its passes. Else a token stops once this share of its weight or
            less is left, in [0, 1): the answers are approximate, and what the passes that it did not take keep of it
            is made from its state as it stopped.

    Raises:
        ConfigError: a model that cannot be streamed.
        ValueError: a tolerance out of range.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be in [0, 1), found {tolerance}")
    tied = streamable(model)
    encoder: Encoder = tied.module(params.dense, params.statistics)
    batch = _batch(events)
    domain, here = jnp.asarray(batch.domain), jnp.asarray(batch.item) > 0
    rows = {name: Rows(params.tables[name], ids) for name, ids in tied.row_ids(batch, {}).items()}
    item = tied.item_vectors(params.dense, rows, None, INPUT).astype(state.mixed.dtype)
    x = encoder.embedded(item, batch, None)
    nothing, time = jnp.zeros_like(domain), jnp.asarray(batch.time)
    at = Arrivals.of(nothing, here, state.events.sum(1, keepdims=True))
    context = _context(batch, encoder.spec, at, state.mixed_time)
    mixed, mixed_layers = _View(encoder, at, context, nothing).states(x, state.mixed_layers, tolerance)
    at = Arrivals.of(domain, here, state.events)
    own, own_layers, context = state.own, state.own_layers, _context(batch, encoder.spec, at, state.own_time)
    if encoder.fusion is not None:
        h, own_layers = _View(encoder, at, context, 1 + domain).states(x, own_layers, tolerance)
        own = _latest(h, at.sequence, here, own)
    return StreamState(
        events=_counted(state.events, at),
        mixed_layers=mixed_layers,
        own_layers=own_layers,
        mixed=_latest(mixed, nothing, here, state.mixed[:, None])[:, 0],
        domain=_latest(domain[..., None], nothing, here, state.domain[:, None, None])[:, 0, 0],
        own=own,
        mixed_time=_latest(time[..., None], nothing, here, state.mixed_time[..., None])[..., 0],
        own_time=_latest(time[..., None], domain, here, state.own_time[..., None])[..., 0],
    )


def stream_queries(model: Model, params: Params, state: StreamState, domain: Int32[Array, " U"]) -> Float[Array, "U D"]:
    """What each user's items of a domain are scored with, by inner products with `item_vectors`.

    It is the state that `encode` gives the user's last event with this `target_domain`. Of a user without events it
    means nothing.
    """
    encoder: Encoder = streamable(model).module(params.dense, params.statistics)
    own = None
    if encoder.fusion is not None:
        user = jnp.arange(domain.shape[0], dtype=jnp.int32)
        known = state.events[user, domain] > 0
        null = encoder.fusion.null.get_value().astype(state.own.dtype)
        own = jnp.where(known[:, None], state.own[user, domain], null[None])[:, None]
    return encoder.state(state.mixed[:, None], own, state.domain[:, None], domain[:, None])[:, 0]


def stream_recommend(
    model: Model,
    params: Params,
    state: StreamState,
    domain: Int32[Array, " U"],
    items: Int32[Array, " N"],
    k: int,
) -> tuple[Float[Array, "U k"], Int32[Array, "U k"]]:
    """The k best of some items for each user, best first.

    Args:
        domain: that each user is asked about.
        items: ids that may be recommended.
        k: at most N.

    Returns:
        Scores and item ids.
    """
    h = stream_queries(model, params, state, domain).astype(jnp.float32)
    rows = {name: Rows(table, {"items": items}) for name, table in params.tables.items()}
    scores, place = top_k(h, model.scored_items(model.item_vectors(params.dense, rows, None, "items")), k)
    return scores, items[place]


def _batch(events: Events) -> Batch:
    """The events as rows of a batch, of which only what an input is made of is filled in."""
    item = jnp.asarray(events.item)
    nothing = jnp.zeros_like(item)
    return Batch(
        item=item,
        domain=jnp.asarray(events.domain),
        event=jnp.asarray(events.event),
        time=jnp.asarray(events.time),
        segment=(item > 0).astype(jnp.int32),
        position=nothing,
        domain_position=nothing,
        target=nothing,
        target_domain=nothing,
        target_time=nothing,
        previous_in_target_domain=nothing - 1,
        weight=nothing.astype(jnp.float32),
        segment_user=nothing[:, :1],
    )


@dataclass(frozen=True)
class _View:
    """New events of one view: where they go, and what is known of them."""

    encoder: Encoder
    at: Arrivals
    context: Context
    path: Int32[Array, "U B"]

    def cached(self, cache: KVCache, runs: Array | None = None, *, reads: bool = True) -> Cached:
        """What a pass runs over, from what it kept; `runs`, `reads` as of `Cached`."""
        rotary = self.encoder.config.positions == "rotary"
        return Cached(cache, self.at, self.context, self.path, rotary, runs, reads)

    def states(
        self, x: Float[Array, "U B D"], layers: Layers, tolerance: float | None
    ) -> tuple[Float[Array, "U B D"], Layers]:
        """The view's states, and what its layers keep."""
        after = []
        for number, kept in enumerate(layers):
            block: Block = jax.tree.map(lambda p, number=number: p[number], self.encoder.blocks)
            if block.halting is None or tolerance is None:
                passes = tuple(self.cached(cache) for cache in kept)
                x, _ = block(x, passes, self.encoder.shared_bank, None)
                kept = tuple(one.cache for one in passes)
            else:
                x, kept = self._until(block, block.halting, x, kept, tolerance)
            after.append(kept)
        return x, tuple(after)

    def _until(
        self, block: Block, halting: Halting, x: Float[Array, "U B D"], kept: tuple[KVCache, ...], tolerance: float
    ) -> tuple[Array, tuple[KVCache, ...]]:
        """The loop ends where every token has stopped; the passes after it read nothing."""

        def change(x: Array, number: Array, runs: Array, kept: KVCache) -> tuple[Array, KVCache]:
            one = self.cached(jax.tree.map(lambda k: k[number], kept), runs)
            y, _ = block.once(x, one, self.encoder.shared_bank, None, number)
            return y - x, _put(kept, number, one.cache)

        together = jax.tree.map(lambda *passes: jnp.stack(passes), *kept)
        mixed, stopped, taken, together = halting.until(change, x, self.at.here, together, tolerance)

        def skip(number: Array, kept: KVCache) -> KVCache:
            one = self.cached(jax.tree.map(lambda k: k[number], kept), reads=False)
            assert block.attention is not None
            one.attend(block.attention, block.user_memory, block.attended(stopped, number), None)
            return _put(kept, number, one.cache)

        together = jax.lax.fori_loop(taken, len(kept), skip, together)
        return mixed, tuple(jax.tree.map(lambda k, n=n: k[n], together) for n in range(len(kept)))


def _put(kept: KVCache, number: Array, new: KVCache) -> KVCache:
    return jax.tree.map(lambda k, n: k.at[number].set(n), kept, new)


def _counted(counts: Int32[Array, "U G"], at: Arrivals) -> Int32[Array, "U G"]:
    user = jnp.arange(counts.shape[0], dtype=jnp.int32)[:, None]
    return counts.at[user, at.into].add(1, mode="drop")


def _context(batch: Batch, spec: DatasetSpec, at: Arrivals, last: Int32[Array, "U N"]) -> Context:
    """What is known about the new events; the gap is that to the event before in the sequence.

    Args:
        last: the time of each sequence's last event before all of these.
    """
    context = context_of(batch, spec)
    if "gap" in context:
        time, column = jnp.asarray(batch.time), jnp.arange(batch.item.shape[1], dtype=jnp.int32)
        same = (at.sequence[:, :, None] == at.sequence[:, None, :]) & at.here[:, None, :]
        earlier = same & (column[None, None, :] < column[None, :, None])
        previous = jnp.max(jnp.where(earlier, column[None, None, :], -1), axis=2)
        kept = jnp.take_along_axis(last, at.sequence, axis=1)
        before = jnp.where(previous >= 0, jnp.take_along_axis(time, jnp.maximum(previous, 0), axis=1), kept)
        context["gap"] = bucket(time - before, at.before == 0)
    return context


def _latest(
    h: Shaped[Array, "U B D"], sequence: Int32[Array, "U B"], here: Bool[Array, "U B"], before: Shaped[Array, "U N D"]
) -> Shaped[Array, "U N D"]:
    """What each sequence's last event left: one of the new ones, or the one before."""
    mine = (sequence[:, :, None] == jnp.arange(before.shape[1], dtype=jnp.int32)[None, None, :]) & here[:, :, None]
    column = jnp.arange(h.shape[1], dtype=jnp.int32)[None, :, None]
    last = jnp.max(jnp.where(mine, column, -1), axis=1)
    new = jnp.take_along_axis(h, jnp.maximum(last, 0)[..., None], axis=1)
    return jnp.where((last >= 0)[..., None], new, before)
