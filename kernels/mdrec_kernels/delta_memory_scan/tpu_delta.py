"""The scan in the kernels for TPUs: the chunks of a piece one after the other, the tokens in sublanes."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.delta_memory_scan import delta_chunk
from mdrec_kernels.delta_memory_scan.delta_chunk import Chunk, Tokens
from mdrec_kernels.delta_memory_scan.spec import OPENING, PADDING, Spec
from mdrec_kernels.delta_memory_scan.tpu_cut import (
    Cut,
    begin,
    lanes_of,
    last_segment,
    opening,
    opens,
    put_row,
    span,
    take_row,
)
from mdrec_kernels.delta_memory_scan.tpu_refs import Backward, Forward


def _own(cut: Cut, chunk: int) -> Bool[Array, "C P"]:
    """Which column of the piece is which token of its chunk of that number."""
    shape = cut.chunk, cut.piece
    token, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return column == token + chunk * cut.chunk


def _stood(own: Bool[Array, "C P"], row: Float[Array, "1 P"]) -> Float[Array, "C 1"]:
    return jnp.where(own, jnp.broadcast_to(row, own.shape), 0).sum(axis=1, keepdims=True)


def _laid(own: Bool[Array, "C P"], column: Float[Array, "C 1"]) -> Float[Array, "1 P"]:
    return jnp.where(own, jnp.broadcast_to(column, own.shape), 0).sum(axis=0, keepdims=True)


def _columns(cut: Cut, piece: Array, chunk: int) -> pl.Slice:
    """The columns of the block that a chunk of a piece takes."""
    return pl.ds(pl.multiple_of(piece * cut.piece + chunk * cut.chunk, cut.chunk), cut.chunk)


def _tokens(
    spec: Spec, cut: Cut, refs: Forward | Backward, row: Array, piece: Array, chunk: int, place: Int[Array, "1 P"]
) -> tuple[Tokens, Float[Array, "C 1"]]:
    """A chunk's inputs, and 1 for each token that counts."""
    at, own = _columns(cut, piece, chunk), _own(cut, chunk)
    q, k, value = (x[row, at, :].astype(jnp.float32) for x in (refs.q, refs.k, refs.value))
    counts = _stood(own, jnp.where(place != PADDING, 1.0, 0.0))
    write, fade = (_stood(own, take_row(x, row, span(piece, cut.piece))) * counts for x in (refs.write, refs.fade))
    return Tokens(spec.scale * q, k, value, write, fade), counts


def forward(spec: Spec, cut: Cut, refs: Forward, row: Array, piece: Array) -> None:
    """Outputs of a piece, and the state after it."""
    at = span(piece, cut.piece)
    segment, last, state = (
        take_row(refs.segment, row, at),
        last_segment(refs.last, row),
        refs.state[row],
    )
    places = jnp.zeros(segment.shape, jnp.int32)
    for chunk in range(cut.chunks):
        place, last = opening(segment, lanes_of(chunk, cut), last)
        places += place
        state = begin(place, refs.start[row], state)
        tokens, counts = _tokens(spec, cut, refs, row, piece, chunk, place)
        made = delta_chunk.prepare(tokens)
        rows = delta_chunk.added(made, state)
        out = counts * delta_chunk.output(tokens, made, state, rows)
        refs.out[row, _columns(cut, piece, chunk), :] = out.astype(refs.out.dtype)
        state = delta_chunk.after(tokens, made, state, rows)
    refs.state[row] = state
    put_row(refs.last, row, span(0, tpu.LANES), last)
    if refs.place is not None:
        put_row(refs.place, row, at, places)


def again(spec: Spec, cut: Cut, refs: Backward, row: Array, piece: Array) -> None:
    """The states that the chunks of a piece start with."""
    places, state = take_row(refs.place, row, span(piece, cut.piece)), refs.carry[...]
    for chunk in range(cut.chunks):
        place = jnp.where(lanes_of(chunk, cut), places, PADDING)
        state = begin(place, refs.start[row], state)
        refs.states[piece * cut.chunks + chunk] = state
        tokens, _ = _tokens(spec, cut, refs, row, piece, chunk, place)
        made = delta_chunk.prepare(tokens)
        state = delta_chunk.after(tokens, made, state, delta_chunk.added(made, state))
    refs.carry[...] = state


def backward(spec: Spec, cut: Cut, refs: Backward, row: Array, piece: Array) -> None:
    """Gradients of a piece, and of the states before it."""
    at = span(piece, cut.piece)
    places, d_state, d_start = take_row(refs.place, row, at), refs.d_state[row], refs.d_start[row]
    d_write, d_fade = jnp.zeros(places.shape, jnp.float32), jnp.zeros(places.shape, jnp.float32)
    for chunk in reversed(range(cut.chunks)):
        columns, own = _columns(cut, piece, chunk), _own(cut, chunk)
        place = jnp.where(lanes_of(chunk, cut), places, PADDING)
        tokens, counts = _tokens(spec, cut, refs, row, piece, chunk, place)
        made, state = delta_chunk.prepare(tokens), refs.states[piece * cut.chunks + chunk]
        d_out = counts * refs.d_out[row, columns, :].astype(jnp.float32)
        d, before = _chunk(tokens, made, state, d_out, d_state)
        refs.d_q[row, columns, :] = (spec.scale * d.q).astype(refs.d_q.dtype)
        refs.d_k[row, columns, :] = d.k.astype(refs.d_k.dtype)
        refs.d_value[row, columns, :] = d.value.astype(refs.d_value.dtype)
        d_write += _laid(own, counts * d.write)
        d_fade += _laid(own, counts * d.fade)
        fresh = jnp.broadcast_to(opens(place), before.shape) == OPENING
        d_state, d_start = jnp.where(fresh, 0, before), d_start + jnp.where(fresh, before, 0)
    refs.d_state[row], refs.d_start[row] = d_state, d_start
    put_row(refs.d_write, row, at, d_write)
    put_row(refs.d_fade, row, at, d_fade)


def _chunk(tokens: Tokens, made: Chunk, state: Array, d_out: Array, d_after: Array) -> tuple[Tokens, Array]:
    """Gradients of a chunk's inputs, and of the state that it starts with."""
    by_out = delta_chunk.d_added(made, d_out)
    before = delta_chunk.d_state(tokens, made, d_out, by_out)
    before += delta_chunk.d_state_from_after(tokens, made, d_after)
    d_rows = by_out + delta_chunk.d_added_from_after(tokens, made, d_after)
    rows = delta_chunk.added(made, state)
    return delta_chunk.gradients(tokens, made, state, rows, d_out, d_after, d_rows), before
