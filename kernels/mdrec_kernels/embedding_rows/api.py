"""Public functions of `embedding_rows`.

A step with a sampled loss touches a few thousand rows of a table that may hold many millions. `lookup` reads each
touched row once; the loss is differentiated with respect to those rows; `update_*` writes them back. Nothing of the
table's length is ever made, and with the table and slots donated to `jax.jit` the update is in place. Without ids they
are the same rules for a loss whose gradient reaches every row, in one pass over the table.

A row moves when its gradient is not zero everywhere, and only then: moments do not decay and weights do not shrink
behind a row's back. So both forms give the same table from the same gradient.

Results are deterministic. (Summing the gradients of equal ids is the transpose of `values[index]`, made outside; on a
GPU that scatter-add is deterministic under `--xla_gpu_deterministic_ops=true`, on CPU and TPU always.)
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.dispatch import Implementation
from mdrec_kernels.embedding_rows import pallas_tpu, reference, rules, xla
from mdrec_kernels.embedding_rows.rules import AdagradSlots, AdamSlots, Rule, SgdSlots

type Scalar = float | Array


def lookup(
    table: Float[Array, "V D"],
    ids: Mapping[str, Int[Array, "..."]],
    *,
    max_rows: int | None = None,
    implementation: Implementation = None,
) -> tuple[Float[Array, "N D"], Int[Array, "N"], dict[str, Int[Array, "..."]]]:
    """Read every row that any of `ids` names, once.

    Args:
        table: [V, D].
        ids: name -> row numbers of any shape. A number outside 0 .. V-1 names no row: it reads zeros, and no update
            reaches the table through it.
        max_rows: number of slots N; by default the smallest that can never overflow, min(number of ids, V + 1).
        implementation: "xla", "pallas_tpu", "reference", or a sequence of names to try in turn.

    Returns:
        values [N, D]: the rows, zeros in unused slots.
        unique_ids [N]: their row numbers, distinct and ascending, then V in unused slots.
        index: name -> int32 of the shape of its ids, so that `values[index[name]]` is `table[ids[name]]`.

    Raises:
        ValueError: `max_rows` is so small that some ids could be left without a slot.
    """
    flat = [jnp.ravel(x) for x in ids.values()]
    total = sum(x.size for x in flat)
    needed = min(total, table.shape[0] + 1)
    if max_rows is not None and max_rows < needed:
        raise ValueError(f"max_rows is {max_rows}, but {total} ids can name {needed} different rows")
    names = jnp.concatenate(flat)

    def look_up(distinct: Any, rows: Any) -> tuple[Array, Array, Array]:
        unique, place = distinct.deduplicate(names, table.shape[0], max_rows or needed)
        return rows.gather(table, unique), unique, place

    forms = {
        "reference": lambda: look_up(reference, reference),
        "xla": lambda: look_up(xla, xla),
        "pallas_tpu": lambda: look_up(xla, pallas_tpu),
    }
    values, unique, place = dispatch.run("embedding_rows.lookup", forms, implementation)
    index, start = {}, 0
    for name, x in ids.items():
        index[name] = place[start : start + x.size].reshape(x.shape)
        start += x.size
    return values, unique, index


def init_sgd(table: Float[Array, "V D"]) -> SgdSlots:  # noqa: ARG001 - one form for all rules
    """Slots of SGD: none."""
    return SgdSlots()


def init_adagrad(table: Float[Array, "V D"], *, initial: float = 0.1) -> AdagradSlots:
    """Slots of row-wise Adagrad; `initial` keeps the first steps from being lr whatever the gradient's size."""
    return AdagradSlots(jnp.full((table.shape[0],), initial, np.promote_types(table.dtype, np.float32)))


def init_adam(table: Float[Array, "V D"]) -> AdamSlots:
    """Slots of lazy Adam: two moments of the table's shape and a count a row."""
    dtype = np.promote_types(table.dtype, np.float32)
    return AdamSlots(
        jnp.zeros(table.shape, dtype), jnp.zeros(table.shape, dtype), jnp.zeros((table.shape[0],), jnp.int32)
    )


def _update(
    rule: Rule,
    formula: Callable[..., tuple[Array, Any]],
    table: Array,
    slots: Any,
    unique_ids: Array | None,
    row_grads: Array,
    lr: Scalar,
    implementation: Implementation,
) -> tuple[Array, Any]:
    """Apply the rule, or the reference's formula for it, to the rows `unique_ids`; None: to every row."""
    rows = table.shape[0] if unique_ids is None else unique_ids.size
    if row_grads.shape != (rows, table.shape[1]):
        raise ValueError(f"row_grads is {row_grads.shape}, expected {(rows, table.shape[1])}")
    rate = jnp.asarray(lr, np.promote_types(table.dtype, np.float32))
    if unique_ids is None:
        whole = {
            "reference": lambda: formula(table, slots, row_grads, rate),
            "xla": lambda: rule(table, slots, row_grads, rate),
        }
        return dispatch.run("embedding_rows.dense", whole, implementation)
    forms = {
        "reference": lambda: formula(table, slots, reference.spread(unique_ids, row_grads, table.shape[0]), rate),
        "xla": lambda: xla.update(rule, table, slots, unique_ids, row_grads, rate),
        "pallas_tpu": lambda: pallas_tpu.update(rule, table, slots, unique_ids, row_grads, rate),
    }
    return dispatch.run("embedding_rows.update", forms, implementation)


def update_sgd(
    table: Float[Array, "V D"],
    slots: SgdSlots,
    unique_ids: Int[Array, "N"] | None,
    row_grads: Float[Array, "N D"],
    lr: Scalar,
    *,
    weight_decay: float = 0.0,
    implementation: Implementation = None,
) -> tuple[Float[Array, "V D"], SgdSlots]:
    """w <- w - lr (g + weight_decay w), for the rows `unique_ids`.

    Args:
        table: [V, D]; donate it (and the slots) to the surrounding `jax.jit` and it is updated in place.
        slots: `init_sgd(table)`, which is empty.
        unique_ids: distinct and ascending, those >= V name no row: what `lookup` returned; None: every row.
        row_grads: the gradient of the loss with respect to the values that `lookup` returned, or to the table [V, D]:
            rows whose gradient is zero everywhere keep their bits.
        lr: learning rate, a number or a scalar array.
        weight_decay: decoupled decay of the rows that have a gradient.
        implementation: "xla", "pallas_tpu", "reference", or a sequence of names to try in turn.

    Returns:
        The table and the slots after the step.
    """
    settings = {"weight_decay": weight_decay}
    rule, formula = rules.sgd(**settings), partial(reference.sgd, **settings)
    return _update(rule, formula, table, slots, unique_ids, row_grads, lr, implementation)


def update_adagrad(
    table: Float[Array, "V D"],
    slots: AdagradSlots,
    unique_ids: Int[Array, "N"] | None,
    row_grads: Float[Array, "N D"],
    lr: Scalar,
    *,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    implementation: Implementation = None,
) -> tuple[Float[Array, "V D"], AdagradSlots]:
    """Row-wise Adagrad: a <- a + mean(g^2); w <- w - lr (g / (sqrt(a) + eps) + weight_decay w).

    One accumulator a row (Gupta et al., 2014, "Training highly multiclass classifiers"; the usual choice for large
    recommendation tables): the slots cost 4 bytes a row, not 4 D. Arguments as for `update_sgd`.
    """
    settings = {"eps": eps, "weight_decay": weight_decay}
    rule, formula = rules.adagrad(**settings), partial(reference.adagrad, **settings)
    return _update(rule, formula, table, slots, unique_ids, row_grads, lr, implementation)


def update_adam(
    table: Float[Array, "V D"],
    slots: AdamSlots,
    unique_ids: Int[Array, "N"] | None,
    row_grads: Float[Array, "N D"],
    lr: Scalar,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    implementation: Implementation = None,
) -> tuple[Float[Array, "V D"], AdamSlots]:
    """Lazy Adam (Kingma and Ba, 2015, algorithm 1, on a clock of the row's own).

    Moments move, and the bias correction's count grows, only in the steps in which the row has a gradient. The count
    is the row's own because the moments are: with the global step, a row first seen late would have moments of one
    step corrected as if they had thousands, and would jump by (1 - b1) / sqrt(1 - b2) = 3.2 learning rates at the
    default betas where Adam's first step is one. A table whose rows all have a gradient in every step (full softmax)
    gets exactly Adam. Arguments as for `update_sgd`.
    """
    settings = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay}
    rule, formula = rules.adam(**settings), partial(reference.adam, **settings)
    return _update(rule, formula, table, slots, unique_ids, row_grads, lr, implementation)
