"""The formula of `slot_memory_scan`, one token after the other, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels.slot_memory_scan.places import openings
from mdrec_kernels.slot_memory_scan.spec import PADDING, Inputs, Spec


def scan(spec: Spec, inputs: Inputs, place: Int[Array, "R T"]) -> tuple[Float[Array, "R T V"], Float[Array, "R M V"]]:
    """Outputs, and the state after the last token."""
    return _erase(spec, inputs, place) if spec.mode == "erase" else _delta(spec, inputs, place)


def _erase(spec: Spec, inputs: Inputs, place: Array) -> tuple[Array, Array]:
    """Carried: the state at the chunk's start, what the chunk's tokens keep of it, and what they add to it."""
    slots = inputs.slots.astype(inputs.dtype)

    def token(carry: tuple, at: tuple) -> tuple:
        state, keep, added = carry
        begins, opens, counts, q, k, value, write, erase = at
        state = jnp.where(begins, state * keep[:, :, None] + added, state)
        keep, added = jnp.where(begins, 1, keep), jnp.where(begins, 0, added)
        state = jnp.where(opens[:, None, None], inputs.state, state)
        read = jnp.where(counts, jax.nn.softmax(spec.scale * q @ slots.T, axis=-1), 0)
        w = jnp.where(counts, write * jax.nn.softmax(spec.scale * k @ slots.T, axis=-1), 0)
        out = jnp.einsum("rm,rmv->rv", read, state)
        return (state, keep * (1 - w * erase), added + w[:, :, None] * value[:, None, :]), out

    begin = inputs.state, jnp.ones_like(inputs.state[:, :, 0]), jnp.zeros_like(inputs.state)
    (state, keep, added), out = jax.lax.scan(token, begin, _columns(spec, inputs, place))
    return out.swapaxes(0, 1).astype(inputs.q.dtype), state * keep[:, :, None] + added


def _delta(spec: Spec, inputs: Inputs, place: Array) -> tuple[Array, Array]:
    def token(state: Array, at: tuple) -> tuple:
        _, opens, counts, q, k, value, write, fade = at
        state = jnp.where(opens[:, None, None], inputs.state, state)
        faded = jnp.where(counts, jnp.exp(fade), 1)[:, :, None] * state
        wrong = jnp.where(counts, write * (value - jnp.einsum("rk,rkv->rv", k, faded)), 0)
        state = faded + k[:, :, None] * wrong[:, None, :]
        return state, jnp.where(counts, spec.scale * jnp.einsum("rk,rkv->rv", q, state), 0)

    state, out = jax.lax.scan(token, inputs.state, _columns(spec, inputs, place))
    return out.swapaxes(0, 1).astype(inputs.q.dtype), state


def _columns(spec: Spec, inputs: Inputs, place: Array) -> tuple[Array, ...]:
    """Per column: does a chunk begin, does a segment open [R], does the token count [R, 1], and its inputs."""
    begins = jnp.arange(place.shape[1]) % spec.chunk == 0
    opens = jnp.repeat(openings(place, spec.chunk), spec.chunk, axis=1) & begins[None]
    gates = inputs.write[:, :, None], inputs.fade[:, :, None]
    tokens = (x.astype(inputs.dtype) for x in (inputs.q, inputs.k, inputs.value, *gates))
    return begins, *(x.swapaxes(0, 1) for x in (opens, (place != PADDING)[:, :, None], *tokens))
