"""Exact top-k and ranks over the catalogue, in blocks of queries x items."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.linear_xent.blocks import MASKED, Blocks, item_columns, pad_rows, rows_of, token_columns
from mdrec_kernels.linear_xent.products import product, sums_in
from mdrec_kernels.varying import zeros

SEGMENT = 128
"""Neighbouring items whose largest score stands for them in the first round of a top-k."""


def top_k(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    k: int,
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " Q"] | None,
    exclude: Int[Array, "Q E"] | None,
    blocks: Blocks,
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """The k best in descending order; of equal scores the lower id first."""
    catalogue = _Catalogue(x, w, allowed, group, exclude, blocks)

    def chunk(i, found):
        block = catalogue.blocks_of(i)

        def items_block(j, best):
            scores, start, _ = block(j)
            new, column = _top_of_block(scores, k)
            # The earlier blocks' finds come first: of equal scores the lower id stays in front.
            both = jnp.concatenate([best[0], new], axis=1), jnp.concatenate([best[1], column + start], axis=1)
            scores, place = lax.top_k(both[0], k)
            return scores, jnp.take_along_axis(both[1], place, axis=1)

        none = zeros((catalogue.queries, k), catalogue.sums, catalogue.x)
        best = catalogue.over_blocks(items_block, (none + 2 * MASKED, none.astype(jnp.int32)))
        return tuple(_put(a, b, i * catalogue.queries) for a, b in zip(found, best, strict=True))

    empty = zeros((catalogue.x.shape[0], k), catalogue.sums, catalogue.x)
    scores, ids = lax.fori_loop(0, catalogue.chunks, chunk, (empty, empty.astype(jnp.int32)))
    real = scores[: x.shape[0]] > MASKED / 2
    return jnp.where(real, scores[: x.shape[0]], -jnp.inf), jnp.where(real, ids[: x.shape[0]], 0)


def _top_of_block(scores: Float[Array, "C B"], k: int) -> tuple[Float[Array, "C k"], Int[Array, "C k"]]:
    """The k best columns of a block, equal scores in order of the column.

    A score among the k best lies in one of the k segments with the largest maxima, equal maxima taken in order; so
    one pass over the block finds the segments, and only theirs are sorted.
    """
    rows, items = scores.shape
    segments = -(-items // SEGMENT)
    if segments <= 2 * k:
        best, column = lax.top_k(scores, min(k, items))
        missing = k - best.shape[1]
        return jnp.pad(best, ((0, 0), (0, missing)), constant_values=2 * MASKED), jnp.pad(
            column, ((0, 0), (0, missing))
        )
    scores = jnp.pad(scores, ((0, 0), (0, segments * SEGMENT - items)), constant_values=2 * MASKED)
    scores = scores.reshape(rows, segments, SEGMENT)
    _, chosen = lax.top_k(jnp.max(scores, axis=2), k)
    chosen = jnp.sort(chosen, axis=1)
    kept = jnp.take_along_axis(scores, chosen[:, :, None], axis=1).reshape(rows, k * SEGMENT)
    best, place = lax.top_k(kept, k)
    return best, jnp.take_along_axis(chosen, place // SEGMENT, axis=1) * SEGMENT + place % SEGMENT


def target_rank(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    target: Int[Array, " Q"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " Q"] | None,
    exclude: Int[Array, "Q E"] | None,
    blocks: Blocks,
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, " Q"]]:
    """How many score higher than the target, how many the same, and the target's score."""
    exclude = None if exclude is None else jnp.where(exclude == target[:, None], 0, exclude)
    catalogue = _Catalogue(x, w, allowed, group, exclude, blocks)
    rounds = 1 if catalogue.blocks == 1 else 2
    goals = pad_rows(target, catalogue.x.shape[0])
    # For a target that its group may not choose: it is ranked all the same.
    outside = jnp.sum(x.astype(catalogue.sums) * w[target].astype(x.dtype).astype(catalogue.sums), axis=1)
    outside = pad_rows(outside, goals.shape[0])

    def chunk(i, found):
        goal, free = (rows_of(a, i * catalogue.queries, catalogue.queries) for a in (goals, outside))
        block = catalogue.blocks_of(i)

        def look(j, carry):
            # First round over the blocks: the target's score. Last round: the counts. In one and the same loop,
            # because a product that is compiled a second time may round differently, and then nothing ties.
            own, higher, ties = carry
            scores, start, first = block(j % catalogue.blocks)
            inside = (goal >= first) & (goal < start + scores.shape[1])
            column = jnp.where(inside, goal - start, 0)[:, None]
            itself = jnp.take_along_axis(scores, column, axis=1)[:, 0]
            own = jnp.where(inside & (j < catalogue.blocks), jnp.where(itself < MASKED / 2, free, itself), own)
            above = jnp.sum(~(scores <= own[:, None]), axis=1, dtype=jnp.int32) - (inside & ~(itself <= own))
            beside = jnp.sum(scores == own[:, None], axis=1, dtype=jnp.int32) - (inside & (itself == own))
            last = j >= (rounds - 1) * catalogue.blocks
            return own, higher + last * above, ties + last * beside

        none = zeros(goal.shape, catalogue.sums, catalogue.x)
        own, *counts = catalogue.over_blocks(look, (none, none.astype(jnp.int32), none.astype(jnp.int32)), rounds)
        return tuple(_put(a, b, i * catalogue.queries) for a, b in zip(found, (*counts, own), strict=True))

    empty = zeros(goals.shape, catalogue.sums, catalogue.x)
    start = empty.astype(jnp.int32), empty.astype(jnp.int32), empty
    higher, ties, own = (a[: x.shape[0]] for a in lax.fori_loop(0, catalogue.chunks, chunk, start))
    return jnp.where(jnp.isnan(own), w.shape[0], higher), ties, own


def _put(all_: Array, some: Array, start: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(all_, some, start, 0)


class _Catalogue:
    """Scores of a chunk of queries and a block of items, with what may not be chosen at MASKED."""

    def __init__(
        self, x: Array, w: Array, allowed: Array | None, group: Array | None, exclude: Array | None, b: Blocks
    ):
        self.sums, self.w, self.allowed = sums_in(x), w, allowed
        # A product with a single row runs other code, which does not give equal rows of w equal scores: no ties.
        self.queries, self.items = max(8, min(b.tokens, x.shape[0])), min(b.items, w.shape[0])
        self.chunks, self.blocks = -(-x.shape[0] // self.queries), -(-w.shape[0] // self.items)
        rows = self.chunks * self.queries
        self.x = pad_rows(token_columns(x, allowed, group), rows)
        self.exclude = None if exclude is None else pad_rows(exclude, rows)
        self.whole = item_columns(w.astype(x.dtype), allowed) if self.blocks == 1 else None

    def over_blocks[T](self, body: Callable[[Any, T], T], start: T, rounds: int = 1) -> T:
        """Fold over the blocks of items, `rounds` times."""
        return body(0, start) if rounds * self.blocks == 1 else lax.fori_loop(0, rounds * self.blocks, body, start)

    def blocks_of(self, i: Array) -> Callable[[Any], tuple[Float[Array, "C B"], Any, Any]]:
        """For chunk i of the queries: a function of j that gives block j, its first id, and its first new id.

        The last block ends with the catalogue; what it repeats of the one before is masked.
        """
        if self.blocks > 1:
            return partial(self._scores, i)
        only = self._scores(i, 0)
        return lambda _: only

    def _scores(self, i: Array, j: Any) -> tuple[Float[Array, "C B"], Any, Any]:
        x = rows_of(self.x, i * self.queries, self.queries)
        start = jnp.minimum(j * self.items, self.w.shape[0] - self.items)
        scores = product(x, self._columns(start), (1, 1), lax.Precision.HIGHEST)
        if self.blocks > 1:
            repeated = start + jnp.arange(self.items) < j * self.items
            scores = jnp.where(repeated[None, :], MASKED, scores)
        if self.exclude is None:
            return scores, start, j * self.items
        column = rows_of(self.exclude, i * self.queries, self.queries)
        column = jnp.where((column > 0) & (column >= start), column - start, self.items)
        row = jnp.arange(self.queries)[:, None]
        return scores.at[row, column].set(MASKED, mode="drop"), start, j * self.items

    def _columns(self, start: Array) -> Float[Array, "B K"]:
        if self.whole is not None:
            return self.whole
        mask = None if self.allowed is None else lax.dynamic_slice_in_dim(self.allowed, start, self.items, axis=1)
        return item_columns(rows_of(self.w, start, self.items).astype(self.x.dtype), mask)
