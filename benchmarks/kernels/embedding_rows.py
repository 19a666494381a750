"""Speed and memory of `embedding_rows`: one training step's lookup and update, beside dense Adam on the whole table.

    python benchmarks/kernels/embedding_rows.py [--shape catalogue-2m ...] [--rounds 12] [--json FILE]

For each shape one table. The forms take turns, and of each the fastest round counts. "to dense": optax.adam's time for
the whole table, from a dense gradient, over the form's time. "temp MiB": what the compiled program needs beside its
inputs and outputs; tables and slots are donated.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from mdrec_kernels import embedding_rows as er
from mdrec_kernels.embedding_rows.shapes import SHAPES, Shape

RULES = {
    "sgd": (er.update_sgd, er.init_sgd),
    "row-wise adagrad": (er.update_adagrad, er.init_adagrad),
    "lazy adam": (er.update_adam, er.init_adam),
}


@dataclass(frozen=True)
class Row:
    """One form at one shape."""

    shape: str
    name: str
    seconds: float
    to_dense: float
    temp_mib: float


def draw_ids(shape: Shape) -> jax.Array:
    """Ids as skewed as those of a log: popularity falls as 1 / rank, and ranks are spread over the ids."""
    rng = np.random.default_rng(0)
    rank = (shape.V ** rng.random(shape.ids)).astype(np.int64)
    return jnp.asarray(rank * 2_654_435_761 % shape.V, jnp.int32)


def best_of(rounds: int, f: Callable, state: Any, *rest: Any) -> tuple[float, float]:
    """Seconds of the fastest of `rounds` steps state -> state, and MiB of temporaries."""
    run = jax.jit(f, donate_argnums=0).lower(state, *rest).compile()
    fastest = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        state = jax.block_until_ready(run(state, *rest))
        fastest = min(fastest, time.perf_counter() - start)
    memory = run.memory_analysis()
    assert memory is not None
    return fastest, memory.temp_size_in_bytes / 2**20


def measure(shape: Shape, rounds: int) -> list[Row]:
    """Each form on a table of its own, one after the other, so that the largest fit."""
    ids = draw_ids(shape)
    timed: dict[str, tuple[float, float]] = {}

    def dense_adam(state: tuple, grad: jax.Array) -> tuple:
        table, slots = state
        updates, slots = optax.adam(1e-3).update(grad, slots)
        return optax.apply_updates(table, updates), slots

    table = jnp.zeros((shape.V, shape.D))
    gradient = jnp.full((shape.V, shape.D), 1e-3)
    timed["optax adam, dense"] = best_of(rounds, dense_adam, (table, optax.adam(1e-3).init(table)), gradient)
    table = jnp.zeros((shape.V, shape.D))
    timed["dense_adam"] = best_of(
        rounds,
        lambda state, grad: er.dense_adam(state[0], state[1], grad, 1e-3),
        (table, er.init_adam(table)),
        gradient,
    )
    del gradient
    for name, (update, init) in RULES.items():

        def step(state: tuple, ids: jax.Array, update: Callable = update) -> tuple:
            table, slots = state
            values, unique, index = er.lookup(table, {"all": ids})
            grads = jax.grad(lambda values: (values[index["all"]] - 1.0).sum())(values)
            return update(table, slots, unique, grads, 1e-3)

        table = jnp.zeros((shape.V, shape.D))
        timed[f"lookup, {name}"] = best_of(rounds, step, (table, init(table)), ids)
    dense = timed["optax adam, dense"][0]
    return [Row(shape.name, name, seconds, dense / seconds, temp) for name, (seconds, temp) in timed.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    found: list[Row] = []
    for shape in SHAPES:
        if arguments.shape is not None and shape.name not in arguments.shape:
            continue
        rows = measure(shape, arguments.rounds)
        distinct = np.unique(np.asarray(draw_ids(shape))).size
        print(f"\n### {shape.name}: V {shape.V:,}, D {shape.D}, {shape.ids:,} ids, {distinct:,} of them distinct\n")
        print("| form | ms | to dense | temp MiB |\n| --- | --- | --- | --- |")
        for row in rows:
            print(f"| {row.name} | {1000 * row.seconds:.2f} | {row.to_dense:.2f} | {row.temp_mib:.1f} |", flush=True)
        found += rows
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
