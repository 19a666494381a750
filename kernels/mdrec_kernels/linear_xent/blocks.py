"""Cutting the work into blocks: how many tokens against how many items at a time."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import dispatch

MASKED = -1e30
"""The score of what may not be chosen: finite, so that 0 * MASKED is 0; its exponential is exactly 0."""


@dataclass(frozen=True)
class Blocks:
    """The largest block of scores that exists at once is `tokens` x `items`.

    Where `items` covers the catalogue, a token's scores are all there at once and nothing is computed twice. Where it
    does not, the losses need a second pass over the catalogue for the gradient.
    """

    tokens: int
    items: int

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.items < 1:
            raise ValueError(f"blocks need at least one token and one item, found {self}")


@dataclass(frozen=True)
class _Room:
    """How large a block of scores should be on a platform: numbers that were measured on a CPU, guessed elsewhere."""

    preferred_bytes: int
    """A block of whole rows takes this much if it then has `usual_tokens`: on a CPU, it is to stay in the cache ..."""
    largest_bytes: int
    """... up to this much for `fewest_tokens`: one pass through memory is cheaper than computing the scores again."""
    fewest_tokens: int
    usual_tokens: int
    most_tokens: int
    two_passes: Blocks
    """For catalogues whose rows are longer than that."""


_CPU = _Room(16 * 2**20, 128 * 2**20, 128, 256, 1024, Blocks(512, 8192))
_ACCELERATOR = _Room(512 * 2**20, 512 * 2**20, 1024, 1024, 8192, Blocks(4096, 32768))


def choose_blocks(tokens: int, items: int) -> Blocks:
    """Blocks for N tokens and V items on the platform that runs."""
    room = _CPU if dispatch.platform() == "cpu" else _ACCELERATOR
    row = 4 * items
    if row * room.fewest_tokens > room.largest_bytes:
        return Blocks(_even(tokens, room.two_passes.tokens), room.two_passes.items)
    rows = min(max(room.preferred_bytes // row, room.usual_tokens), room.largest_bytes // row, room.most_tokens)
    return Blocks(_even(tokens, rows), items)


def _even(tokens: int, most: int) -> int:
    """Tokens of a chunk: about `most`, so that the last one is nearly full; a multiple of 16 if there are several."""
    fewest = -(-tokens // most)
    if fewest <= 1:
        return max(1, tokens)
    sizes = ((-(-tokens // (16 * chunks)) * 16, chunks) for chunks in range(fewest, fewest + 4))
    return min(sizes, key=lambda size: (size[0] * size[1], size[1]))[0]


def pad_rows(value: Array, rows: int) -> Array:
    """Zeros after the last row, up to `rows` of them."""
    missing = rows - value.shape[0]
    return jnp.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) if missing else value


def rows_of(value: Array, start: Array | int, length: int) -> Array:
    """value[start : start + length]."""
    return lax.dynamic_slice_in_dim(value, start, length)


def token_columns(
    x: Float[Array, "N D"], allowed: Bool[Array, "G V"] | None, group: Int[Array, " N"] | None
) -> Float[Array, "N K"]:
    """x with a column for each group, 1 in the token's own.

    The items have a column for each group too (`item_columns`), which holds MASKED where the group may not choose the
    item. The product of both is the score with the mask applied: no mask of tokens x items is ever made or read.
    """
    if allowed is None:
        return x
    groups = allowed.shape[0]
    column = jnp.zeros(x.shape[0], jnp.int32) if group is None else group
    own = column[:, None] == jnp.arange(groups, dtype=column.dtype)[None, :]
    return jnp.concatenate([x, own.astype(x.dtype)], axis=1)


def item_columns(w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None) -> Float[Array, "V K"]:
    """w with the groups' columns: 0 where the group may choose the item, MASKED where not."""
    if allowed is None:
        return w
    return jnp.concatenate([w, jnp.where(allowed, 0.0, MASKED).astype(w.dtype).T], axis=1)
