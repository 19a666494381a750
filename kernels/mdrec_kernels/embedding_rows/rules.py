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


type Rows = tuple[Float[Array, "n D"], ...]
"""The table's rows, then those of the slots that are as wide."""
type Numbers = tuple[Array, ...]
"""Bool[n], whether a gradient reached the row, and what else a rule needs of it: Float[n]."""


@dataclass(frozen=True)
class Rule:
    """A rule in two steps: the numbers of each row, of which there are few, then the rows themselves.

    Args:
        numbers: (the slot of one number a row, or None; gradients) -> (the slot after the step; numbers for `move`).
        move: (rows, gradients, the numbers as columns [n, 1], lr) -> rows; elementwise.
    """

    numbers: Callable[[Any, Float[Array, "n D"]], tuple[Any, Numbers]]
    move: Callable[[Rows, Float[Array, "n D"], tuple[Array, ...], Array], Rows]

    def __call__(self, table: Array, slots: Any, grads: Array, lr: Array) -> tuple[Array, Any]:
        """(rows, slots) after the step."""
        wide, narrow = split(slots)
        narrow, numbers = self.numbers(narrow, grads)
        table, *wide = self.move((table, *wide), grads, tuple(x[:, None] for x in numbers), lr)
        return table, join(slots, tuple(wide), narrow)


def split(slots: Any) -> tuple[tuple[Array, ...], Array | None]:
    """The slots as wide as the table, and the one of one number a row."""
    match slots:
        case AdamSlots():
            return (slots.mu, slots.nu), slots.count
        case AdagradSlots():
            return (), slots.accumulator
        case _:
            return (), None


def join(slots: Any, wide: tuple[Array, ...], narrow: Array | None) -> Any:
    """The inverse of `split`, for slots of the kind of `slots`."""
    match slots:
        case AdamSlots():
            assert narrow is not None
            return AdamSlots(*wide, count=narrow)
        case AdagradSlots():
            assert narrow is not None
            return AdagradSlots(narrow)
        case _:
            return slots


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
    return jnp.where(touched, (wide - lr * change).astype(rows.dtype), rows)


def missing_weight(beta: float, n: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 - beta**n, without the cancellation that costs float32 four digits at n = 1, beta = 0.999."""
    return -jnp.expm1(n * math.log(beta)) if beta > 0 else jnp.ones_like(n)


def sgd(*, weight_decay: float) -> Rule:
    """w <- w - lr (g + weight_decay w)."""

    def numbers(_: None, grads: Array) -> tuple[None, Numbers]:
        return None, (_touched(grads),)

    def move(rows: Rows, grads: Array, columns: tuple[Array, ...], lr: Array) -> Rows:
        return (_step(rows[0], _wide(grads), lr, weight_decay, columns[0]),)

    return Rule(numbers, move)


def adagrad(*, eps: float, weight_decay: float) -> Rule:
    """a <- a + mean(g^2); w <- w - lr (g / (sqrt(a) + eps) + weight_decay w)."""

    def numbers(accumulator: Array, grads: Array) -> tuple[Array, Numbers]:
        g = _wide(grads)
        accumulator = accumulator + jnp.mean(g * g, axis=1).astype(accumulator.dtype)
        return accumulator, (_touched(grads), 1.0 / (jnp.sqrt(accumulator) + eps))

    def move(rows: Rows, grads: Array, columns: tuple[Array, ...], lr: Array) -> Rows:
        touched, scale = columns
        return (_step(rows[0], _wide(grads) * scale, lr, weight_decay, touched),)

    return Rule(numbers, move)


def adam(*, b1: float, b2: float, eps: float, weight_decay: float) -> Rule:
    """Adam on the clock of the row: `count` is the number of steps that touched it, and corrects the moments' bias."""

    def numbers(count: Array, grads: Array) -> tuple[Array, Numbers]:
        touched = _touched(grads)
        count = count + touched.astype(count.dtype)
        # A row never touched has count 0: 1 keeps 0/0 out of values that `where` throws away.
        n = jnp.maximum(count, 1).astype(np.promote_types(grads.dtype, np.float32))
        return count, (touched, 1.0 / missing_weight(b1, n), jax.lax.rsqrt(missing_weight(b2, n)))

    def move(rows: Rows, grads: Array, columns: tuple[Array, ...], lr: Array) -> Rows:
        (table, mu, nu), (touched, mu_scale, nu_scale), g = rows, columns, _wide(grads)
        new_mu = b1 * mu + (1.0 - b1) * g
        new_nu = b2 * nu + (1.0 - b2) * (g * g)
        change = mu_scale * new_mu / (jnp.sqrt(new_nu) * nu_scale + eps)
        table = _step(table, change, lr, weight_decay, touched)
        return table, jnp.where(touched, new_mu, mu), jnp.where(touched, new_nu, nu)

    return Rule(numbers, move)
