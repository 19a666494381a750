"""Log-sum-exp of scores over the whole catalogue, and its gradient, in blocks of tokens x items.

Where a block holds all items of its tokens (`_fused`), one pass makes loss and gradient: with e = exp(score - shift)
and its row sums S, the gradient of the states is (e w) / S and that of the items is (x / S)^T e. So the block is
written once, read by three products and never normalised. Where the catalogue is longer than a block, a first pass
finds log-sum-exp (`_normalisers`), a second one the gradient (`_gradient`): four products instead of three.

Two things about XLA's CPU back end shape the code. [C, V]^T [C, D] runs at a third of the speed of [C, D]^T [C, V]:
so the items' gradient is made as [D, V] and turned once at the end. And element-wise work in a branch runs on one
core, in a loop on all: so branches here hold reductions alone.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float
from mdrec_kernels.linear_xent.blocks import MASKED, Blocks, item_columns, rows_of
from mdrec_kernels.linear_xent.losses import slope
from mdrec_kernels.linear_xent.products import product, sums_in
from mdrec_kernels.linear_xent.tokens import Tokens
from mdrec_kernels.varying import zeros

SAFE = 80.0
"""How far a row's bound may lie above its target's score before its largest score has to be looked for."""
HEADROOM = 30.0
"""Exponentials reach at most exp(HEADROOM), their row sums at least exp(HEADROOM - SAFE): far from both limits."""


@dataclass(frozen=True)
class XlaScores:
    """`Scores` in plain XLA."""

    blocks: Blocks

    @property
    def chunk(self) -> int:
        return self.blocks.tokens

    def normalisers(self, tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None) -> Array:
        return _normalisers(tokens, w, allowed, self.blocks)

    def gradient(
        self,
        tokens: Tokens,
        w: Float[Array, "V D"],
        allowed: Bool[Array, "G V"] | None,
        normaliser: Array,
        factor: Array,
    ) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
        return _gradient(tokens, w, allowed, normaliser, factor, self.blocks)

    def both(
        self, tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None, z_loss: float
    ) -> tuple[Float[Array, " M"], Float[Array, "M D"], Float[Array, "V D"]]:
        if self.blocks.items >= w.shape[0]:
            return _fused(tokens, w, allowed, z_loss, self.blocks)
        normaliser = self.normalisers(tokens, w, allowed)
        return normaliser, *self.gradient(tokens, w, allowed, normaliser, slope(tokens, normaliser, z_loss))


def _fused(
    tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None, z_loss: float, blocks: Blocks
) -> tuple[Float[Array, " M"], Float[Array, "M D"], Float[Array, "V D"]]:
    """Log-sum-exp of every token, and the gradient, in one pass."""
    sums, items = sums_in(tokens.x), w.astype(tokens.x.dtype)
    columns = item_columns(items, allowed)
    longest = jnp.sqrt(jnp.max(jnp.sum(jnp.square(items.astype(sums)), axis=1)))

    def chunk(i, carry):
        normaliser, dx, dw = carry
        x, xs, own, weight = (rows_of(a, i * blocks.tokens, blocks.tokens) for a in tokens.scored())
        scores = product(xs, columns, (1, 1))
        shift = _shift(scores, x, own, weight, longest)
        # Without the barrier XLA would compute the exponentials once for each of their three readers.
        e = lax.optimization_barrier(jnp.exp(scores - shift[:, None]))
        total = jnp.sum(e, axis=1)
        normal = jnp.where(weight != 0, shift + jnp.log(total), 0)
        share = jnp.where(weight != 0, weight * (1 + 2 * z_loss * normal) / total, 0)[:, None]
        e = e.astype(x.dtype)
        dx = lax.dynamic_update_slice_in_dim(dx, share * product(e, items, (1, 0)), i * blocks.tokens, 0)
        dw = dw + product((share * x).astype(x.dtype), e, (0, 0))
        return lax.dynamic_update_slice_in_dim(normaliser, normal, i * blocks.tokens, 0), dx, dw

    start = (
        zeros(tokens.weight.shape, sums, tokens.x),
        zeros(tokens.x.shape, sums, tokens.x),
        zeros(items.shape[::-1], sums, tokens.x),
    )
    normaliser, dx, dw = lax.fori_loop(0, tokens.chunks(blocks.tokens), chunk, start)
    return normaliser, dx, dw.T


def _shift(
    scores: Float[Array, "C V"],
    x: Float[Array, "C D"],
    own: Float[Array, " C"],
    weight: Float[Array, " C"],
    longest: Float[Array, ""],
) -> Float[Array, " C"]:
    """What to subtract from each row before the exponential: any number not far from the row's largest score.

    Its upper bound |x| max|w| serves as long as it is not far above the target's score, and saves reading the block
    once more.
    """
    bound = longest * jnp.sqrt(jnp.sum(jnp.square(x.astype(scores.dtype)), axis=1))
    near = jnp.all((bound - own <= SAFE) | (weight == 0))
    return lax.cond(near, lambda: bound - HEADROOM, lambda: jnp.max(scores, axis=1))


# ---------------------------------------------------------------------------------------------------------------------
# Two passes, for catalogues longer than a block and for the form that computes the scores again.


def _item_block(
    w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None, index: Array, blocks: Blocks, dtype: jnp.dtype
) -> tuple[Float[Array, "B D"], Float[Array, "B K"], Array, Float[Array, " B"]]:
    """Block `index` of the items with the groups' columns, where it starts, and a bias that masks repeated items.

    The last block ends with the catalogue, so it may repeat items of the one before: no copy of w is padded.
    """
    length = min(blocks.items, w.shape[0])
    start = jnp.minimum(index * length, w.shape[0] - length)
    rows = rows_of(w, start, length).astype(dtype)
    mask = None if allowed is None else lax.dynamic_slice_in_dim(allowed, start, length, axis=1)
    repeated = start + jnp.arange(length) < index * length
    return rows, item_columns(rows, mask), start, jnp.where(repeated, MASKED, 0).astype(sums_in(rows))


def _normalisers(
    tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None, blocks: Blocks
) -> Float[Array, " M"]:
    """Log-sum-exp of every token's scores, online over blocks of items."""

    def items_block(j, carry):
        _, columns, _, bias = _item_block(w, allowed, j, blocks, tokens.x.dtype)

        def chunk(i, carry):
            place = i * blocks.tokens
            largest, total = (rows_of(a, place, blocks.tokens) for a in carry)
            scores = product(rows_of(tokens.columns, place, blocks.tokens), columns, (1, 1)) + bias[None, :]
            new = jnp.maximum(largest, jnp.max(scores, axis=1))
            total = total * jnp.exp(largest - new) + jnp.sum(jnp.exp(scores - new[:, None]), axis=1)
            return tuple(
                lax.dynamic_update_slice_in_dim(a, b, place, 0) for a, b in zip(carry, (new, total), strict=True)
            )

        return lax.fori_loop(0, tokens.chunks(blocks.tokens), chunk, carry)

    empty = zeros(tokens.weight.shape, sums_in(tokens.x), tokens.x)
    largest, total = lax.fori_loop(0, -(-w.shape[0] // blocks.items), items_block, (empty + 2 * MASKED, empty))
    return jnp.where(tokens.weight != 0, largest + jnp.log(total), 0)


def _gradient(
    tokens: Tokens,
    w: Float[Array, "V D"],
    allowed: Bool[Array, "G V"] | None,
    normaliser: Float[Array, " M"],
    factor: Float[Array, " M"],
    blocks: Blocks,
) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
    """The gradient of the normalisers' sum, each times its factor."""
    sums = sums_in(tokens.x)
    weighted = (factor[:, None] * tokens.x).astype(tokens.x.dtype)
    lowered = jnp.where(factor != 0, normaliser, -MASKED)

    def items_block(j, carry):
        dx, dw = carry
        rows, columns, start, bias = _item_block(w, allowed, j, blocks, tokens.x.dtype)

        def chunk(i, carry):
            dx, dw = carry
            xs, down, scaled = (
                rows_of(a, i * blocks.tokens, blocks.tokens) for a in (tokens.columns, lowered, weighted)
            )
            p = jnp.exp(product(xs, columns, (1, 1)) + bias[None, :] - down[:, None])
            p = lax.optimization_barrier(p.astype(xs.dtype))
            more = rows_of(dx, i * blocks.tokens, blocks.tokens) + product(p, rows, (1, 0))
            return lax.dynamic_update_slice_in_dim(dx, more, i * blocks.tokens, 0), dw + product(scaled, p, (0, 0))

        dx, more = lax.fori_loop(0, tokens.chunks(blocks.tokens), chunk, (dx, zeros(rows.shape[::-1], sums, tokens.x)))
        more = rows_of(dw, start, rows.shape[0]) + more.T
        return dx, lax.dynamic_update_slice_in_dim(dw, more, start, 0)

    start = zeros(tokens.x.shape, sums, tokens.x), zeros(w.shape, sums, tokens.x)
    dx, dw = lax.fori_loop(0, -(-w.shape[0] // blocks.items), items_block, start)
    return factor[:, None] * dx, dw
