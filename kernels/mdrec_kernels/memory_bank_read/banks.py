"""What is read: the public `Bank`, and `Slots`, the same with scale, norm and mask worked into it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float

EPSILON = 1e-6
"""Added to the mean square under the root of a norm."""

MASKED = -1e30
"""Score of a slot that is not in use: finite, and its exponential is 0 beside any score a model makes."""

type Gate = Float[Array, "*T"] | Float[Array, "*T D"]
"""Before the sigmoid: one number a token, or one a channel of each token."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bank:
    """A learned memory of M slots that all tokens share.

    Args:
        key: what queries are compared with.
        value: what is read.
        gate: each token's gate, before the sigmoid; without one the bank is read in full.
        allowed: which slots are in use; by default all. Where none is, nothing is read.
    """

    key: Float[Array, "M D"]
    value: Float[Array, "M D"]
    gate: Gate | None = None
    allowed: Bool[Array, " M"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """A bank as the blocked forms read it, in the queries' type.

    Args:
        key: normed if queries are, times the scale.
        value: as in `Bank`.
        gate: [T, 1] or [T, D], before the sigmoid, or None.
        bias: 0 for a slot in use, `MASKED` for any other; None where all are.
    """

    key: Float[Array, "M D"]
    value: Float[Array, "M D"]
    gate: Float[Array, "T C"] | None
    bias: Float[Array, "1 M"] | None


def accumulator(dtype: DTypeLike) -> np.dtype:
    """The type of scores and sums."""
    return np.promote_types(dtype, np.float32)


def rms_norm(x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """x over the root of its mean square, in float32 at least."""
    x = x.astype(accumulator(x.dtype))
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON)


def slots(bank: Bank, scale: Array, qk_norm: bool, dtype: DTypeLike) -> Slots:
    """The bank with everything worked into it that has nothing to do with tokens."""
    key = rms_norm(bank.key) if qk_norm else bank.key.astype(accumulator(bank.key.dtype))
    gate = bank.gate
    return Slots(
        key=(key * scale.astype(key.dtype)).astype(dtype),
        value=bank.value.astype(dtype),
        gate=gate[:, None] if gate is not None and gate.ndim == 1 else gate,
        bias=None if bank.allowed is None else jnp.where(bank.allowed, 0, MASKED)[None].astype(accumulator(dtype)),
    )
