"""Both forms of the cross entropy, over whatever computes normalisers and gradients (`Scores`).

The catalogue may be spread over the devices of a mesh axis, each holding some of its rows: then the normalisers of all
are combined, each target's score comes from the device that has its row, and the gradient of the states is summed.
"""

from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.linear_xent.blocks import MASKED
from mdrec_kernels.linear_xent.products import sums_in
from mdrec_kernels.linear_xent.tokens import Tokens, gather_tokens, scatter_tokens

type Allowed = Bool[Array, "G V"] | None


class Scores(Protocol):
    """Sums over the scores of tokens against items, block by block. Hashable: it is static in compiled programs."""

    @property
    def chunk(self) -> int:
        """The tokens come in whole chunks of this many."""
        ...

    def normalisers(self, tokens: Tokens, w: Float[Array, "V D"], allowed: Allowed) -> Float[Array, " M"]:
        """Log-sum-exp of every token's scores; anything where the weight is 0."""
        ...

    def gradient(
        self, tokens: Tokens, w: Float[Array, "V D"], allowed: Allowed, normaliser: Array, factor: Array
    ) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
        """The gradient of sum_n factor_n log-sum-exp_n by x and w, from known normalisers."""
        ...

    def both(
        self, tokens: Tokens, w: Float[Array, "V D"], allowed: Allowed, z_loss: float
    ) -> tuple[Float[Array, " M"], Float[Array, "M D"], Float[Array, "V D"]]:
        """The normalisers, and the gradient of sum_n weight_n (log-sum-exp_n + z_loss log-sum-exp_n^2)."""
        ...


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def linear_xent_sum(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    weight: Float[Array, " N"],
    allowed: Allowed,
    group: Int[Array, " N"] | None,
    z_loss: float,
    scores: Scores,
    axis: str | None,
) -> Float[Array, ""]:
    """The weighted sum. Differentiated, it makes the gradient in the forward pass."""
    tokens = gather_tokens(x, w, target, weight, allowed, group, scores.chunk, axis)
    normaliser = _over_shards(_where_weighted(tokens, scores.normalisers(tokens, w, allowed)), axis)
    return jnp.sum(tokens.weight * _losses(tokens, normaliser, z_loss))


def _sum_forward(
    x: Array,
    w: Array,
    target: Array,
    weight: Array,
    allowed: Allowed,
    group: Array | None,
    z_loss: float,
    scores: Scores,
    axis: str | None,
) -> tuple[Float[Array, ""], tuple[Array, ...]]:
    tokens = gather_tokens(x, w, target, weight, allowed, group, scores.chunk, axis)
    if axis is None:
        normaliser, dx, dw = scores.both(tokens, w, allowed, z_loss)
        normaliser = _where_weighted(tokens, normaliser)
    else:
        normaliser = _over_shards(_where_weighted(tokens, scores.normalisers(tokens, w, allowed)), axis)
        dx, dw = scores.gradient(tokens, w, allowed, normaliser, slope(tokens, normaliser, z_loss))
    dx, dw = _with_targets(tokens, w, dx, dw)
    loss = _losses(tokens, normaliser, z_loss)
    dx, dweight = _summed(scatter_tokens(tokens, dx), axis).astype(x.dtype), scatter_tokens(tokens, loss)
    return jnp.sum(tokens.weight * loss), (dx, dw.astype(w.dtype), dweight.astype(weight.dtype))


def _sum_backward(
    _z_loss: float, _scores: Scores, _axis: str | None, gradients: tuple[Array, ...], cotangent: Float[Array, ""]
) -> tuple[Array | None, ...]:
    dx, dw, dweight = (cotangent.astype(g.dtype) * g for g in gradients)
    return dx, dw, None, dweight, None, None


linear_xent_sum.defvjp(_sum_forward, _sum_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def linear_xent(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    allowed: Allowed,
    group: Int[Array, " N"] | None,
    z_loss: float,
    scores: Scores,
    axis: str | None,
) -> Float[Array, " N"]:
    """Each token's loss. The backward pass computes the scores again."""
    return _xent_forward(x, w, target, allowed, group, z_loss, scores, axis)[0]


def _xent_forward(
    x: Array,
    w: Array,
    target: Array,
    allowed: Allowed,
    group: Array | None,
    z_loss: float,
    scores: Scores,
    axis: str | None,
) -> tuple[Float[Array, " N"], tuple[Array | None, ...]]:
    ones = jnp.ones_like(x, shape=x.shape[:1], dtype=sums_in(x))
    tokens = gather_tokens(x, w, target, ones, allowed, group, scores.chunk, axis, compact=False)
    normaliser = _over_shards(_where_weighted(tokens, scores.normalisers(tokens, w, allowed)), axis)
    loss = _losses(tokens, normaliser, z_loss)
    return scatter_tokens(tokens, loss), (x, w, target, allowed, group, scatter_tokens(tokens, normaliser))


def _xent_backward(
    z_loss: float, scores: Scores, axis: str | None, saved: tuple, cotangent: Float[Array, " N"]
) -> tuple[Array | None, ...]:
    x, w, target, allowed, group, normaliser = saved
    tokens = gather_tokens(x, w, target, cotangent, allowed, group, scores.chunk, axis)
    normaliser = tokens.pick(normaliser)
    dx, dw = scores.gradient(tokens, w, allowed, normaliser, slope(tokens, normaliser, z_loss))
    dx, dw = _with_targets(tokens, w, dx, dw)
    return _summed(scatter_tokens(tokens, dx), axis).astype(x.dtype), dw.astype(w.dtype), None, None, None


linear_xent.defvjp(_xent_forward, _xent_backward)


def slope(tokens: Tokens, normaliser: Float[Array, " M"], z_loss: float) -> Float[Array, " M"]:
    """The derivative of the weighted losses by the normalisers."""
    return tokens.weight * (1 + 2 * z_loss * normaliser)


def _where_weighted(tokens: Tokens, normaliser: Float[Array, " M"]) -> Float[Array, " M"]:
    return jnp.where(tokens.weight != 0, normaliser, 0)


def _over_shards(normaliser: Float[Array, " M"], axis: str | None) -> Float[Array, " M"]:
    """Log-sum-exp over all devices' items, from each device's own."""
    if axis is None:
        return normaliser
    largest = lax.pmax(normaliser, axis)
    return largest + jnp.log(lax.psum(jnp.exp(normaliser - largest), axis))


def _summed(value: Array, axis: str | None) -> Array:
    return value if axis is None else lax.psum(value, axis)


def _losses(tokens: Tokens, normaliser: Float[Array, " M"], z_loss: float) -> Float[Array, " M"]:
    """Loss of each token; 0 where there is none; infinite where the target is not allowed."""
    own = jnp.where(tokens.own < MASKED / 2, -jnp.inf, tokens.own)
    return jnp.where(tokens.weight != 0, normaliser - own + z_loss * normaliser**2, 0)


def _with_targets(
    tokens: Tokens, w: Float[Array, "V D"], dx: Float[Array, "M D"], dw: Float[Array, "V D"]
) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
    """The gradient of the normalisers (dx, dw), and of minus the targets' own scores."""
    weight = tokens.weight[:, None]
    dx = dx - weight * tokens.rows(w).astype(dx.dtype)
    return dx, dw.at[tokens.target].add(-weight * tokens.x.astype(dw.dtype))
