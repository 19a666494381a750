"""Speed and memory of `grouped_ffn` beside `jax.lax.ragged_dot`, the masked formula, and one expert for all rows.

    python benchmarks/kernels/grouped_ffn.py [--shape sixteen ...] [--sweep] [--rounds 10] [--json FILE]

For each shape two tables: the forward pass, and forward and backward. "one expert": a dense layer of the average width
on all rows, which is the least that any form could take. The forms take turns, and of each the fastest round counts:
ratios inside a table mean something, times between tables little. "of ideal": time over that of one expert. "temp
MiB": what the compiled program needs beside its inputs and outputs.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.grouped_ffn import Experts, Tiling, grouped_ffn
from mdrec_kernels.grouped_ffn.shapes import SHAPES, Shape

LARGEST_NAIVE = 2**31
"""Bytes of every expert's hidden layer up to which the formula and `ragged_dot` are run."""
SWEEP = (Tiling(128, 32), Tiling(512, 64), Tiling(64), Tiling(256), Tiling(128, together=16))


@dataclass(frozen=True)
class Row:
    """One form at one shape."""

    shape: str
    way: str
    name: str
    seconds: float
    rows_per_second: float
    of_ideal: float
    temp_mib: float


def make(shape: Shape, classes: tuple[tuple[int, int], ...]) -> tuple[Experts, ...]:
    rng = np.random.default_rng(0)

    def draw(*size: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(size) / np.sqrt(size[1]), jnp.float32)

    return tuple(
        Experts(draw(n, shape.d, f), draw(n, f, shape.d), draw(n, shape.d, f) if shape.gated else None)
        for n, f in classes
    )


def dense(x: jax.Array, _: jax.Array, classes: tuple[Experts, ...]) -> jax.Array:
    """The one expert on all rows."""
    first, *rest = (x @ w[0] for w in classes[0].entries)
    inner = jax.nn.silu(first)
    return (inner * rest[0] if rest else inner) @ classes[0].down[0]


def ragged(x: jax.Array, counts: jax.Array, classes: tuple[Experts, ...]) -> jax.Array:
    """The rows of one class after the other: `ragged_dot` skips no rows, so a class pays for all of them."""
    out, first = jnp.zeros_like(x), 0
    for experts in classes:
        # Rows before the class go to an expert of zeros.
        before = jnp.sum(counts[:first])
        own = jnp.concatenate([before[None], counts[first : first + experts.number]])
        product = lambda a, w, own=own: jax.lax.ragged_dot(a, jnp.pad(w, ((1, 0), (0, 0), (0, 0))), own)  # noqa: E731
        head, *rest = (product(x, w) for w in experts.entries)
        inner = jax.nn.silu(head)
        out = out + product(inner * rest[0] if rest else inner, experts.down)
        first += experts.number
    return out


def forms(shape: Shape, sweep: bool) -> dict[str, tuple[Callable, tuple[Experts, ...]]]:
    """name -> (function of x, counts, classes; the classes that it gets)."""
    classes = make(shape, shape.classes)
    mean = round(sum(n * f for n, f in shape.classes) / shape.experts)
    found: dict[str, tuple[Callable, tuple[Experts, ...]]] = {"one expert": (dense, make(shape, ((1, mean),)))}
    if 4 * shape.T * sum(n * f for n, f in shape.classes) <= LARGEST_NAIVE:
        found["masked formula"] = (partial(grouped_ffn, implementation="reference"), classes)
        found["ragged_dot"] = (ragged, classes)
    found["grouped_ffn"] = (grouped_ffn, classes)
    for tiling in SWEEP if sweep else ():
        name = f"  {tiling.rows}, rest {tiling.rest}, {tiling.together} together"
        found[name] = (partial(grouped_ffn, tiling=tiling), classes)
    return found


def measure(shape: Shape, way: str, sweep: bool, rounds: int) -> list[Row]:
    """The fastest of `rounds` turns of each form."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((shape.T, shape.d)), jnp.float32)
    counts = jnp.asarray(rng.multinomial(shape.T, np.full(shape.experts, 1 / shape.experts)), jnp.int32)
    runs = {}
    for name, (f, classes) in forms(shape, sweep).items():
        if way == "forward":
            program = f
        else:

            def loss(x: jax.Array, classes: tuple, counts: jax.Array, f: Callable = f) -> jax.Array:
                return jnp.sum(f(x, counts, classes) ** 2)

            program = lambda x, counts, classes, loss=loss: jax.grad(loss, (0, 1))(x, classes, counts)  # noqa: E731
        runs[name] = jax.jit(program).lower(x, counts, classes).compile(), classes
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds + 1):
        for name, (run, classes) in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(x, counts, classes))
            best[name] = min(best[name], time.perf_counter() - start)
    return [
        Row(
            shape=shape.name,
            way=way,
            name=name,
            seconds=best[name],
            rows_per_second=shape.T / best[name],
            of_ideal=best[name] / best["one expert"],
            temp_mib=run.memory_analysis().temp_size_in_bytes / 2**20,
        )
        for name, (run, _) in runs.items()
    ]


def show(shape: Shape, way: str, rows: list[Row]) -> None:
    print(f"\n### {shape.name}, {way}: T {shape.T}, d {shape.d}, {shape.classes}{', gated' if shape.gated else ''}\n")
    print("| form | ms | rows a second | of ideal | temp MiB |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        cells = f"{1000 * row.seconds:.1f} | {row.rows_per_second:,.0f} | {row.of_ideal:.2f} | {row.temp_mib:.1f}"
        print(f"| {row.name} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--sweep", action="store_true", help="other tilings too")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    found: list[Row] = []
    for shape in SHAPES:
        if shape.name in (arguments.shape or ["small", "sixteen", "long"]):
            for way in ("forward", "forward and backward"):
                rows = measure(shape, way, arguments.sweep, arguments.rounds)
                show(shape, way, rows)
                found += rows
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
