"""`memory_bank_read` as attention by cuDNN, on GPUs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels import dispatch
from mdrec_kernels.memory_bank_read.banks import Bank, accumulator, rms_norm, slots

PARTS = 16
"""Into how many sequences the tokens are cut: cuDNN spreads the gradients of keys and values over those."""


def read(q: Float[Array, "T D"], banks: Sequence[Bank], scale: Float[Array, "1 d"], qk_norm: bool) -> Array:
    """What `memory_bank_read` returns, for q of one leading axis.

    Raises:
        NotImplementedError: no GPU, or what cuDNN does not take: other types than bfloat16, widths over 256 or not a
            multiple of 8, slots that are not in use.
    """
    tokens, width = q.shape
    if dispatch.platform() != "gpu":
        raise NotImplementedError(f"cuDNN is for GPUs, and the platform is {dispatch.platform()}")
    if q.dtype != jnp.bfloat16 or width > 256 or width % 8:
        raise NotImplementedError(f"cuDNN takes bfloat16 of a width up to 256, a multiple of 8, not {q.dtype} {width}")
    if any(bank.allowed is not None for bank in banks):
        raise NotImplementedError("slots that are not in use")
    if tokens == 0:
        return q
    parts = PARTS if tokens % PARTS == 0 else 1
    queries = (rms_norm(q).astype(q.dtype) if qk_norm else q).reshape(parts, -1, 1, width)
    out = jnp.zeros(q.shape, accumulator(q.dtype))
    for bank in banks:
        held = slots(bank, scale, qk_norm, q.dtype)
        key, value = (jnp.broadcast_to(x[None, :, None], (parts, x.shape[0], 1, width)) for x in (held.key, held.value))
        found = _attention(queries, key, value).reshape(q.shape).astype(out.dtype)
        out += found if held.gate is None else found * jax.nn.sigmoid(held.gate.astype(out.dtype))
    return out.astype(q.dtype)


def _attention(q: Float[Array, "p t 1 D"], key: Float[Array, "p M 1 D"], value: Float[Array, "p M 1 D"]) -> Array:
    try:
        return jax.nn.dot_product_attention(q, key, value, scale=1.0, implementation="cudnn")
    except RuntimeError as reason:  # no cuDNN is installed, or the GPU is not NVIDIA's
        raise NotImplementedError(str(reason)) from reason
