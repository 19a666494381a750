"""Packed attention in plain XLA: tiles of scores that stay in the cache, made again in the backward pass.

Between forward and backward only the output and, for softmax, one number a query and head are kept. (The gradients of
keys and values are summed by scatter-add, which on a GPU is deterministic under `--xla_gpu_deterministic_ops=true`.)
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.packed_attention import bias, dropout
from mdrec_kernels.packed_attention.plan import Cut, Plan, Tiling, cut, for_each_group, plan
from mdrec_kernels.packed_attention.spec import MASKED, Places, Spec, Weights


def tiling(length: int, window: int | None) -> Tiling:
    """The platform's tiling.

    On a CPU a quarter of a MiB of scores, and what is computed from them, stay in a core's cache. Elsewhere: few, large
    operations.
    """
    if dispatch.platform() != "cpu":
        return Tiling(block=128, step=128, group_bytes=32 << 20)
    short = min(length, window or length) <= 96
    if short and length > 64:
        return Tiling(block=32, step=16, group_bytes=256 << 10)
    return Tiling(block=64, step=16 if short else 32, group_bytes=256 << 10)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Group:
    """What a group of G items reads: t queries and s keys each."""

    q: Float[Array, "G H t K"]
    k: Float[Array, "G H s K"]
    v: Float[Array, "G H s K"]
    visible: Bool[Array, "G 1 t s"]
    bucket: Int[Array, "G t s"] | None
    keep: Bool[Array, "G H t s"] | None
    key_steps: Int[Array, "G n"]
    """Where the keys come from, in steps of the whole batch; past its end for keys outside of the row."""


def _columns(n: int) -> Int[Array, "n"]:
    return jnp.arange(n, dtype=jnp.int32)


def _blocks(x: Array, size: int) -> Array:
    """[R, L, ...] -> [R L / size, size, ...]."""
    return x.reshape(-1, size, *x.shape[2:])


def _take(x: Array, rows: Int[Array, "..."]) -> Array:
    return x.at[rows].get(mode="promise_in_bounds")


def _heads_first(x: Float[Array, "G t H ..."]) -> Float[Array, "G H t ..."]:
    return x.swapaxes(1, 2)


def _read(
    spec: Spec, cut: Cut, plan: Plan, weights: Weights, places: Places, items: Array, live: Array, width: int
) -> Group:
    """Gather a group's queries, keys and values, and find out which of them meet."""
    blocks, steps = cut.length // cut.block, cut.length // cut.step
    row, block = items // blocks, items % blocks
    first_key = _take(plan.key_end, items) - width
    step = first_key[:, None] // cut.step + _columns(width // cut.step)[None]
    inside = (step >= 0) & (step < steps) & live[:, None]
    key_steps = jnp.where(inside, row[:, None] * steps + step, 0)

    def queries(x: Array) -> Array:
        return _take(_blocks(x, cut.block), items)

    def keys(x: Array) -> Array:
        x = _take(_blocks(x, cut.step), key_steps)
        return x.reshape(x.shape[0], width, *x.shape[3:])

    own = queries(places.segment)
    seen = jnp.where(jnp.repeat(inside, cut.step, axis=1), keys(places.segment), 0)
    read = queries(weights.q), keys(weights.k), keys(weights.v), jnp.where(own > 0, own, -1), seen
    # Without the barrier XLA reads from the whole batch again for every score that it computes.
    q, k, v, own, seen = jax.lax.optimization_barrier(read)
    query = (block * cut.block)[:, None] + _columns(cut.block)[None]
    key = first_key[:, None] + _columns(width)[None]
    bucket = keep = None
    if weights.time_bias is not None and places.query_time is not None and places.key_time is not None:
        since, until = jax.lax.optimization_barrier((keys(places.key_time), queries(places.query_time)))
        bucket = bias.time_bucket(until[:, :, None] - since[:, None, :], weights.time_bias.shape[1])
    if places.seeds is not None:
        keep = dropout.keep_mask(_take(places.seeds, row), q.shape[2], query, key, spec.dropout_rate)
    return Group(
        q=_heads_first(q),
        k=_heads_first(k),
        v=_heads_first(v),
        visible=_visible(spec, cut, own, seen, query, key),
        bucket=bucket,
        keep=keep,
        key_steps=jnp.where(inside, key_steps, cut.rows * steps),
    )


def _visible(spec: Spec, cut: Cut, own: Array, seen: Array, query: Array, key: Array) -> Bool[Array, "G 1 t s"]:
    """Same segment, near enough, not ahead. `own` is -1 for padding, which meets no key."""
    if spec.causal:  # the keys end where the block does: distances are the same in every item
        query, key = _columns(cut.block)[None] + key.shape[1] - cut.block, _columns(key.shape[1])[None]
    distance = query[:, :, None] - key[:, None, :]
    visible = own[:, :, None] == seen[:, None, :]
    if spec.causal:
        visible &= distance >= 0
    if spec.window is not None:
        visible &= jnp.abs(distance) < spec.window
    return visible[:, None]


def _scores(spec: Spec, group: Group, band: Array | None, time_bias: Array | None) -> Float[Array, "G H t s"]:
    """scale q k + bias; `MASKED` where a query may not see a key."""
    dtype = np.promote_types(group.q.dtype, np.float32)
    scores = spec.scale * jnp.einsum("ghtk,ghsk->ghts", group.q, group.k, preferred_element_type=dtype)
    if band is not None:
        scores += band[None, :, :, -scores.shape[3] :].astype(dtype)
    if time_bias is not None and group.bucket is not None:
        scores += bias.time_tile(time_bias, group.bucket).astype(dtype)
    return jnp.where(group.visible, scores, MASKED)


def _drop(spec: Spec, group: Group, weight: Float[Array, "G H t s"]) -> Float[Array, "G H t s"]:
    return weight if group.keep is None else jnp.where(group.keep, weight * (1 / (1 - spec.dropout_rate)), 0)


def _band(table: Array | None, cut: Cut) -> Float[Array, "h t s"] | None:
    """The position bias of the widest item; it is the last columns of it for any other."""
    if table is None:
        return None
    width = cut.widths[-1]
    distance = width - cut.block + _columns(cut.block)[:, None] - _columns(width)[None, :]
    return bias.position_tile(table, distance)


def _zeros(shape: tuple[int, ...], dtype: Any, places: Places) -> Array:
    """Zeros that, inside `jax.shard_map`, differ between devices where the rows do."""
    return jnp.full(shape, (0 * places.segment[0, 0]).astype(dtype))


def _put(x: Array, rows: Array, live: Array, value: Array) -> Array:
    return x.at[jnp.where(live, rows, x.shape[0])].set(value.astype(x.dtype), mode="drop")


def _forward(spec: Spec, tiling: Tiling, weights: Weights, places: Places) -> tuple[Array, Array | None]:
    """The output [R, T, H, K], and log sum exp of the scores [R, T, H] (softmax)."""
    shape = weights.q.shape
    sizes, weights, places = _cut(spec, tiling, weights, places)
    work, band = plan(places.segment, spec, sizes), _band(weights.position_bias, sizes)
    dtype = np.promote_types(weights.q.dtype, np.float32)

    def body(state: tuple, items: Array, live: Array, width: int) -> tuple:
        group = _read(spec, sizes, work, weights, places, items, live, width)
        scores, log_sum, factor = _scores(spec, group, band, weights.time_bias), None, 1 / spec.normalizer
        if spec.mode == "softmax":
            highest = jnp.maximum(scores.max(-1), MASKED / 2)
            weight = jnp.exp(scores - highest[..., None])
            total = weight.sum(-1)
            total = jnp.where(total > 0, total, 1)
            log_sum, factor = highest + jnp.log(total), (1 / total)[..., None]
        else:
            weight = jax.nn.silu(scores)
        weight = _drop(spec, group, weight).astype(group.v.dtype)
        out = jnp.einsum("ghts,ghsk->ghtk", weight, group.v, preferred_element_type=dtype) * factor
        logs = state[1] if log_sum is None else _put(state[1], items, live, log_sum.swapaxes(1, 2))
        return _put(state[0], items, live, _heads_first(out)), logs

    out = _zeros((sizes.items, sizes.block, *shape[2:]), weights.q.dtype, places)
    logs = _zeros(out.shape[:3], dtype, places) if spec.mode == "softmax" else None
    out, logs = for_each_group(work, sizes, body, (out, logs))
    return _uncut(out, shape), None if logs is None else _uncut(logs, shape[:3])


def _backward(
    spec: Spec, tiling: Tiling, weights: Weights, places: Places, out: Array, logs: Array | None, d_out: Array
) -> Weights:
    """The gradient of everything in `weights`."""
    shape, distances = weights.q.shape, 0 if weights.position_bias is None else weights.position_bias.shape[1]
    sizes, weights, places = _cut(spec, tiling, weights, places)
    kept = jax.tree.map(lambda x: _blocks(_pad(x, sizes), sizes.block), (out, d_out, logs))
    work, band = plan(places.segment, spec, sizes), _band(weights.position_bias, sizes)
    dtype = np.promote_types(weights.q.dtype, np.float32)

    def body(state: tuple, items: Array, live: Array, width: int) -> tuple:
        dq, dk, dv, d_band, d_time = state
        group = _read(spec, sizes, work, weights, places, items, live, width)
        read = jax.lax.optimization_barrier(jax.tree.map(lambda x: _take(x, items), kept))
        own_out, d_own, log_sum = jax.tree.map(_heads_first, read)
        scores = _scores(spec, group, band, weights.time_bias)
        d_weight = jnp.einsum("ghtk,ghsk->ghts", d_own, group.v, preferred_element_type=dtype)
        weight, d_scores = _slopes(spec, scores, log_sum, own_out, d_own, _drop(spec, group, d_weight))
        weight, narrow = _drop(spec, group, weight).astype(d_own.dtype), d_scores.astype(d_own.dtype)
        d_q = jnp.einsum("ghts,ghsk->ghtk", narrow, group.k, preferred_element_type=dtype) * spec.scale
        d_k = jnp.einsum("ghts,ghtk->ghsk", narrow, group.q, preferred_element_type=dtype) * spec.scale
        d_v = jnp.einsum("ghts,ghtk->ghsk", weight, d_own, preferred_element_type=dtype)
        dq = _put(dq, items, live, _heads_first(d_q))
        dk, dv = (_add(x, group.key_steps, _heads_first(y)) for x, y in ((dk, d_k), (dv, d_v)))
        if d_band is not None:
            d_band = d_band.at[:, :, -width:].add(_over_heads(d_scores, d_band).sum(0).astype(d_band.dtype))
        if d_time is not None and group.bucket is not None:
            tile = _over_heads(d_scores, d_time).astype(d_time.dtype)
            d_time += bias.time_gradient(tile, group.bucket, d_time.shape[1])
        return dq, dk, dv, d_band, d_time

    steps = (sizes.rows * sizes.length // sizes.step, sizes.step, *shape[2:])
    d_band, d_time = (None if x is None else _zeros(x.shape, x.dtype, places) for x in (band, weights.time_bias))
    dq, dk, dv = (_zeros(size, dtype, places) for size in (kept[0].shape, steps, steps))
    dq, dk, dv, d_band, d_time = for_each_group(work, sizes, body, (dq, dk, dv, d_band, d_time))
    far = sizes.widths[-1] - sizes.block
    d_position = None if d_band is None else bias.position_gradient(d_band, far, distances)
    dq, dk, dv = (_uncut(x, shape).astype(weights.q.dtype) for x in (dq, dk, dv))
    return Weights(dq, dk, dv, d_position, d_time)


def _slopes(
    spec: Spec, scores: Array, log_sum: Array | None, out: Array, d_out: Array, d_weight: Array
) -> tuple[Array, Array]:
    """The weights again, and the gradient of the scores from that of the weights."""
    if log_sum is not None:  # softmax
        weight = jnp.exp(scores - log_sum[..., None])
        # sum_s weight_s d_weight_s, which the output knows already
        return weight, weight * (d_weight - (out.astype(scores.dtype) * d_out.astype(scores.dtype)).sum(-1)[..., None])
    gate = jax.nn.sigmoid(scores)
    share = gate * (1 / spec.normalizer)
    return scores * share, share * (1 + scores * (1 - gate)) * d_weight


def _over_heads(tile: Float[Array, "G H t s"], table: Float[Array, "h *"]) -> Float[Array, "G h t s"]:
    return tile if table.shape[0] > 1 else tile.sum(1, keepdims=True)


def _add(x: Float[Array, "S step H K"], steps: Int[Array, "G n"], value: Float[Array, "G s H K"]) -> Array:
    return x.at[steps].add(value.reshape(*steps.shape, *x.shape[1:]), mode="drop")


def _pad(x: Array, cut: Cut) -> Array:
    missing = cut.length - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))) if missing else x


def _cut(spec: Spec, tiling: Tiling, weights: Weights, places: Places) -> tuple[Cut, Weights, Places]:
    """Rows filled up with padding to whole blocks."""
    rows, length, heads, _ = weights.q.shape
    sizes = cut(rows, length, heads, spec, tiling)
    q, k, v, segment = (_pad(x, sizes) for x in (weights.q, weights.k, weights.v, places.segment))
    query_time, key_time = (None if x is None else _pad(x, sizes) for x in (places.query_time, places.key_time))
    padded = Places(segment, query_time, key_time, places.seeds)
    return sizes, Weights(q, k, v, weights.position_bias, weights.time_bias), padded


def _uncut(x: Array, shape: tuple[int, ...]) -> Float[Array, "R T H K"]:
    return x.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(spec: Spec, tiling: Tiling, weights: Weights, places: Places) -> Float[Array, "R T H K"]:
    return _forward(spec, tiling, weights, places)[0]


def _attend_forward(spec: Spec, tiling: Tiling, weights: Weights, places: Places) -> tuple:
    out, logs = _forward(spec, tiling, weights, places)
    return out, (weights, places, out, logs)


def _attend_backward(spec: Spec, tiling: Tiling, kept: tuple, d_out: Array) -> tuple[Weights, None]:
    weights, places, out, logs = kept
    return _backward(spec, tiling, weights, places, out, logs, d_out), None


_attend.defvjp(_attend_forward, _attend_backward)


def attend(spec: Spec, weights: Weights, places: Places, cuts: Tiling | None) -> Float[Array, "R T H K"]:
    """What `packed_attention` returns; `cuts` is by default the platform's."""
    return _attend(spec, cuts or tiling(weights.q.shape[1], spec.window), weights, places)
