"""The formula of `memory_bank_read`, with all scores at once, in float32 at least."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels.memory_bank_read.banks import MASKED, Bank, accumulator, rms_norm


def read(q: Float[Array, "T D"], banks: Sequence[Bank], scale: Float[Array, "1 d"], qk_norm: bool) -> Array:
    """sum over banks of sigmoid(gate) softmax(q (scale key)) value."""
    dtype = accumulator(q.dtype)
    queries = rms_norm(q) if qk_norm else q.astype(dtype)
    out = jnp.zeros(q.shape, dtype)
    for bank in banks:
        key = rms_norm(bank.key).astype(dtype) if qk_norm else bank.key.astype(dtype)
        scores = queries @ (key * scale).T
        if bank.allowed is not None:
            scores = jnp.where(bank.allowed[None], scores, MASKED)
        weight = jax.nn.softmax(scores, axis=-1)
        if bank.allowed is not None:
            weight = jnp.where(bank.allowed[None], weight, 0)
        found = weight @ bank.value.astype(dtype)
        if bank.gate is not None:
            gate = jax.nn.sigmoid(bank.gate.astype(dtype))
            found = found * (gate[:, None] if gate.ndim == 1 else gate)
        out += found
    return out.astype(q.dtype)
