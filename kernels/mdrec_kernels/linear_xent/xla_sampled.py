"""Sampled losses in chunks of tokens; the gradient is made in the forward pass."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from mdrec_kernels.linear_xent.blocks import pad_rows, rows_of
from mdrec_kernels.linear_xent.products import product, sums_in
from mdrec_kernels.linear_xent.sampled import Sampled
from mdrec_kernels.varying import zeros


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def sampled_sum(
    x: Float[Array, "N D"],
    positive: Float[Array, "N D"],
    negatives: Float[Array, "S D"],
    weight: Float[Array, " N"],
    how: Sampled,
    tokens: int,
) -> Float[Array, ""]:
    """The weighted sum of the tokens' losses, `tokens` of them at a time."""
    chunks = _Chunks(x, positive, negatives, weight, how, tokens)

    def chunk(i, total):
        own, scores, _, _, weight, how = chunks.scores(i)
        return total + jnp.sum(how.losses(own, scores) * weight)

    return lax.fori_loop(0, chunks.number, chunk, zeros((), chunks.sums, chunks.x))


def _forward(
    x: Array, positive: Array, negatives: Array, weight: Array, how: Sampled, tokens: int
) -> tuple[Float[Array, ""], tuple]:
    chunks = _Chunks(x, positive, negatives, weight, how, tokens)

    def chunk(i, carry):
        dx, dpositive, dnegatives, losses = carry
        own, scores, x, positive, weight, how = chunks.scores(i)
        loss, pull = jax.vjp(how.losses, own, scores)
        down, dscores = pull(weight)
        dscores = dscores.astype(x.dtype)
        dnegatives = dnegatives + product(x, dscores, (0, 0))
        values = (
            product(dscores, chunks.negatives, (1, 0)) + down[:, None] * positive,
            down[:, None] * x,
            jnp.where(weight != 0, loss, 0),
        )
        placed = (
            lax.dynamic_update_slice_in_dim(all_, some.astype(all_.dtype), i * tokens, 0)
            for all_, some in zip((dx, dpositive, losses), values, strict=True)
        )
        dx, dpositive, losses = placed
        return dx, dpositive, dnegatives, losses

    start = (
        zeros(chunks.x.shape, x.dtype, chunks.x),
        zeros(chunks.x.shape, positive.dtype, chunks.x),
        zeros(negatives.shape[::-1], chunks.sums, chunks.x),
        zeros(chunks.weight.shape, chunks.sums, chunks.x),
    )
    dx, dpositive, dnegatives, losses = lax.fori_loop(0, chunks.number, chunk, start)
    number = x.shape[0]
    gradients = dx[:number], dpositive[:number], dnegatives.T.astype(negatives.dtype)
    return jnp.sum(chunks.weight * losses), (*gradients, losses[:number].astype(weight.dtype), how)


def _backward(_tokens: int, saved: tuple, cotangent: Float[Array, ""]) -> tuple:
    *gradients, how = saved
    return *(cotangent.astype(g.dtype) * g for g in gradients), jax.tree.map(lambda _: None, how)


sampled_sum.defvjp(_forward, _backward)


class _Chunks:
    """The inputs in whole chunks, and the scores of each."""

    def __init__(self, x: Array, positive: Array, negatives: Array, weight: Array, how: Sampled, tokens: int):
        self.tokens, self.sums = tokens, sums_in(x)
        self.number = -(-x.shape[0] // tokens)
        rows = self.number * tokens
        real = (weight != 0)[:, None]
        self.x = pad_rows(jnp.where(real, x, 0), rows)
        self.positive = pad_rows(jnp.where(real, positive, 0).astype(x.dtype), rows)
        self.negatives = negatives.astype(x.dtype)
        self.weight = pad_rows(weight.astype(self.sums), rows)
        self.how, self.per_token = how, {name: pad_rows(value, rows) for name, value in how.tokens().items()}

    def scores(self, i: Array) -> tuple[Array, Array, Array, Array, Array, Sampled]:
        """Chunk i: scores of the targets [C] and of the negatives [C, S], x, positive, weight and `Sampled`."""
        x, positive, weight = (rows_of(a, i * self.tokens, self.tokens) for a in (self.x, self.positive, self.weight))
        own = jnp.sum(x.astype(self.sums) * positive.astype(self.sums), axis=1)
        per_token = {name: rows_of(value, i * self.tokens, self.tokens) for name, value in self.per_token.items()}
        how = dataclasses.replace(self.how, **per_token)
        return own, product(x, self.negatives, (1, 1)), x, positive, weight, how
