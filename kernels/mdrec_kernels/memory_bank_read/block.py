"""A block of tokens against all slots, and back: the arithmetic that the `xla` and `pallas_tpu` forms share.

Whole rows of scores are there at once, so the backward pass makes the softmax again from q and the keys, and nothing is
kept for it. The norm of a query is a factor of its row of scores: q itself enters the products, unrounded.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels.memory_bank_read.banks import EPSILON, MASKED, Slots, accumulator


def _product(x: Array, y: Array, over: tuple[int, int]) -> Array:
    """x and y multiplied and summed over an axis of each, in float32 at least."""
    dimensions = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=accumulator(x.dtype))


def _factor(q: Float[Array, "t D"], qk_norm: bool) -> Float[Array, "t 1"] | None:
    """One over the root of each query's mean square."""
    if not qk_norm:
        return None
    wide = q.astype(accumulator(q.dtype))
    return jax.lax.rsqrt(jnp.mean(wide * wide, axis=1, keepdims=True) + EPSILON)


def _weights(q: Array, slots: Slots, factor: Array | None) -> tuple[Float[Array, "t M"], Float[Array, "t 1"]]:
    """exp(score - the row's highest), and one over its row's sum; all 0 where no slot is in use."""
    scores = _product(q, slots.key, (1, 1))
    if factor is not None:
        scores = scores * factor
    if slots.bias is not None:
        scores = scores + slots.bias
    highest = jnp.maximum(scores.max(axis=1, keepdims=True), MASKED / 2)
    weight = jnp.exp(scores - highest)
    total = weight.sum(axis=1, keepdims=True)
    return weight, 1 / jnp.where(total > 0, total, 1)


def forward(q: Float[Array, "t D"], banks: Sequence[Slots], qk_norm: bool) -> Float[Array, "t D"]:
    """What the tokens read, in float32 at least."""
    factor, out = _factor(q, qk_norm), jnp.zeros(q.shape, accumulator(q.dtype))
    for slots in banks:
        weight, share = _weights(q, slots, factor)
        found = _product(weight.astype(q.dtype), slots.value, (1, 0)) * share
        out += found if slots.gate is None else found * jax.nn.sigmoid(slots.gate.astype(out.dtype))
    return out


def backward(
    q: Float[Array, "t D"], d_out: Float[Array, "t D"], banks: Sequence[Slots], qk_norm: bool
) -> tuple[Float[Array, "t D"], list[tuple[Float[Array, "D M"], Float[Array, "D M"], Float[Array, "t C"] | None]]]:
    """The gradient of q, and for each bank those of its keys and values, transposed, and of its gate."""
    factor, dq, found = _factor(q, qk_norm), jnp.zeros(q.shape, accumulator(q.dtype)), []
    for slots in banks:
        weight, share = _weights(q, slots, factor)
        weight = weight * share
        d_own, d_weight, gate, d_gate = d_out, None, None, None
        if slots.gate is not None:
            gate = jax.nn.sigmoid(slots.gate.astype(dq.dtype))
        if gate is not None and gate.shape[1] > 1:
            read = _product(weight.astype(q.dtype), slots.value, (1, 0))
            d_gate = gate * (1 - gate) * read * d_out.astype(dq.dtype)
            d_own, gate = (gate * d_out.astype(dq.dtype)).astype(d_out.dtype), None
        d_weight = _product(d_own, slots.value, (1, 1))
        inner = (weight * d_weight).sum(axis=1, keepdims=True)
        d_scores = weight * (d_weight - inner)
        if gate is not None:  # one number a token, which so far was left out
            d_gate = gate * (1 - gate) * inner
            d_scores, weight = d_scores * gate, weight * gate
        if factor is not None:
            d_scores = d_scores * factor
        narrow = d_scores.astype(q.dtype)
        dq += _product(narrow, slots.key, (1, 0))
        found.append((_product(q, narrow, (0, 0)), _product(d_own, weight.astype(q.dtype), (0, 0)), d_gate))
    if factor is not None:
        wide = q.astype(dq.dtype)
        dq -= wide * (factor * factor) * jnp.mean(wide * dq, axis=1, keepdims=True)
    return dq, found
