"""Packed attention in plain XLA: tiles of scores that stay in the cache, made again in the backward pass.

A row is cut into blocks of queries; each block meets the keys that causality and the window leave to it (`tiles`).
Several rows are worked on at once, as many as keep a tile of scores small, one group of rows after another. Between
forward and backward only the output and, for softmax, one number a query and head are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mdrec_kernels.packed_attention import bias, dropout
from mdrec_kernels.packed_attention.spec import MASKED, Places, Spec, Tile, Weights, tiles


@dataclass(frozen=True)
class Tiling:
    """How the score matrix is cut.

    Args:
        block: queries of a tile.
        tile_bytes: rows are grouped until a tile of their float32 scores has about this size.
    """

    block: int
    tile_bytes: int


CPU = Tiling(block=64, tile_bytes=512 << 10)
"""A tile of half a MiB and what is computed from it stay in a core's cache."""
ACCELERATOR = Tiling(block=128, tile_bytes=128 << 20)
"""Few, large operations."""


def _split(x: Array, groups: int) -> Array:
    """[R, ...] -> [groups, R / groups, ...], with rows of zeros added where the division leaves a rest."""
    size = -(-x.shape[0] // groups)
    rest = groups * size - x.shape[0]
    if rest:
        x = jnp.pad(x, ((0, rest), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(groups, size, *x.shape[1:])


def _by_groups(f: Callable, spec: Spec, tiling: Tiling, tables: tuple, by_row: tuple) -> tuple:
    """`f` on groups of rows; it returns (arrays by row, sums over its rows)."""
    rows, length, heads = by_row[0].q.shape[:3]
    block = min(tiling.block, length)
    width = max(tile.high - tile.low for tile in tiles(length, block, spec))
    size = max(1, tiling.tile_bytes // (4 * heads * block * width))
    groups = -(-rows // size)
    f = partial(f, spec, block, _band(tables[0], block, width), tables)
    if groups == 1:
        return f(by_row)
    out, sums = jax.lax.map(f, jax.tree.map(lambda x: _split(x, groups), by_row))
    out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], out)
    return out, jax.tree.map(lambda x: x.sum(0), sums)


def _heads_first(x: Float[Array, "R T H K"]) -> Float[Array, "R H T K"]:
    return x.swapaxes(1, 2)


def _band(table: Array | None, block: int, width: int) -> Float[Array, "h t s"] | None:
    """The position bias of a full tile: any tile is the lower right corner of it, since their distances agree there."""
    if table is None:
        return None
    distance = width - block + jnp.arange(block)[:, None] - jnp.arange(width)[None, :]
    return bias.position_tile(table, distance)


def _may_see(spec: Spec, places: Places, tile: Tile) -> Bool[Array, "R 1 t s"]:
    query, key = jnp.arange(tile.start, tile.end)[:, None], jnp.arange(tile.low, tile.high)[None, :]
    near = jnp.ones((tile.end - tile.start, tile.high - tile.low), bool)
    if spec.causal:
        near &= key <= query
    if spec.window is not None:
        near &= jnp.abs(query - key) < spec.window
    own = places.segment[:, tile.start : tile.end]
    own = jnp.where(own > 0, own, -1)  # padding meets no key, and so needs no test of its own for every pair
    return (near[None] & (own[:, :, None] == places.segment[:, None, tile.low : tile.high]))[:, None]


def _time_buckets(places: Places, table: Array, tile: Tile) -> Int[Array, "R t s"]:
    seconds = places.query_time[:, tile.start : tile.end, None] - places.key_time[:, None, tile.low : tile.high]
    return bias.time_bucket(seconds, table.shape[1])


def _scores(
    spec: Spec, q: Array, k: Array, band: Array | None, time_bias: Array | None, places: Places, tile: Tile
) -> Float[Array, "R H t s"]:
    """scale q k + bias of a tile (q is scaled already); `MASKED` where a query may not see a key."""
    dtype = np.promote_types(q.dtype, jnp.float32)
    own, seen = q[:, :, tile.start : tile.end], k[:, :, tile.low : tile.high]
    scores = jnp.einsum("rhtk,rhsk->rhts", own, seen, preferred_element_type=dtype)
    if band is not None:
        scores += band[None, :, tile.start - tile.end :, tile.low - tile.high :].astype(dtype)
    if time_bias is not None:
        scores += bias.time_tile(time_bias, _time_buckets(places, time_bias, tile)).astype(dtype)
    return jnp.where(_may_see(spec, places, tile), scores, MASKED)


def _drop(spec: Spec, places: Places, tile: Tile, weight: Float[Array, "R H t s"]) -> Float[Array, "R H t s"]:
    if places.seeds is None:
        return weight
    query, key = jnp.arange(tile.start, tile.end), jnp.arange(tile.low, tile.high)
    keep = dropout.keep_mask(places.seeds, weight.shape[1], query, key, spec.dropout_rate)
    return jnp.where(keep, weight * (1 / (1 - spec.dropout_rate)), 0)


def _forward_rows(spec: Spec, block: int, band: Array | None, tables: tuple, by_row: tuple) -> tuple:
    """The output of a group of rows [R, T, H, K], and log sum exp of its scores [R, H, T] (softmax)."""
    # Without the barrier XLA slices the group out of the whole batch again for every element that it computes.
    weights, places = jax.lax.optimization_barrier(by_row)
    time_bias = tables[1]
    q, k, v = _heads_first(weights.q) * spec.scale, _heads_first(weights.k), _heads_first(weights.v)
    dtype = np.promote_types(q.dtype, jnp.float32)
    outs, sums = [], []
    for tile in tiles(q.shape[2], block, spec):
        scores = _scores(spec, q, k, band, time_bias, places, tile)
        if spec.mode == "softmax":
            highest = jnp.maximum(scores.max(-1), MASKED / 2)
            weight = jnp.exp(scores - highest[..., None])
            total = weight.sum(-1)
            total = jnp.where(total > 0, total, 1)
            sums.append(jnp.where(total > 0, highest + jnp.log(total), 0))
            factor = (1 / total)[..., None]
        else:
            weight, factor = jax.nn.silu(scores), 1 / spec.normalizer
        weight = _drop(spec, places, tile, weight).astype(v.dtype)
        out = jnp.einsum("rhts,rhsk->rhtk", weight, v[:, :, tile.low : tile.high], preferred_element_type=dtype)
        outs.append((out * factor).astype(q.dtype))
    return (_heads_first(jnp.concatenate(outs, 2)), jnp.concatenate(sums, 2) if sums else None), ()


def _backward_rows(spec: Spec, block: int, band: Array | None, tables: tuple, by_row: tuple) -> tuple:
    """Gradients of a group of rows: (dq, dk, dv) [R, T, H, K], and of the bias tables, summed over the rows."""
    weights, places, out, log_sum, d_out = jax.lax.optimization_barrier(by_row)
    position_bias, time_bias = tables
    q, k, v = _heads_first(weights.q) * spec.scale, _heads_first(weights.k), _heads_first(weights.v)
    dtype = np.promote_types(q.dtype, jnp.float32)
    d_out = _heads_first(d_out)
    delta = (d_out.astype(dtype) * _heads_first(out).astype(dtype)).sum(-1)
    dq, dk, dv = [], jnp.zeros(k.shape, dtype), jnp.zeros(v.shape, dtype)
    d_band = None if band is None else jnp.zeros_like(band)
    d_time = None if time_bias is None else jnp.zeros_like(time_bias)
    for tile in tiles(q.shape[2], block, spec):
        own, seen = slice(tile.start, tile.end), slice(tile.low, tile.high)
        scores = _scores(spec, q, k, band, time_bias, places, tile)
        d_weight = jnp.einsum("rhtk,rhsk->rhts", d_out[:, :, own], v[:, :, seen], preferred_element_type=dtype)
        d_weight = _drop(spec, places, tile, d_weight)
        if spec.mode == "softmax":
            weight = jnp.exp(scores - log_sum[:, :, own, None])
            d_scores = weight * (d_weight - delta[:, :, own, None])
        else:
            gate = jax.nn.sigmoid(scores)
            weight = scores * gate * (1 / spec.normalizer)
            d_scores = gate * (1 + scores * (1 - gate)) * (1 / spec.normalizer) * d_weight
        weight, narrow = _drop(spec, places, tile, weight).astype(q.dtype), d_scores.astype(q.dtype)
        d_v = jnp.einsum("rhts,rhtk->rhsk", weight, d_out[:, :, own], preferred_element_type=dtype)
        d_k = jnp.einsum("rhts,rhtk->rhsk", narrow, q[:, :, own], preferred_element_type=dtype)
        dq.append(jnp.einsum("rhts,rhsk->rhtk", narrow, k[:, :, seen], preferred_element_type=dtype) * spec.scale)
        dk, dv = dk.at[:, :, seen].add(d_k), dv.at[:, :, seen].add(d_v)
        if band is not None:
            d_bias = d_scores.sum(0) if band.shape[0] > 1 else d_scores.sum((0, 1))[None]
            d_band = d_band.at[:, tile.start - tile.end :, tile.low - tile.high :].add(d_bias.astype(band.dtype))
        if time_bias is not None:
            d_bias = d_scores if time_bias.shape[0] > 1 else d_scores.sum(1, keepdims=True)
            bucket = _time_buckets(places, time_bias, tile)
            d_time += bias.time_gradient(d_bias.astype(time_bias.dtype), bucket, time_bias.shape[1])
    grads = (_heads_first(x.astype(q.dtype)) for x in (jnp.concatenate(dq, 2), dk, dv))
    d_position = None if band is None else bias.position_gradient(d_band, band.shape[2] - block, position_bias.shape[1])
    return tuple(grads), (d_position, d_time)


def _by_platform(f: Callable, spec: Spec, tiling: Tiling | None, tables: tuple, by_row: tuple) -> tuple:
    if tiling is not None:
        return _by_groups(f, spec, tiling, tables, by_row)
    forms = {"cpu": partial(_by_groups, f, spec, CPU), "default": partial(_by_groups, f, spec, ACCELERATOR)}
    return jax.lax.platform_dependent(tables, by_row, **forms)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def attend(spec: Spec, weights: Weights, places: Places, tiling: Tiling | None = None) -> Float[Array, "R T H K"]:
    """What `packed_attention` returns; `tiling` is for tests and tuning, by default the platform's."""
    return _attend_forward(spec, weights, places, tiling)[0]


def _attend_forward(spec: Spec, weights: Weights, places: Places, tiling: Tiling | None) -> tuple:
    tables = (weights.position_bias, weights.time_bias)
    (out, log_sum), _ = _by_platform(_forward_rows, spec, tiling, tables, (_rows_of(weights), places))
    return out, (weights, places, out, log_sum)


def _attend_backward(spec: Spec, tiling: Tiling | None, kept: tuple, d_out: Array) -> tuple:
    weights, places, out, log_sum = kept
    tables, by_row = (weights.position_bias, weights.time_bias), (_rows_of(weights), places, out, log_sum, d_out)
    (dq, dk, dv), (d_position, d_time) = _by_platform(_backward_rows, spec, tiling, tables, by_row)
    return Weights(dq, dk, dv, d_position, d_time), None


def _rows_of(weights: Weights) -> Weights:
    return replace(weights, position_bias=None, time_bias=None)


attend.defvjp(_attend_forward, _attend_backward)
