"""Erase mode in the kernels for TPUs: a piece of a row, the slots in sublanes and the tokens in lanes."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.slot_memory_scan.erase import LEAST
from mdrec_kernels.slot_memory_scan.spec import OPENING, PADDING, Spec
from mdrec_kernels.slot_memory_scan.tpu_cut import (
    Cut,
    begin,
    lanes_of,
    last_segment,
    opening,
    opens,
    product,
    put_row,
    span,
    take_row,
)
from mdrec_kernels.slot_memory_scan.tpu_refs import Backward, Forward


def _weights(spec: Spec, slots: Float[Array, "M K"], x: Float[Array, "P K"]) -> Float[Array, "M P"]:
    """softmax(scale slots x), over the slots."""
    scores = spec.scale * product(slots, x, 1, 1)
    raised = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    return raised / raised.sum(axis=0, keepdims=True)


def _left(erase: Float[Array, "1 P"], w: Float[Array, "M P"]) -> tuple[Float[Array, "M P"], Float[Array, "M 1"]]:
    """Logarithms of what each token leaves of a slot, and what all of them leave of it."""
    logs = jnp.log(jnp.maximum(1 - erase * w, LEAST))
    return logs, jnp.exp(logs.sum(axis=1, keepdims=True))


def _only(place: Int[Array, "1 P"], x: Float[Array, "M P"]) -> Float[Array, "M P"]:
    """x at a chunk's tokens, 0 elsewhere."""
    return jnp.where(jnp.broadcast_to(place, x.shape) != PADDING, x, 0)


def forward(spec: Spec, cut: Cut, refs: Forward, row: Array, piece: Array) -> None:
    """Outputs of a piece, and the state after it."""
    at = span(piece, cut.piece)
    slots, value = refs.slots[...].astype(refs.q.dtype), refs.value[row, at, :]
    read = _weights(spec, slots, refs.q[row, at, :])
    w = take_row(refs.write, row, at) * _weights(spec, slots, refs.k[row, at, :])
    segment, erase = take_row(refs.segment, row, at), take_row(refs.fade, row, at)
    out = jnp.zeros(value.shape, jnp.float32)
    places = jnp.zeros(segment.shape, jnp.int32)
    last, state = last_segment(refs.last, row), refs.state[row]
    for chunk in range(cut.chunks):
        place, last = opening(segment, lanes_of(chunk, cut), last)
        places += place
        state = begin(place, refs.start[row], state)
        out += product(_only(place, read).astype(value.dtype), state.astype(value.dtype), 0, 0)
        own = _only(place, w)
        _, keep = _left(erase, own)
        state = keep * state + product(own.astype(value.dtype), value, 1, 0)
    refs.out[row, at, :] = out.astype(value.dtype)
    refs.state[row] = state
    put_row(refs.last, row, span(0, tpu.LANES), last)
    if refs.place is not None:
        put_row(refs.place, row, at, places)


def again(spec: Spec, cut: Cut, refs: Backward, row: Array, piece: Array) -> None:
    """The states that the chunks of a piece start with."""
    at = span(piece, cut.piece)
    slots, value = refs.slots[...].astype(refs.q.dtype), refs.value[row, at, :]
    w = take_row(refs.write, row, at) * _weights(spec, slots, refs.k[row, at, :])
    places, erase, state = take_row(refs.place, row, at), take_row(refs.fade, row, at), refs.carry[...]
    for chunk in range(cut.chunks):
        place = jnp.where(lanes_of(chunk, cut), places, PADDING)
        state = begin(place, refs.start[row], state)
        refs.states[piece * cut.chunks + chunk] = state
        own = _only(place, w)
        _, keep = _left(erase, own)
        state = keep * state + product(own.astype(value.dtype), value, 1, 0)
    refs.carry[...] = state


def backward(spec: Spec, cut: Cut, refs: Backward, row: Array, piece: Array) -> None:
    """Gradients of a piece, and of the states before it."""
    at = span(piece, cut.piece)
    slots, q, k, value, d_out = refs.slots[...], *(x[row, at, :] for x in (refs.q, refs.k, refs.value, refs.d_out))
    narrow = q.dtype
    slots = slots.astype(narrow)
    read, address = _weights(spec, slots, q), _weights(spec, slots, k)
    places, write, erase = take_row(refs.place, row, at), take_row(refs.write, row, at), take_row(refs.fade, row, at)
    d_read, d_w = jnp.zeros_like(read), jnp.zeros_like(read)
    d_value = jnp.zeros(value.shape, jnp.float32)
    d_erase = jnp.zeros_like(erase)
    d_state, d_start = refs.d_state[row], refs.d_start[row]
    for chunk in reversed(range(cut.chunks)):
        place = jnp.where(lanes_of(chunk, cut), places, PADDING)
        state = refs.states[piece * cut.chunks + chunk]
        w = _only(place, write * address)
        logs, keep = _left(erase, w)
        d_read += _only(place, product(state.astype(narrow), d_out, 1, 1))
        d_value += product(w.astype(narrow), d_state.astype(narrow), 0, 0)
        d_keep = (state * d_state).sum(axis=1, keepdims=True)
        d_left = d_keep * jnp.exp(logs.sum(axis=1, keepdims=True) - logs)
        d_w += _only(place, product(d_state.astype(narrow), value, 1, 1) - erase * d_left)
        d_erase -= (w * d_left).sum(axis=0, keepdims=True)
        before = keep * d_state + product(_only(place, read).astype(narrow), d_out, 1, 0)
        fresh = jnp.broadcast_to(opens(place), before.shape) == OPENING
        d_state, d_start = jnp.where(fresh, 0, before), d_start + jnp.where(fresh, before, 0)
    refs.d_state[row], refs.d_start[row] = d_state, d_start
    refs.d_value[row, at, :] = d_value.astype(narrow)
    put_row(refs.d_fade, row, at, d_erase)
    put_row(refs.d_write, row, at, (address * d_w).sum(axis=0, keepdims=True))
    for x, d_x, weight, d_weight in ((q, refs.d_q, read, d_read), (k, refs.d_k, address, write * d_w)):
        slope = weight * d_weight
        slope = (spec.scale * (slope - weight * slope.sum(axis=0, keepdims=True))).astype(narrow)
        d_x[row, at, :] = product(slope, slots, 0, 0).astype(narrow)
        refs.d_slots[...] += product(slope, x, 1, 0)
