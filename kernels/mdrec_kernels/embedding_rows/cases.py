"""What `embedding_rows` is compared with: Adam on the whole table, from a gradient of the whole table."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels import embedding_rows as er
from mdrec_kernels.bench import Case
from mdrec_kernels.embedding_rows.shapes import Shape
from mdrec_kernels.roofline import Work

NAIVE = "adam on the whole table"
RULES = {
    "sgd": (er.update_sgd, er.init_sgd, 0),
    "row-wise adagrad": (er.update_adagrad, er.init_adagrad, 0),
    "lazy adam": (er.update_adam, er.init_adam, 2),
}
"""Update, initial slots, and how many slots are as wide as a row."""


def draw_ids(shape: Shape) -> jax.Array:
    """Ids as skewed as those of a log: popularity falls as 1 / rank, and ranks are spread over the ids."""
    rng = np.random.default_rng(0)
    rank = (shape.V ** rng.random(shape.ids)).astype(np.int64)
    return jnp.asarray(rank * 2_654_435_761 % shape.V, jnp.int32)


def naive_adam(state: tuple, gradient: jax.Array) -> tuple:
    """Adam as it is written down (Kingma and Ba 2015, algorithm 1), on a whole table."""
    table, first, second, count = state
    count = count + 1
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    step = first / (1 - 0.9**count) / (jnp.sqrt(second / (1 - 0.999**count)) + 1e-8)
    return table - 1e-3 * step, first, second, count


def whole_table(shape: Shape, name: str, f: Callable, make: Callable[[], tuple], naive: str | None = None) -> Case:
    """Adam on a whole table: f(state, gradient) -> state."""
    work = Work(0, 7 * 4.0 * shape.V * shape.D)
    return Case(name, f, make, work, shape.ids, naive, carries=True, apart=True)


def cases(shape: Shape) -> list[Case]:
    """One training step's lookup and update by each rule; tables and slots are donated."""
    distinct = int(np.unique(np.asarray(draw_ids(shape))).size)

    def table() -> jax.Array:
        return jnp.zeros((shape.V, shape.D))

    def gradient() -> jax.Array:
        return jnp.full((shape.V, shape.D), 1e-3)

    def dense(state: tuple, gradient: jax.Array) -> tuple:
        return er.update_adam(state[0], state[1], None, gradient, 1e-3)

    found = [
        whole_table(shape, NAIVE, naive_adam, lambda: ((table(), table(), table(), jnp.float32(0)), gradient())),
        whole_table(shape, "adam, every row", dense, lambda: ((table(), er.init_adam(table())), gradient()), NAIVE),
    ]
    for name, (update, init, wide) in RULES.items():
        # Read and write the row and its slots; read each id's gradient.
        moved = 4.0 * shape.D * (distinct * (2 + 2 * wide) + shape.ids)
        found.append(
            Case(
                f"lookup, {name}",
                partial(_step, update),
                lambda init=init: ((table(), init(table())), draw_ids(shape)),
                Work(0, moved),
                shape.ids,
                naive=NAIVE,
                carries=True,
                apart=True,
            )
        )
    return found


def _step(update: Callable, state: tuple, ids: jax.Array) -> tuple:
    table, slots = state
    values, unique, index = er.lookup(table, {"all": ids})
    gradients = jax.grad(lambda values: (values[index["all"]] - 1.0).sum())(values)
    return update(table, slots, unique, gradients, 1e-3)
