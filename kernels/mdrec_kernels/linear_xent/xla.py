"""Cross entropy over the whole catalogue in blocks of tokens x items; gradients by hand.

Where a block holds all items of its tokens (`_fused`), one pass makes loss and gradient: with e = exp(score - shift)
and its row sums S, the gradient of the states is (e w) / S and that of the items is (x / S)^T e. So the block is
written once, read by three products and never normalised. Where the catalogue is longer than a block, a first pass
finds log-sum-exp (`_normalisers`), a second one the gradient (`_gradient`): four products instead of three.

Two things about XLA's CPU back end shape the code. [C, V]^T [C, D] runs at a third of the speed of [C, D]^T [C, V]:
so the items' gradient is made as [D, V] and turned once at the end. And element-wise work in a branch runs on one
core, in a loop on all: so branches here hold reductions alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.linear_xent.blocks import MASKED, Blocks, item_columns, rows_of, zeros
from mdrec_kernels.linear_xent.products import product, sums_in
from mdrec_kernels.linear_xent.tokens import Tokens, gather_tokens, scatter_tokens

SAFE = 80.0
"""How far a row's bound may lie above its target's score before its largest score has to be looked for."""
HEADROOM = 30.0
"""Exponentials reach at most exp(HEADROOM), their row sums at least exp(HEADROOM - SAFE): far from both limits."""


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def linear_xent_sum(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    weight: Float[Array, " N"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " N"] | None,
    z_loss: float,
    blocks: Blocks,
) -> Float[Array, ""]:
    """The weighted sum. Differentiated, it makes the gradient in the forward pass."""
    tokens = gather_tokens(x, w, target, weight, allowed, group, blocks)
    loss = _losses(tokens, _normalisers(tokens, w, allowed, blocks), z_loss)
    return jnp.sum(tokens.weight * loss)


type Gradients = tuple[Array, ...]


def _sum_forward(
    x: Array,
    w: Array,
    target: Array,
    weight: Array,
    allowed: Array | None,
    group: Array | None,
    z_loss: float,
    blocks: Blocks,
) -> tuple[Float[Array, ""], Gradients]:
    tokens = gather_tokens(x, w, target, weight, allowed, group, blocks)
    if blocks.items >= w.shape[0]:
        normaliser, dx, dw = _fused(tokens, w, allowed, z_loss, blocks)
    else:
        normaliser = _normalisers(tokens, w, allowed, blocks)
        dx, dw = _gradient(tokens, w, allowed, normaliser, z_loss, blocks)
    loss = _losses(tokens, normaliser, z_loss)
    dx, dweight = scatter_tokens(tokens, dx).astype(x.dtype), scatter_tokens(tokens, loss).astype(weight.dtype)
    return jnp.sum(tokens.weight * loss), (dx, dw.astype(w.dtype), dweight)


def _sum_backward(
    _z_loss: float, _blocks: Blocks, gradients: Gradients, cotangent: Float[Array, ""]
) -> tuple[Array | None, ...]:
    dx, dw, dweight = (cotangent.astype(g.dtype) * g for g in gradients)
    return dx, dw, None, dweight, None, None


linear_xent_sum.defvjp(_sum_forward, _sum_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def linear_xent(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " N"] | None,
    z_loss: float,
    blocks: Blocks,
) -> Float[Array, " N"]:
    """Each token's loss. The backward pass computes the scores again."""
    return _xent_forward(x, w, target, allowed, group, z_loss, blocks)[0]


def _xent_forward(
    x: Array, w: Array, target: Array, allowed: Array | None, group: Array | None, z_loss: float, blocks: Blocks
) -> tuple[Float[Array, " N"], tuple[Array | None, ...]]:
    ones = jnp.ones_like(x, shape=x.shape[:1], dtype=sums_in(x))
    tokens = gather_tokens(x, w, target, ones, allowed, group, blocks, compact=False)
    normaliser = _normalisers(tokens, w, allowed, blocks)
    loss = _losses(tokens, normaliser, z_loss)
    return scatter_tokens(tokens, loss), (x, w, target, allowed, group, scatter_tokens(tokens, normaliser))


def _xent_backward(
    z_loss: float, blocks: Blocks, saved: tuple, cotangent: Float[Array, " N"]
) -> tuple[Array | None, ...]:
    x, w, target, allowed, group, normaliser = saved
    tokens = gather_tokens(x, w, target, cotangent, allowed, group, blocks)
    dx, dw = _gradient(tokens, w, allowed, tokens.pick(normaliser), z_loss, blocks)
    return scatter_tokens(tokens, dx).astype(x.dtype), dw.astype(w.dtype), None, None, None


linear_xent.defvjp(_xent_forward, _xent_backward)


def _losses(tokens: Tokens, normaliser: Float[Array, " M"], z_loss: float) -> Float[Array, " M"]:
    """Loss of each token; 0 where there is none; infinite where the target is not allowed."""
    own = jnp.where(tokens.own < MASKED / 2, -jnp.inf, tokens.own)
    return jnp.where(tokens.weight != 0, normaliser - own + z_loss * normaliser**2, 0)


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
    normaliser, dx, dw = lax.fori_loop(0, tokens.chunks(blocks), chunk, start)
    return normaliser, *_with_targets(tokens, items, dx, dw.T)


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


def _with_targets(
    tokens: Tokens, items: Float[Array, "V D"], dx: Float[Array, "M D"], dw: Float[Array, "V D"]
) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
    """The gradient of the normalisers (dx, dw), and of minus the targets' own scores."""
    weight = tokens.weight[:, None]
    dx = dx - weight * jnp.take(items, tokens.target, axis=0).astype(dx.dtype)
    return dx, dw.at[tokens.target].add(-weight * tokens.x.astype(dw.dtype))


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

        return lax.fori_loop(0, tokens.chunks(blocks), chunk, carry)

    empty = zeros(tokens.weight.shape, sums_in(tokens.x), tokens.x)
    largest, total = lax.fori_loop(0, -(-w.shape[0] // blocks.items), items_block, (empty + 2 * MASKED, empty))
    return jnp.where(tokens.weight != 0, largest + jnp.log(total), 0)


def _gradient(
    tokens: Tokens,
    w: Float[Array, "V D"],
    allowed: Bool[Array, "G V"] | None,
    normaliser: Float[Array, " M"],
    z_loss: float,
    blocks: Blocks,
) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
    """The gradient of the weighted sum, from known normalisers."""
    sums = sums_in(tokens.x)
    factor = tokens.weight * (1 + 2 * z_loss * normaliser)
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

        dx, more = lax.fori_loop(0, tokens.chunks(blocks), chunk, (dx, zeros(rows.shape[::-1], sums, tokens.x)))
        more = rows_of(dw, start, rows.shape[0]) + more.T
        return dx, lax.dynamic_update_slice_in_dim(dw, more, start, 0)

    start = zeros(tokens.x.shape, sums, tokens.x), zeros(w.shape, sums, tokens.x)
    dx, dw = lax.fori_loop(0, -(-w.shape[0] // blocks.items), items_block, start)
    return _with_targets(tokens, w.astype(tokens.x.dtype), factor[:, None] * dx, dw)
