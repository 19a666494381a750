"""`memory_bank_read` a block of tokens at a time, in plain JAX."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from mdrec_kernels import dispatch
from mdrec_kernels.memory_bank_read import block
from mdrec_kernels.memory_bank_read.banks import Bank, Slots, accumulator, slots
from mdrec_kernels.varying import zeros

CPU_BYTES, ACCELERATOR_BYTES = 4 * 2**20, 32 * 2**20
"""Of a block of scores: on a CPU it is to stay in the cache."""


def read(
    q: Float[Array, "T D"], banks: Sequence[Bank], scale: Float[Array, "1 d"], qk_norm: bool, rows: int | None
) -> Float[Array, "T D"]:
    """What `memory_bank_read` returns, for q of one leading axis."""
    most = max(bank.key.shape[0] for bank in banks)
    held = tuple(slots(bank, scale, qk_norm, q.dtype) for bank in banks)
    rows = min(q.shape[0], rows or _usual_rows(most))
    return _read(qk_norm, rows, q, held) if rows else q


def _usual_rows(slots: int) -> int:
    room = CPU_BYTES if dispatch.platform() == "cpu" else ACCELERATOR_BYTES
    return max(128, room // (4 * max(slots, 1)) // 64 * 64)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _read(qk_norm: bool, rows: int, q: Float[Array, "T D"], banks: tuple[Slots, ...]) -> Float[Array, "T D"]:
    def body(i: Array, out: Array) -> Array:
        start, _ = _place(i, rows, q.shape[0])
        part = block.forward(lax.dynamic_slice_in_dim(q, start, rows), _of_rows(banks, start, rows), qk_norm)
        return lax.dynamic_update_slice_in_dim(out, part.astype(out.dtype), start, 0)

    return lax.fori_loop(0, -(-q.shape[0] // rows), body, zeros(q.shape, q.dtype, q))


def _place(i: Array, rows: int, tokens: int) -> tuple[Array, Array]:
    """The first row of a block, and which of its rows are new: the last block reaches back, so that all are full."""
    start = jnp.minimum(i * rows, tokens - rows)
    return start, (start + jnp.arange(rows) >= i * rows)[:, None]


def _of_rows(banks: tuple[Slots, ...], start: Array, rows: int) -> list[Slots]:
    """The banks with the gates of a block of tokens."""
    return [
        replace(one, gate=None if one.gate is None else lax.dynamic_slice_in_dim(one.gate, start, rows))
        for one in banks
    ]


def _forward(qk_norm: bool, rows: int, q: Array, banks: tuple[Slots, ...]) -> tuple[Array, tuple]:
    return _read(qk_norm, rows, q, banks), (q, banks)


def _backward(qk_norm: bool, rows: int, kept: tuple, d_out: Array) -> tuple[Array, tuple[Slots, ...]]:
    q, banks = kept
    dtype = accumulator(q.dtype)

    def body(i: Array, state: tuple) -> tuple:
        dq, d_banks = state
        start, new = _place(i, rows, q.shape[0])
        # What the block before has counted already adds nothing to the slots.
        own, d_own = lax.dynamic_slice_in_dim(q, start, rows), lax.dynamic_slice_in_dim(d_out, start, rows)
        part, found = block.backward(own, jnp.where(new, d_own, 0), _of_rows(banks, start, rows), qk_norm)
        added = []
        for (d_key, d_value, d_gate), (key, value, gate) in zip(d_banks, found, strict=True):
            added.append((d_key + key, d_value + value, _put(d_gate, gate, start, new)))
        return _put(dq, part, start, new), added

    start = [(*(zeros(one.key.shape[::-1], dtype, q),) * 2, _zeros_like(one.gate, q)) for one in banks]
    dq, found = lax.fori_loop(0, -(-q.shape[0] // rows), body, (zeros(q.shape, q.dtype, q), start))
    gradients = [
        Slots(d_key.T.astype(q.dtype), d_value.T.astype(q.dtype), d_gate, None if one.bias is None else 0 * one.bias)
        for one, (d_key, d_value, d_gate) in zip(banks, found, strict=True)
    ]
    return dq, tuple(gradients)


def _zeros_like(x: Array | None, like: Array) -> Array | None:
    return None if x is None else zeros(x.shape, x.dtype, like)


def _put(x: Array | None, part: Array | None, start: Array, new: Array) -> Array | None:
    """x with its new rows from `start` on set."""
    if x is None or part is None:
        return x
    old = lax.dynamic_slice_in_dim(x, start, part.shape[0])
    return lax.dynamic_update_slice_in_dim(x, jnp.where(new, part.astype(x.dtype), old), start, 0)


_read.defvjp(_forward, _backward)
