"""The formula of `delta_memory_scan`, one token after the other, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels.delta_memory_scan.places import openings
from mdrec_kernels.delta_memory_scan.spec import PADDING, Inputs, Spec


def scan(spec: Spec, inputs: Inputs, place: Int[Array, "R T"]) -> tuple[Float[Array, "R T V"], Float[Array, "R K V"]]:
    """Outputs, and the state after the last token."""

    def token(state: Array, at: tuple) -> tuple:
        opens, counts, q, k, value, write, fade = at
        state = jnp.where(opens[:, None, None], inputs.state, state)
        faded = jnp.where(counts, jnp.exp(fade), 1)[:, :, None] * state
        wrong = jnp.where(counts, write * (value - jnp.einsum("rk,rkv->rv", k, faded)), 0)
        state = faded + k[:, :, None] * wrong[:, None, :]
        return state, jnp.where(counts, spec.scale * jnp.einsum("rk,rkv->rv", q, state), 0)

    state, out = jax.lax.scan(token, inputs.state, _columns(spec, inputs, place))
    return out.swapaxes(0, 1).astype(inputs.q.dtype), state


def _columns(spec: Spec, inputs: Inputs, place: Array) -> tuple[Array, ...]:
    """Per column: does a segment open [R], does the token count [R, 1], and its inputs."""
    begins = jnp.arange(place.shape[1]) % spec.chunk == 0
    opens = jnp.repeat(openings(place, spec.chunk), spec.chunk, axis=1) & begins[None]
    gates = inputs.write[:, :, None], inputs.fade[:, :, None]
    tokens = (x.astype(inputs.dtype) for x in (inputs.q, inputs.k, inputs.value, *gates))
    return tuple(x.swapaxes(0, 1) for x in (opens, (place != PADDING)[:, :, None], *tokens))
