"""Erase mode on a block: everything that does not need the state for all chunks at once, then the recurrence.

What is left of a slot after a chunk is a product over its tokens. Its derivative by one factor is the product of the
others: the whole by that factor, which stays right where one factor is 0, for none is taken to be less than `LEAST`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels.slot_memory_scan.block import Block, Gradients, StateGradients, advance, retreat
from mdrec_kernels.slot_memory_scan.spec import Spec, wide

LEAST = 1e-18
"""Of a slot, after a token. Its inverse has to be finite, and so has the inverse of a thousandth of it."""


class _Chunks(NamedTuple):
    """What a block's chunks do, before any state is known."""

    read: Float[Array, "G n C M"]
    address: Float[Array, "G n C M"]
    w: Float[Array, "G n C M"]
    left: Float[Array, "G n C M"]
    """What each token leaves of a slot."""
    keep: Float[Array, "G n M"]


def forward(
    spec: Spec, slots: Float[Array, "M K"], block: Block, start: Float[Array, "G M V"], state: Float[Array, "G M V"]
) -> tuple[Float[Array, "G n C V"], Float[Array, "G M V"], Float[Array, "G n M V"]]:
    """Outputs, the state after the block, and the one that each chunk starts with."""
    chunks = _chunks(spec, slots, block)
    state, states = advance(_change, block.opens, start, state, chunks.keep, _added(chunks, block))
    out = _product("gncm,gnmv->gncv", chunks.read, states, block.q.dtype)
    return out.astype(block.q.dtype), state, states


def backward(
    spec: Spec,
    slots: Float[Array, "M K"],
    block: Block,
    start: Float[Array, "G M V"],
    states: Float[Array, "G s M V"],
    d_out: Float[Array, "G n C V"],
    d_after: StateGradients,
) -> tuple[Gradients, StateGradients]:
    """Gradients of the block, and of the states before it; `states` is every chunk's or only the first's."""
    narrow = block.q.dtype
    chunks = _chunks(spec, slots, block)
    read, address, w, left, keep = chunks
    if states.shape[1] < block.q.shape[1]:
        _, states = advance(_change, block.opens, start, states[:, 0], keep, _added(chunks, block))
    d_read = _product("gncv,gnmv->gncm", d_out, states, narrow)
    own = _product("gncm,gncv->gnmv", read, d_out, narrow)
    d_before, after = retreat(_change, block.opens, d_after, keep, own)

    d_value = _product("gncm,gnmv->gncv", w, after, narrow)
    d_keep = (states * after).sum(-1)
    d_left = (d_keep * keep)[:, :, None, :] / left
    d_w = _product("gncv,gnmv->gncm", block.value, after, narrow) - block.fade[..., None] * d_left
    d_address = block.write[..., None] * d_w
    scores = _softmax_slope(spec, read, d_read), _softmax_slope(spec, address, d_address)
    d_q, d_k = (_product("gncm,mk->gnck", d, slots, narrow) for d in scores)
    d_slots = _product("gncm,gnck->mk", scores[0], block.q, narrow) + _product(
        "gncm,gnck->mk", scores[1], block.k, narrow
    )
    gradients = Gradients(d_q, d_k, d_value, (address * d_w).sum(-1), -(w * d_left).sum(-1), d_slots)
    return gradients, d_before


def _chunks(spec: Spec, slots: Array, block: Block) -> _Chunks:
    narrow = block.q.dtype
    read = jax.nn.softmax(spec.scale * _product("gnck,mk->gncm", block.q, slots, narrow), axis=-1)
    read = jnp.where(block.counts[..., None], read, 0)
    address = jax.nn.softmax(spec.scale * _product("gnck,mk->gncm", block.k, slots, narrow), axis=-1)
    w = block.write[..., None] * address
    left = jnp.maximum(1 - block.fade[..., None] * w, LEAST)
    return _Chunks(read, address, w, left, left.prod(2))


def _added(chunks: _Chunks, block: Block) -> Float[Array, "G n M V"]:
    return _product("gncm,gncv->gnmv", chunks.w, block.value, block.q.dtype)


def _change(state: Array, keep: Float[Array, "G M"], added: Float[Array, "G M V"]) -> Array:
    return keep[:, :, None] * state + added


def _softmax_slope(spec: Spec, weight: Array, d_weight: Array) -> Array:
    """The gradient of q k, from the softmax of scale q k and its gradient."""
    slope = weight * d_weight
    return spec.scale * (slope - weight * slope.sum(-1, keepdims=True))


def _product(form: str, a: Array, b: Array, narrow: jnp.dtype) -> Array:
    """A product of arrays in the inputs' type, its sums in float32 at least."""
    return jnp.einsum(form, a.astype(narrow), b.astype(narrow), preferred_element_type=wide(narrow))
