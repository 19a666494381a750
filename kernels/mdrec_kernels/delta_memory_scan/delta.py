"""The scan on a block: what needs no state for all chunks at once, then the recurrence, then the rest at once."""

import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels.delta_memory_scan import delta_chunk
from mdrec_kernels.delta_memory_scan.block import Block, Gradients, StateGradients, advance, retreat
from mdrec_kernels.delta_memory_scan.delta_chunk import Chunk, Tokens
from mdrec_kernels.delta_memory_scan.spec import Spec, wide


def forward(
    spec: Spec, block: Block, start: Float[Array, "G K V"], state: Float[Array, "G K V"]
) -> tuple[Float[Array, "G n C V"], Float[Array, "G K V"], Float[Array, "G n K V"]]:
    """Outputs, the state after the block, and the one that each chunk starts with."""
    tokens = _tokens(spec, block)
    chunk = delta_chunk.prepare(tokens)
    state, states = advance(_after, block.opens, start, state, tokens, chunk)
    out = delta_chunk.output(tokens, chunk, states, delta_chunk.added(chunk, states))
    return jnp.where(block.counts[..., None], out, 0).astype(block.q.dtype), state, states


def backward(
    spec: Spec,
    block: Block,
    start: Float[Array, "G K V"],
    states: Float[Array, "G s K V"],
    d_out: Float[Array, "G n C V"],
    d_after: StateGradients,
) -> tuple[Gradients, StateGradients]:
    """Gradients of the block, and of the states before it; `states` is every chunk's or only the first's."""
    tokens = _tokens(spec, block)
    chunk = delta_chunk.prepare(tokens)
    if states.shape[1] < block.q.shape[1]:
        _, states = advance(_after, block.opens, start, states[:, 0], tokens, chunk)
    d_out = jnp.where(block.counts[..., None], d_out.astype(states.dtype), 0)
    by_out = delta_chunk.d_added(chunk, d_out)
    own = delta_chunk.d_state(tokens, chunk, d_out, by_out)

    def step(d_after: Array, tokens: Tokens, chunk: Chunk, own: Array) -> Array:
        return own + delta_chunk.d_state_from_after(tokens, chunk, d_after)

    d_before, after = retreat(step, block.opens, d_after, tokens, chunk, own)
    rows = delta_chunk.added(chunk, states)
    d_rows = by_out + delta_chunk.d_added_from_after(tokens, chunk, after)
    d = delta_chunk.gradients(tokens, chunk, states, rows, d_out, after, d_rows)
    return Gradients(spec.scale * d.q, d.k, d.value, d.write[..., 0], d.fade[..., 0]), d_before


def _tokens(spec: Spec, block: Block) -> Tokens:
    q, k, value = (x.astype(wide(x.dtype)) for x in (block.q, block.k, block.value))
    return Tokens(spec.scale * q, k, value, block.write[..., None], block.fade[..., None])


def _after(state: Array, tokens: Tokens, chunk: Chunk) -> Array:
    return delta_chunk.after(tokens, chunk, state, delta_chunk.added(chunk, state))
