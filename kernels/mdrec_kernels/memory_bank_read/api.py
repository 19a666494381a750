"""The public function of `memory_bank_read`."""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels import dispatch
from mdrec_kernels.dispatch import Implementation
from mdrec_kernels.memory_bank_read import cudnn, pallas_tpu, reference, xla
from mdrec_kernels.memory_bank_read.banks import Bank, accumulator
from mdrec_kernels.varying import vary_together


def memory_bank_read(
    q: Float[Array, "*T D"],
    banks: Sequence[Bank],
    *,
    scale: float | Float[Array, ""] | Float[Array, " D"] | None = None,
    qk_norm: bool = True,
    rows: int | None = None,
    implementation: Implementation = None,
) -> Float[Array, "*T D"]:
    """The sum over banks of sigmoid(gate) softmax(norm(q) . scale norm(key)) value.

    Learned banks as in "Adaptive loops and memory" (arXiv 2603.08391): one local to a layer, one for all layers, each
    behind its own gate. A projection of what is read from a bank belongs into its values, which are few. The scores of
    tokens against slots are never held, but for a block of tokens.

    Args:
        q: queries, any leading axes; float32, bfloat16 or float64. Products are taken in this type and summed in
            float32 at least.
        banks: what is read, at least one; their gates' leading axes are q's.
        scale: factor of the scores, a number or one for each channel; by default D ** -0.5. Differentiable.
        qk_norm: divide queries and keys by the root of their mean square (over D, plus 1e-6).
        rows: how many tokens are scored at a time; by default by shape and platform.
        implementation: "xla", "pallas_tpu", "cudnn", "reference", or a sequence of names to try in turn.

    Returns:
        As q. Differentiable once, in reverse mode, in q, keys, values, gates and scale.

    Raises:
        ValueError: shapes or types that do not fit each other.
    """
    _check(q, banks)
    leading, width = q.shape[:-1], q.shape[-1]
    flat = q.reshape(-1, width)
    factor = jnp.asarray(width**-0.5 if scale is None else scale).astype(accumulator(q.dtype))
    if factor.ndim == 0:
        factor = factor.reshape(1)
    held = tuple(replace(bank, gate=_flat(bank.gate, len(leading))) for bank in banks)
    flat, held, factor = vary_together(flat, held, factor)
    factor = factor[None]
    forms = {
        "reference": lambda: reference.read(flat, held, factor, qk_norm),
        "xla": lambda: xla.read(flat, held, factor, qk_norm, rows),
        "pallas_tpu": lambda: pallas_tpu.read(flat, held, factor, qk_norm, rows),
        "cudnn": lambda: cudnn.read(flat, held, factor, qk_norm),
    }
    return dispatch.run("memory_bank_read", forms, implementation).reshape(q.shape)


def _flat(gate: Array | None, leading: int) -> Array | None:
    return None if gate is None else gate.reshape(-1, *gate.shape[leading:])


def _check(q: Array, banks: Sequence[Bank]) -> None:
    """Refuse what has no meaning."""
    if not banks:
        raise ValueError("expected at least one bank")
    if q.ndim < 1 or q.dtype not in (jnp.float32, jnp.bfloat16, jnp.float64):
        raise ValueError(f"expected float32, bfloat16 or float64 queries [..., D], found {q.dtype} {q.shape}")
    for bank in banks:
        if bank.key.ndim != 2 or bank.key.shape != bank.value.shape or bank.key.shape[1] != q.shape[-1]:
            found = f"{bank.key.shape} and {bank.value.shape}"
            raise ValueError(f"expected keys and values [M, {q.shape[-1]}], found {found}")
        if bank.gate is not None and bank.gate.shape not in (q.shape[:-1], q.shape):
            raise ValueError(f"expected a gate {q.shape[:-1]} or {q.shape}, found {bank.gate.shape}")
        if bank.allowed is not None and bank.allowed.shape != bank.key.shape[:1]:
            raise ValueError(f"expected allowed {bank.key.shape[:1]}, found {bank.allowed.shape}")
