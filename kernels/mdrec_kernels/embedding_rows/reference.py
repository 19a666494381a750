"""The formulas of `embedding_rows`, written for reading: every rule as a pass over the whole table."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.embedding_rows.rules import AdagradSlots, AdamSlots, SgdSlots, missing_weight


def deduplicate(ids: Int[Array, "n"], length: int, slots: int) -> tuple[Int[Array, "N"], Int[Array, "n"]]:
    """The distinct ids in ascending order, filled up with `length`, and where each of `ids` stands among them."""
    ids = jnp.where((ids >= 0) & (ids < length), ids, length).astype(jnp.int32)
    unique, index = jnp.unique(ids, size=slots, fill_value=length, return_inverse=True)
    return unique, index.astype(jnp.int32)


def gather(table: Float[Array, "V D"], unique_ids: Int[Array, "N"]) -> Float[Array, "N D"]:
    """Rows of the table; zeros for ids past its end."""
    rows = table[jnp.minimum(unique_ids, table.shape[0] - 1)]
    return jnp.where((unique_ids < table.shape[0])[:, None], rows, 0)


def spread(unique_ids: Int[Array, "N"], row_grads: Float[Array, "N D"], length: int) -> Float[Array, "V D"]:
    """The dense gradient whose rows `unique_ids` are `row_grads`."""
    return jnp.zeros((length, row_grads.shape[1]), row_grads.dtype).at[unique_ids].add(row_grads, mode="drop")


def _moved(
    table: Float[Array, "V D"], change: Float[Array, "V D"], touched: Bool[Array, "V 1"], lr: Array
) -> Float[Array, "V D"]:
    return jnp.where(touched, (table - lr * change).astype(table.dtype), table)


def sgd(
    table: Float[Array, "V D"], slots: SgdSlots, grad: Float[Array, "V D"], lr: Array, *, weight_decay: float
) -> tuple[Float[Array, "V D"], SgdSlots]:
    """w <- w - lr (g + weight_decay w) for rows with a gradient."""
    touched = (grad != 0).any(1, keepdims=True)
    return _moved(table, grad + weight_decay * table, touched, lr), slots


def adagrad(
    table: Float[Array, "V D"],
    slots: AdagradSlots,
    grad: Float[Array, "V D"],
    lr: Array,
    *,
    eps: float,
    weight_decay: float,
) -> tuple[Float[Array, "V D"], AdagradSlots]:
    """a <- a + mean(g^2); w <- w - lr (g / (sqrt(a) + eps) + weight_decay w)."""
    touched = (grad != 0).any(1, keepdims=True)
    accumulator = slots.accumulator + (grad**2).mean(1)
    change = grad / (jnp.sqrt(accumulator)[:, None] + eps) + weight_decay * table
    return _moved(table, change, touched, lr), AdagradSlots(accumulator)


def adam(
    table: Float[Array, "V D"],
    slots: AdamSlots,
    grad: Float[Array, "V D"],
    lr: Array,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Float[Array, "V D"], AdamSlots]:
    """Adam (Kingma and Ba 2015, algorithm 1) on every row with a gradient, t being the row's own count."""
    touched = (grad != 0).any(1, keepdims=True)
    count = slots.count + touched[:, 0]
    t = jnp.where(touched, count[:, None], 1).astype(table.dtype)
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * grad**2
    mu_hat, nu_hat = mu / missing_weight(b1, t), nu / missing_weight(b2, t)
    change = mu_hat / (jnp.sqrt(nu_hat) + eps) + weight_decay * table
    new = AdamSlots(jnp.where(touched, mu, slots.mu), jnp.where(touched, nu, slots.nu), count)
    return _moved(table, change, touched, lr), new
