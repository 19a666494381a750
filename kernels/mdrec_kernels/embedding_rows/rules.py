"""What one step does to a row: SGD, row-wise Adagrad and lazy Adam, each written once for every mode.

A rule maps (rows [n, D], their slots, their gradients [n, D], lr) to (rows, slots). The rows may be the touched rows
of a table or the whole table: a row whose gradient is zero everywhere keeps its bits, and so do its slots, so both
ways give the same result. Everything is computed in float32 (float64 for a float64 table) and elementwise or along D,
so the whole-table form compiles to one fused pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SgdSlots:
    """SGD remembers nothing."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdagradSlots:
    """Row-wise Adagrad: one number a row."""

    accumulator: Float[Array, "V"]
    """Sum over steps of the mean over D of the squared gradient."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdamSlots:
    """Lazy Adam: two moments, and how often the row was touched."""

    mu: Float[Array, "V D"]
    nu: Float[Array, "V D"]
    count: Int[Array, "V"]


type Rule = Callable[[Array, Any, Array, Array], tuple[Array, Any]]


def _wide(x: Array) -> Array:
    """`x` in the precision that the rules compute in."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def _touched(grads: Float[Array, "n D"]) -> Bool[Array, "n"]:
    """Rows that a gradient reached. A NaN counts, so that it is seen and not swallowed."""
    return jnp.any(grads != 0, axis=1)


def _step(rows: Array, change: Array, lr: Array, weight_decay: float, touched: Array) -> Array:
    """rows - lr * (change + weight_decay * rows) where touched; decay is decoupled from the gradient's scale."""
    wide = _wide(rows)
    if weight_decay:
        change = change + weight_decay * wide
    return jnp.where(touched[:, None], (wide - lr * change).astype(rows.dtype), rows)


def missing_weight(beta: float, n: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 - beta**n, without the cancellation that costs float32 four digits at n = 1, beta = 0.999."""
    return -jnp.expm1(n * math.log(beta)) if beta > 0 else jnp.ones_like(n)


def sgd(*, weight_decay: float) -> Rule:
    """w <- w - lr (g + weight_decay w)."""

    def rule(rows: Array, slots: SgdSlots, grads: Array, lr: Array) -> tuple[Array, SgdSlots]:
        return _step(rows, _wide(grads), lr, weight_decay, _touched(grads)), slots

    return rule


def adagrad(*, eps: float, weight_decay: float) -> Rule:
    """a <- a + mean(g^2); w <- w - lr (g / (sqrt(a) + eps) + weight_decay w)."""

    def rule(rows: Array, slots: AdagradSlots, grads: Array, lr: Array) -> tuple[Array, AdagradSlots]:
        g = _wide(grads)
        accumulator = slots.accumulator + jnp.mean(g * g, axis=1).astype(slots.accumulator.dtype)
        scale = 1.0 / (jnp.sqrt(accumulator) + eps)
        return _step(rows, g * scale[:, None], lr, weight_decay, _touched(grads)), AdagradSlots(accumulator)

    return rule


def adam(*, b1: float, b2: float, eps: float, weight_decay: float) -> Rule:
    """Adam on the clock of the row: `count` is the number of steps that touched it, and corrects the moments' bias."""

    def rule(rows: Array, slots: AdamSlots, grads: Array, lr: Array) -> tuple[Array, AdamSlots]:
        g, touched = _wide(grads), _touched(grads)
        count = slots.count + touched.astype(slots.count.dtype)
        mu = b1 * slots.mu + (1.0 - b1) * g
        nu = b2 * slots.nu + (1.0 - b2) * (g * g)
        # A row never touched has count 0: 1 keeps 0/0 out of values that `where` throws away.
        n = jnp.maximum(count, 1).astype(g.dtype)
        mu_scale = 1.0 / missing_weight(b1, n)
        nu_scale = jax.lax.rsqrt(missing_weight(b2, n))
        change = mu_scale[:, None] * mu / (jnp.sqrt(nu) * nu_scale[:, None] + eps)
        keep = touched[:, None]
        slots = AdamSlots(jnp.where(keep, mu, slots.mu), jnp.where(keep, nu, slots.nu), count)
        return _step(rows, change, lr, weight_decay, touched), slots

    return rule
