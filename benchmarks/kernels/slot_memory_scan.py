"""Speed and memory of `slot_memory_scan` beside a plain scan over the chunks.

    python benchmarks/kernels/slot_memory_scan.py [--shape ml1m ...] [--rounds 20] [--json FILE]

For each shape one table of forward and backward passes. "plain": the same chunks in a `jax.lax.scan`, differentiated by
JAX; the state and every chunk's weights go through memory. The forms take turns, and of each the fastest round counts;
ratios inside a table mean something, times between tables little. "limit" is the share of the time that the machine
takes at least (`mdrec_kernels.roofline`); "temp MiB" is what the compiled program needs beside inputs and outputs.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels import dispatch, roofline
from mdrec_kernels.slot_memory_scan import slot_memory_scan
from mdrec_kernels.slot_memory_scan.shapes import SHAPES, Shape, backward_work, forward_work


@dataclass(frozen=True)
class Row:
    """One form at one shape."""

    shape: str
    name: str
    seconds: float
    tokens_per_second: float
    to_plain: float
    of_limit: float | None
    temp_mib: float


def plain(
    shape: Shape, q: jax.Array, k: jax.Array, value: jax.Array, write: jax.Array, fade: jax.Array, *rest: jax.Array
) -> tuple:
    """One user a row, the chunks in a scan."""
    *slots, state = rest
    scale, step = shape.K**-0.5, partial(erase_chunk, *slots) if slots else delta_chunk

    def chunks(x: jax.Array) -> jax.Array:
        return x.reshape(shape.R, -1, shape.chunk, *x.shape[2:]).swapaxes(0, 1)

    state, out = jax.lax.scan(partial(step, scale), state, tuple(map(chunks, (q, k, value, write, fade))))
    return out.swapaxes(0, 1).reshape(shape.R, shape.T, shape.V), state


def erase_chunk(slots: jax.Array, scale: float, state: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
    q, k, value, write, erase = chunk
    read = jax.nn.softmax(scale * q @ slots.T, axis=-1)
    w = write[..., None] * jax.nn.softmax(scale * k @ slots.T, axis=-1)
    keep = jnp.prod(1 - erase[..., None] * w, axis=1)
    return keep[..., None] * state + jnp.einsum("rcm,rcv->rmv", w, value), read @ state


def delta_chunk(scale: float, state: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
    q, k, value, write, fade = chunk
    so_far, write = jnp.cumsum(fade, axis=1)[..., None], write[..., None]
    between = jnp.tril(jnp.exp(jnp.minimum(so_far - so_far.swapaxes(1, 2), 0)))
    links = jnp.tril(write * between * jnp.einsum("rck,rdk->rcd", k, k), -1)
    right = write * (value - jnp.exp(so_far) * (k @ state))
    identity = jnp.eye(q.shape[1])[None]
    rows = jax.scipy.linalg.solve_triangular(links + identity, right, lower=True, unit_diagonal=True)
    out = scale * (jnp.exp(so_far) * (q @ state) + (between * jnp.einsum("rck,rdk->rcd", q, k)) @ rows)
    after = jnp.einsum("rck,rcv->rkv", jnp.exp(so_far[:, -1:] - so_far) * k, rows)
    return jnp.exp(so_far[:, -1:]) * state + after, out


def ours(
    shape: Shape,
    q: jax.Array,
    k: jax.Array,
    value: jax.Array,
    write: jax.Array,
    fade: jax.Array,
    *rest: jax.Array,
    form: str,
) -> tuple:
    *slots, state = rest
    options: dict[str, Any] = {"slots": slots[0], "erase": fade} if slots else {"log_decay": fade}
    segment = jnp.ones((shape.R, shape.T), jnp.int32)
    options |= {"state": state, "mode": shape.mode, "chunk": shape.chunk, "implementation": form}
    return slot_memory_scan(q, k, value, segment, write, **options)


def inputs(shape: Shape) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    dtype = jnp.float32 if dispatch.platform() == "cpu" else jnp.bfloat16
    tokens = shape.R, shape.T

    def normal(*size: int, dtype=jnp.float32) -> jax.Array:
        return jnp.asarray(rng.standard_normal(size), dtype)

    q, k, value = (normal(*tokens, n) for n in (shape.K, shape.K, shape.V))
    k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
    gates = jax.nn.sigmoid(normal(*tokens)), jax.nn.sigmoid(normal(*tokens)) * (1 if shape.mode == "erase" else -0.05)
    slots = (normal(shape.M, shape.K),) if shape.mode == "erase" else ()
    return *(x.astype(dtype) for x in (q, k, value)), *gates, *slots, normal(shape.R, shape.M, shape.V)


def forms(shape: Shape) -> dict[str, Callable]:
    arguments, found = inputs(shape), {}
    names = ["xla", "pallas_tpu"] if dispatch.platform() == "tpu" else ["xla"]
    for name, f in {"plain": partial(plain, shape), **{n: partial(ours, shape, form=n) for n in names}}.items():

        def loss(*arguments: jax.Array, f: Callable = f) -> jax.Array:
            out, state = f(*arguments)
            return (out.astype(jnp.float32) ** 2).sum() + (state**2).sum()

        step = jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))
        found[name] = jax.jit(step).lower(*arguments).compile()
    return found


def measure(shape: Shape, rounds: int) -> list[Row]:
    """The fastest of `rounds` turns of each form."""
    arguments, compiled, chip = inputs(shape), forms(shape), roofline.this_chip()
    best = dict.fromkeys(compiled, float("inf"))
    for _ in range(rounds + 1):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            best[name] = min(best[name], time.perf_counter() - start)
    dtype = arguments[0].dtype
    work = forward_work(shape, dtype.itemsize) + backward_work(shape, dtype.itemsize)
    return [
        Row(
            shape=shape.name,
            name=name,
            seconds=best[name],
            tokens_per_second=shape.R * shape.T / best[name],
            to_plain=best["plain"] / best[name],
            of_limit=None if chip is None else chip.share(work, best[name], dtype),
            temp_mib=run.memory_analysis().temp_size_in_bytes / 2**20,
        )
        for name, run in compiled.items()
    ]


def show(shape: Shape, rows: list[Row]) -> None:
    sizes = f"R {shape.R}, T {shape.T}, K {shape.K}, V {shape.V}, M {shape.M}, chunk {shape.chunk}, {shape.mode}"
    print(f"\n### {shape.name}: {sizes}\n")
    print("| form | ms | tokens a second | times plain's speed | limit | temp MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        limit = "" if row.of_limit is None else f"{row.of_limit:.0%}"
        cells = f"{1000 * row.seconds:.1f} | {row.tokens_per_second:,.0f} | {row.to_plain:.2f} | {limit}"
        print(f"| {row.name} | {cells} | {row.temp_mib:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    few = [shape.name for shape in SHAPES if shape.R < 64 or dispatch.platform() != "cpu"]
    found: list[Row] = []
    for shape in SHAPES:
        if shape.name in (arguments.shape or few):
            rows = measure(shape, arguments.rounds)
            show(shape, rows)
            found += rows
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
