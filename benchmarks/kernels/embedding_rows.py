"""Speed and memory of `embedding_rows`: one training step's lookup and update, beside Adam on the whole table.

    python benchmarks/kernels/embedding_rows.py [--shape catalogue-2m ...] [--rounds 12] [--json FILE]

For each shape one table, as `mdrec_kernels.bench` describes it; tables and slots are donated. The last row is
optax.adam's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from mdrec_kernels.bench import Case, main
from mdrec_kernels.embedding_rows.cases import NAIVE, whole_table
from mdrec_kernels.embedding_rows.shapes import Shape


def optax_adam(shape: Shape) -> list[Case]:
    """optax.adam on the whole table."""
    rule = optax.adam(1e-3)

    def step(state: tuple, gradient: jax.Array) -> tuple:
        table, slots = state
        updates, slots = rule.update(gradient, slots)
        return optax.apply_updates(table, updates), slots

    def make() -> tuple[Any, ...]:
        table = jnp.zeros((shape.V, shape.D))
        return (table, rule.init(table)), jnp.full((shape.V, shape.D), 1e-3)

    return [whole_table(shape, "optax.adam", step, make, NAIVE)]


if __name__ == "__main__":
    main("embedding_rows", __doc__, more=optax_adam)
