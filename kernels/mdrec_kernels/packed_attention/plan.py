"""Which scores are computed at all: work items, as wide as their segments ask for, the widest first.

A row is cut into blocks of queries. Each block of each row is one work item. It needs the keys from the start of its
first token's segment (or the window's edge) to its own end: a number of columns that only the data know. Items are
sorted by it and taken in groups of equal width, so the work follows the segments: about (block + length of a segment)
scores a token, whatever the row's length, and nothing for blocks of padding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from mdrec_kernels.packed_attention.spec import Spec


@dataclass(frozen=True)
class Tiling:
    """How the score matrix is cut.

    Args:
        block: queries of an item (less where a row is shorter).
        step: keys come in whole steps; divides `block`.
        group_bytes: items are grouped until their float32 scores have about this size.
    """

    block: int
    step: int
    group_bytes: int


@dataclass(frozen=True)
class Cut:
    """The static side of a plan: sizes in columns. `length` is a multiple of `block`, `block` and widths of `step`."""

    rows: int
    length: int
    block: int
    step: int
    widths: tuple[int, ...]
    group_sizes: tuple[int, ...]

    @property
    def items(self) -> int:
        return self.rows * (self.length // self.block)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """The side that depends on the data."""

    order: Int[Array, "items"]
    """Items (row * blocks + block), those that need most keys first."""
    key_end: Int[Array, "items"]
    """The column, of an item's row, after the last key that it needs; a multiple of `step`."""
    needing: Int[Array, "widths"]
    """How many items need more keys than the next smaller width has."""


def cut(rows: int, length: int, heads: int, spec: Spec, tiling: Tiling) -> Cut:
    """Blocks, and the few widths that items are rounded up to; each is compiled apart, about two fifths wider."""
    block, step = min(tiling.block, -(-length // tiling.step) * tiling.step), tiling.step
    length = -(-length // block) * block
    reach = length if spec.window is None else spec.window - 1
    widest = min(length, block + -(-reach // step) * step * (1 if spec.causal else 2))
    widths = [min(widest, block + step)]
    while widths[-1] < widest:
        grown = max(widths[-1] + step, round(1.4 * widths[-1] / step) * step)
        widths.append(grown if 1.2 * grown < widest else widest)
    sizes = [min(rows * length // block, max(1, tiling.group_bytes // (4 * heads * block * w))) for w in widths]
    return Cut(rows, length, block, step, tuple(widths), tuple(sizes))


def reach(segment: Int[Array, "R L"], spec: Spec) -> tuple[Int[Array, "R L"], Int[Array, "R L"]]:
    """The first and the last column that each token may see; L and -1 for padding, which sees none."""
    length = segment.shape[1]
    column = jnp.arange(length, dtype=jnp.int32)[None]
    change = jnp.concatenate([jnp.ones_like(segment[:, :1], bool), segment[:, 1:] != segment[:, :-1]], axis=1)
    low = jax.lax.cummax(jnp.where(change, column, 0), axis=1)
    last = jnp.concatenate([change[:, 1:], jnp.ones_like(change[:, :1])], axis=1)
    high = column if spec.causal else jax.lax.cummin(jnp.where(last, column, length), axis=1, reverse=True)
    if spec.window is not None:
        low, high = jnp.maximum(low, column - spec.window + 1), jnp.minimum(high, column + spec.window - 1)
    return jnp.where(segment > 0, low, length), jnp.where(segment > 0, high, -1)


def plan(segment: Int[Array, "R L"], spec: Spec, cut: Cut) -> Plan:
    """Sort the items by the number of keys that they need."""
    low, high = reach(segment, spec)
    blocks = (cut.rows, cut.length // cut.block, cut.block)
    low, high = low.reshape(blocks).min(-1), high.reshape(blocks).max(-1)
    block_end = (jnp.arange(blocks[1], dtype=jnp.int32)[None] + 1) * cut.block
    key_end = jnp.maximum(block_end, (high // cut.step + 1) * cut.step)
    keys = jnp.where(high >= 0, key_end - low, 0).reshape(-1)
    below = jnp.asarray((0, *cut.widths[:-1]))
    needing = (keys[None, :] > below[:, None]).sum(1, dtype=jnp.int32)
    return Plan(jnp.argsort(-keys).astype(jnp.int32), key_end.reshape(-1), needing)


def for_each_group(plan: Plan, cut: Cut, body: Callable[[Any, Int[Array, "G"], Array, int], Any], state: Any) -> Any:
    """Fold `body(state, items, live, width)` over the groups of items; `live` is false where a group is not full.

    A group whose widest items do not fill it is filled with the next narrower ones.
    """
    done = jnp.int32(0)
    for width, size, needing in reversed(list(zip(cut.widths, cut.group_sizes, plan.needing, strict=True))):
        groups = (jnp.maximum(needing - done, 0) + size - 1) // size

        def step(i: Array, state: Any, done: Array = done, size: int = size, width: int = width) -> Any:
            place = done + i * size + jnp.arange(size, dtype=jnp.int32)
            items = plan.order[jnp.minimum(place, cut.items - 1)]
            return body(state, items, place < plan.needing[0], width)

        state = jax.lax.fori_loop(0, groups, step, state)
        done += groups * size
    return state


def executed(plan: Plan, cut: Cut) -> int:
    """How many scores a head computes for this plan: what to hold beside the pairs that segments have."""
    done, scores = 0, 0
    for width, size, needing in reversed(list(zip(cut.widths, cut.group_sizes, plan.needing.tolist(), strict=True))):
        groups = -(-max(needing - done, 0) // size)
        scores += groups * size * cut.block * width
        done += groups * size
    return scores
