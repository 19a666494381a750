"""Gradients of this device's rows: at once, or in micro-batches one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mdrec_jax.parallel.tables import Lookup
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Rows

type Metrics = dict[str, jax.Array]
type Loss = Callable[[Any, dict[str, Rows], Batch, jax.Array, jax.Array], tuple[jax.Array, Metrics]]
"""(dense parameters, rows, batch, number of the batch's first row, key) -> (part of the loss, of numbers to show)."""


def gradients(
    loss: Loss,
    state: TrainState,
    rows: Lookup,
    batch: Batch,
    key: jax.Array,
    *,
    first_row: jax.Array,
    shared: frozenset[str] = frozenset(),
    micro_batches: int = 1,
) -> tuple[Any, dict[str, jax.Array], Metrics]:
    """Sums over this device's rows: of the dense parameters' gradient, of the looked up rows', and of the metrics.

    Args:
        loss: differentiated with respect to the dense parameters and the rows' values.
        rows: what was looked up for the batch.
        batch: this device's rows; `first_row` is the global number of the first.
        key: of whatever the loss draws.
        shared: names under which rows were looked up for the batch as a whole; the others' index has its rows.
        micro_batches: how many, which saves memory and changes no result.
    """

    def of_part(start: jax.Array, size: int) -> Any:
        def cut(tree: Any) -> Any:
            if size == batch.item.shape[0]:
                return tree
            return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree)

        index = {
            table: {name: ids if name in shared else cut(ids) for name, ids in names.items()}
            for table, names in rows.index.items()
        }

        def value(dense: Any, values: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
            found = {name: Rows(values[name], index[name]) for name in values}
            return loss(dense, found, cut(batch), first_row + start, key)

        (dense, row), metrics = jax.grad(value, argnums=(0, 1), has_aux=True)(state.params.dense, rows.values)
        return dense, row, metrics

    size = batch.item.shape[0] // micro_batches
    total = of_part(jnp.int32(0), size)
    if micro_batches == 1:
        return total

    def add(total: Any, start: jax.Array) -> Any:
        return jax.tree.map(jnp.add, total, of_part(start, size)), None

    return jax.lax.scan(add, total, jnp.arange(1, micro_batches, dtype=jnp.int32) * size)[0]
