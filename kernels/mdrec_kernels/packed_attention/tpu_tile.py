"""One tile of scores inside a kernel, keys down and queries across: products, mask, biases, dropout."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.packed_attention import bias, dropout
from mdrec_kernels.packed_attention.spec import MASKED, Spec

DOWN, ACROSS = 0, 1


@dataclass(frozen=True)
class Inputs:
    """References to what both passes read; None for what the call does not have."""

    first: Any
    last: Any
    seeds: Any | None
    lines: Any
    diagonals: Any | None
    table: Any | None
    q: Any
    k: Any
    v: Any


@dataclass(frozen=True)
class Place:
    """A tile: row of the step and of the batch, block of queries, block of keys, and the first head of the step."""

    row: Array
    batch_row: Array
    query: Array
    key: Array
    head: Array


def product(a: Array, b: Array, over: tuple[int, int]) -> Array:
    """a and b summed over axis over[0] of a and over[1] of b; a float32 or wider."""
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())), preferred_element_type=dtype)


def visible(inputs: Inputs, at: Place, tile: int) -> Bool[Array, "s t"]:
    """Which keys each query may see: those between its first and its last column."""
    column = at.key * tile + lax.broadcasted_iota(jnp.int32, (tile, tile), DOWN)
    low, high = (inputs.lines[at.row, at.query, n : n + 1, :] for n in (0, 1))
    return (column >= low) & (column <= high)


def buckets(inputs: Inputs, at: Place, tile: int, number: int) -> Int[Array, "s t"]:
    """The bucket of the time between each query and key."""
    since = jnp.broadcast_to(inputs.lines[at.row, at.key, 3:4, :], (tile, tile)).T
    return bias.time_bucket(inputs.lines[at.row, at.query, 2:3, :] - since, number)


def by_bucket(table: Float[Array, "1 lanes"], bucket: Int[Array, "s t"]) -> Float[Array, "s t"]:
    """table[bucket]."""
    rows = jnp.broadcast_to(table, (bucket.shape[0], table.shape[1]))
    return jnp.take_along_axis(rows, bucket, axis=1, mode="promise_in_bounds")


def by_diagonal(diagonal: Float[Array, "1 u"]) -> Float[Array, "t t"]:
    """The tile whose entry (s, t) is entry t - s + tile of the diagonals."""
    tile = diagonal.shape[1] // 2
    rows = jnp.broadcast_to(diagonal, (tile, 2 * tile))
    return pltpu.roll(rows, tile, ACROSS, stride=1, stride_axis=DOWN)[:, :tile]


def diagonal_sums(x: Float[Array, "t t"]) -> Float[Array, "1 u"]:
    """The transpose of `by_diagonal`."""
    tile = x.shape[0]
    rows = jnp.concatenate([x, jnp.zeros_like(x)], axis=ACROSS)
    # Row s is to move by tile - s lanes. The lower half of the rows moves by half their number more than the upper one.
    while rows.shape[0] > 1:
        half = rows.shape[0] // 2
        rows = rows[:half] + pltpu.roll(rows[half:], 2 * tile - half, ACROSS)
    return pltpu.roll(rows, tile, ACROSS)


def scores(
    spec: Spec, inputs: Inputs, at: Place, head: int, q: Array, k: Array, seen: Array, bucket: Array | None
) -> Float[Array, "s t"]:
    """scale k q + bias; `MASKED` where a query may not see a key."""
    found = spec.scale * product(k, q, (1, 1))
    if inputs.diagonals is not None:
        found += by_diagonal(inputs.diagonals[_shared(inputs.diagonals, head), at.query - at.key]).astype(found.dtype)
    if inputs.table is not None and bucket is not None:
        found += by_bucket(inputs.table[_shared(inputs.table, head)], bucket).astype(found.dtype)
    return jnp.where(seen, found, MASKED)


def _shared(table: Any, head: int) -> int:
    """The entry of a table that has one for every head of the step, or one for all."""
    return head if table.shape[0] > 1 else 0


def drop(spec: Spec, inputs: Inputs, at: Place, head: int, weight: Float[Array, "s t"]) -> Float[Array, "s t"]:
    """The weights that dropout leaves, scaled up."""
    if inputs.seeds is None:
        return weight
    tile = weight.shape[0]
    key = at.key * tile + lax.broadcasted_iota(jnp.int32, (tile, 1), DOWN)
    query = at.query * tile + lax.broadcasted_iota(jnp.int32, (1, tile), ACROSS)
    seeds = tuple(inputs.seeds[2 * at.batch_row + n].astype(jnp.uint32) for n in (0, 1))
    keep = dropout.keep(seeds, (at.head + head).astype(jnp.uint32), query, key, spec.dropout_rate)
    return jnp.where(keep, weight * (1 / (1 - spec.dropout_rate)), 0)


def silu(x: Array) -> Array:
    return x * jax.nn.sigmoid(x)
