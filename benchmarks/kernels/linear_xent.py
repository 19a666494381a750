"""Speed and memory of `linear_xent` beside the formula as it stands.

    python benchmarks/kernels/linear_xent.py [--shape beauty ...] [--sweep] [--rounds 12] [--json FILE]

For each shape one table. The forms take turns, and of each the fastest round counts: on a machine that others use
too, ratios inside a table mean something, times between tables little. "limit" is the time that the three products of
loss and gradient would take at the speed of the best large square product on this machine, measured in the same
turns; "temp MiB" is what the compiled program needs beside its inputs and outputs.
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
from mdrec_kernels.linear_xent import (
    Blocks,
    linear_xent,
    linear_xent_sum,
    sampled_bce_sum,
    sampled_xent_sum,
    target_rank,
    top_k,
)
from mdrec_kernels.linear_xent.shapes import SHAPES, Shape

SQUARE = 1536
LARGEST_NAIVE = 2**30
"""Bytes of scores up to which the formula is run."""


@dataclass(frozen=True)
class Row:
    """One form of one operation at one shape."""

    shape: str
    name: str
    seconds: float
    per_second: float
    to_naive: float | None
    of_limit: float | None
    temp_mib: float


@dataclass(frozen=True)
class Form:
    """A compiled form, its arguments, what it counts and the floating point operations it cannot do without."""

    name: str
    run: Callable
    arguments: tuple
    count: int
    flops: float
    naive: str | None

    @property
    def temp_mib(self) -> float:
        return self.run.memory_analysis().temp_size_in_bytes / 2**20


def compile_form(name: str, f: Callable, arguments: tuple, count: int, flops: float, naive: str | None = None) -> Form:
    return Form(name, jax.jit(f).lower(*arguments).compile(), arguments, count, flops, naive)


def catalogue_forms(shape: Shape, sweep: bool) -> list[Form]:
    """Loss and gradient over the whole catalogue, masked as in training."""
    rng = np.random.default_rng(0)
    group = jnp.asarray(rng.integers(0, shape.groups, shape.N), jnp.int32)
    # Row r belongs to group r mod G; targets follow.
    rows = np.arange(shape.V)
    allowed = (rows[None, :] % shape.groups == np.arange(shape.groups)[:, None]) & (rows >= 2) & (rows < shape.items)
    target = rng.integers(2, shape.items // shape.groups - 1, shape.N) * shape.groups + np.asarray(group)
    arguments = (
        jnp.asarray(rng.standard_normal((shape.N, shape.D)), jnp.float32),
        jnp.asarray(0.3 * rng.standard_normal((shape.V, shape.D)), jnp.float32),
        jnp.asarray(target, jnp.int32),
        jnp.full(shape.N, 1 / shape.N),
        jnp.asarray(allowed),
        group,
    )

    def summed(x, w, target, weight, allowed, group, **options):
        def loss(x, w):
            return linear_xent_sum(x, w, target, weight, allowed=allowed, group=group, **options)

        return jax.value_and_grad(loss, argnums=(0, 1))(x, w)

    def per_token(x, w, target, weight, allowed, group):
        def loss(x, w):
            return jnp.sum(weight * linear_xent(x, w, target, allowed=allowed, group=group))

        return jax.value_and_grad(loss, argnums=(0, 1))(x, w)

    flops = 6.0 * shape.N * shape.V * shape.D
    forms = []
    if 4 * shape.N * shape.V <= LARGEST_NAIVE:
        naive = compile_form("naive", lambda *a: summed(*a, implementation="reference"), arguments, shape.N, flops)
        forms.append(naive)
    forms.append(compile_form("linear_xent_sum", summed, arguments, shape.N, flops, "naive"))
    forms.append(compile_form("linear_xent (recomputes)", per_token, arguments, shape.N, flops * 8 / 6, "naive"))
    cuts = [Blocks(tokens, shape.V) for tokens in (128, 256, 384, 512, 1024)] + [Blocks(512, 8192), Blocks(1024, 4096)]
    for blocks in cuts if sweep else []:
        name = f"  {blocks.tokens} x {'V' if blocks.items == shape.V else blocks.items}"
        cut = compile_form(name, lambda *a, b=blocks: summed(*a, blocks=b), arguments, shape.N, flops, "naive")
        forms.append(cut)
    return forms


def sampled_forms(shape: Shape) -> list[Form]:
    """Loss and gradient over shared negatives."""
    rng = np.random.default_rng(0)
    tokens, drawn = (shape.N, shape.D), (shape.negatives, shape.D)
    ids = jnp.asarray(rng.integers(2, shape.items, shape.N + shape.negatives), jnp.int32)
    arguments = (
        *(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (tokens, tokens, drawn)),
        jnp.full(shape.N, 1 / shape.N),
        jnp.full(shape.negatives, -10.0),
        ids[: shape.N],
        ids[shape.N :],
    )

    def softmax(x, positive, negatives, weight, logq, positive_id, negative_id, **options):
        options |= {"negative_logq": logq, "positive_id": positive_id, "negative_id": negative_id}
        gradient = jax.value_and_grad(partial(sampled_xent_sum, weight=weight, **options), argnums=(0, 1, 2))
        return gradient(x, positive, negatives)

    def gbce(x, positive, negatives, weight, _, positive_id, negative_id):
        options = {"beta": 0.3, "positive_id": positive_id, "negative_id": negative_id}
        gradient = jax.value_and_grad(partial(sampled_bce_sum, weight=weight, **options), argnums=(0, 1, 2))
        return gradient(x, positive, negatives)

    flops = 6.0 * shape.N * shape.negatives * shape.D
    naive = compile_form(
        "sampled, naive", lambda *a: softmax(*a, implementation="reference"), arguments, shape.N, flops
    )
    return [
        naive,
        compile_form("sampled_xent_sum", softmax, arguments, shape.N, flops, naive.name),
        compile_form("sampled_bce_sum", gbce, arguments, shape.N, flops, naive.name),
    ]


def ranking_forms(shape: Shape) -> list[Form]:
    """Top 10 and rank of an evaluation batch, each query leaving out its history."""
    rng = np.random.default_rng(0)
    arguments = (
        jnp.asarray(rng.standard_normal((shape.queries, shape.D)), jnp.float32),
        jnp.asarray(rng.standard_normal((shape.V, shape.D)), jnp.float32),
        jnp.asarray(rng.integers(2, shape.items, (shape.queries, shape.history)), jnp.int32),
        jnp.asarray((np.arange(shape.V) >= 2) & (np.arange(shape.V) < shape.items))[None, :],
    )
    flops = 2.0 * shape.queries * shape.V * shape.D
    forms = []
    for name, f in {
        "top_k": lambda x, w, seen, allowed, **o: top_k(x, w, 10, allowed=allowed, exclude=seen, **o),
        "target_rank": lambda x, w, seen, allowed, **o: target_rank(
            x, w, seen[:, 0], allowed=allowed, exclude=seen, **o
        ),
    }.items():
        naive = f"{name}, naive"
        if 4 * shape.queries * shape.V <= LARGEST_NAIVE:
            slow = compile_form(
                naive, lambda *a, f=f: f(*a, implementation="reference"), arguments, shape.queries, flops
            )
            forms.append(slow)
        forms.append(compile_form(name, f, arguments, shape.queries, flops, naive))
    return forms


def measure(shape: Shape, forms: list[Form], rounds: int) -> list[Row]:
    """The fastest of `rounds` turns of each form, and of the square product that stands for the machine."""
    square = jnp.ones((SQUARE, SQUARE))
    limit = compile_form("limit", lambda a: a @ a, (square,), 1, 2.0 * SQUARE**3)
    best = {form.name: float("inf") for form in (*forms, limit)}
    for _ in range(rounds + 1):
        for form in (*forms, limit):
            start = time.perf_counter()
            jax.block_until_ready(form.run(*form.arguments))
            best[form.name] = min(best[form.name], time.perf_counter() - start)
    speed = limit.flops / best["limit"]
    return [
        Row(
            shape=shape.name,
            name=form.name,
            seconds=best[form.name],
            per_second=form.count / best[form.name],
            to_naive=best[form.name] / best[form.naive] if form.naive in best else None,
            of_limit=form.flops / speed / best[form.name],
            temp_mib=form.temp_mib,
        )
        for form in forms
    ]


def show(shape: Shape, rows: list[Row]) -> None:
    print(f"\n### {shape.name}: N {shape.N}, V {shape.V}, D {shape.D}, S {shape.negatives}, Q {shape.queries}\n")
    print(
        "| form | ms | a second | of naive's time | share of limit | temp MiB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        ratio = "" if row.to_naive is None else f"{row.to_naive:.2f}"
        limit = "" if row.of_limit is None else f"{row.of_limit:.0%}"
        cells = f"{1000 * row.seconds:.1f} | {row.per_second:,.0f} | {ratio} | {limit} | {row.temp_mib:.0f}"
        print(f"| {row.name} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--sweep", action="store_true", help="other block sizes too")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: list[Row] = []
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for shape in SHAPES:
        if shape.name not in (arguments.shape or ["beauty", "ml-1m"]):
            continue
        forms = sampled_forms(shape) if shape.negatives else catalogue_forms(shape, arguments.sweep)
        rows = measure(shape, forms + ranking_forms(shape), arguments.rounds)
        show(shape, rows)
        found += rows
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
