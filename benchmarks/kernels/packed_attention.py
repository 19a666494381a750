"""Speed and memory of `packed_attention` beside dense attention of packed rows, and of padded ones.

    python benchmarks/kernels/packed_attention.py [--shape beauty ...] [--biases] [--rounds 10] [--json FILE]

For each shape one table of forward and backward passes over the same users. "padded": one user a row, as long as the
longest may be. "packed, dense": several users a row, the whole T x T matrix of scores, masked. The forms take turns,
and of each the fastest round counts; ratios inside a table mean something, times between tables little. "scores": how
many entries of score matrices a form computes for each one that a causal segment has.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.packed_attention import packed_attention
from mdrec_kernels.packed_attention.plan import cut, executed, plan
from mdrec_kernels.packed_attention.shapes import SHAPES, Shape
from mdrec_kernels.packed_attention.spec import Spec
from mdrec_kernels.packed_attention.xla import tiling


@dataclass(frozen=True)
class Row:
    """One form at one shape."""

    shape: str
    name: str
    seconds: float
    tokens_per_second: float
    to_padded: float
    scores: float
    temp_mib: float


def draw_lengths(shape: Shape, tokens: int) -> list[int]:
    """Lengths of users until their events fill `tokens`: exponential, cut at the window, with the shape's mean."""
    low, high = 0.1 * shape.mean, 50.0 * shape.mean
    for _ in range(50):
        scale = (low + high) / 2
        lengths = np.random.default_rng(0).exponential(scale, 2 * tokens).astype(int) + 1
        lengths = np.minimum(lengths, shape.window)
        low, high = (scale, high) if lengths.mean() < shape.mean else (low, scale)
    return lengths[: np.searchsorted(np.cumsum(lengths), tokens)].tolist()


def pack(shape: Shape) -> tuple[np.ndarray, list[int]]:
    """segment [R, T] filled with users of the shape, and their lengths."""
    segment, packed = np.zeros((shape.R, shape.T), np.int32), []
    used, numbers = np.zeros(shape.R, int), np.zeros(shape.R, int)
    for length in draw_lengths(shape, shape.R * shape.T):
        rows = np.flatnonzero(used + length <= shape.T)
        if rows.size:
            row = rows[np.argmax(used[rows])]
            numbers[row] += 1
            segment[row, used[row] : used[row] + length] = numbers[row]
            used[row] += length
            packed.append(length)
    return segment, packed


def step(shape: Shape, segment: jax.Array, biases: bool, implementation: str) -> Callable:
    """Value and gradient of a sum of the outputs."""
    time_of = jnp.cumsum(jnp.full(segment.shape, 3600, jnp.int32), axis=1)

    def loss(q, k, v, position, buckets):
        out = packed_attention(
            q, k, v, segment, mode=shape.mode, window=shape.window, normalizer=float(shape.window),
            position_bias=position if biases else None, time_bias=buckets if biases else None, time=time_of,
            implementation=implementation,
        )  # fmt: skip
        return jnp.vdot(out, v)

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4) if biases else (0, 1, 2))


def forms(shape: Shape, biases: bool) -> list[tuple[str, Callable, tuple, float]]:
    """(name, compiled, arguments, scores computed) of each form."""
    segment, lengths = pack(shape)
    users = np.arange(shape.window)[None, :] < np.asarray(lengths)[:, None]
    spec = Spec(shape.mode, True, shape.window, 1.0, 1.0, 0.0)
    sizes = cut(shape.R, shape.T, shape.H, spec, tiling(shape.T, shape.window))
    computed = {
        "padded": users.size * shape.window,
        "packed, dense": shape.R * shape.T**2,
        "packed": executed(
            plan(jnp.asarray(np.pad(segment, ((0, 0), (0, sizes.length - shape.T)))), spec, sizes), sizes
        ),
    }
    found = []
    for name, scores in computed.items():
        rows = jnp.asarray(users if name == "padded" else segment, jnp.int32)
        rng = np.random.default_rng(0)
        arguments = (
            *(jnp.asarray(rng.standard_normal((*rows.shape, shape.H, shape.K)), jnp.float32) for _ in range(3)),
            jnp.asarray(rng.standard_normal((1, shape.window)), jnp.float32),
            jnp.asarray(rng.standard_normal((1, 63)), jnp.float32),
        )
        f = step(shape, rows, biases, "xla" if name == "packed" else "reference")
        found.append((name, jax.jit(f).lower(*arguments).compile(), arguments, float(scores)))
    return found


def measure(shape: Shape, biases: bool, rounds: int) -> list[Row]:
    """The fastest of `rounds` turns of each form."""
    lengths = np.asarray(pack(shape)[1])
    tokens, needed = int(lengths.sum()), float((lengths * (lengths + 1) / 2).sum())
    candidates = forms(shape, biases)
    best = {name: float("inf") for name, *_ in candidates}
    for _ in range(rounds + 1):
        for name, run, arguments, _ in candidates:
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            best[name] = min(best[name], time.perf_counter() - start)
    return [
        Row(
            shape=shape.name,
            name=name,
            seconds=best[name],
            tokens_per_second=tokens / best[name],
            to_padded=best["padded"] / best[name],
            scores=scores / needed,
            temp_mib=run.memory_analysis().temp_size_in_bytes / 2**20,
        )
        for name, run, _, scores in candidates
    ]


def show(shape: Shape, rows: list[Row]) -> None:
    sizes = f"R {shape.R}, T {shape.T}, H {shape.H}, K {shape.K}, mean {shape.mean} of {shape.window}, {shape.mode}"
    print(f"\n### {shape.name}: {sizes}\n")
    print("| form | ms | tokens a second | times padded's speed | scores | temp MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        cells = f"{1000 * row.seconds:.1f} | {row.tokens_per_second:,.0f} | {row.to_padded:.2f} | {row.scores:.1f}"
        print(f"| {row.name} | {cells} | {row.temp_mib:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--biases", action="store_true", help="with position and time bias")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    found: list[Row] = []
    for shape in SHAPES:
        if arguments.shape is None or shape.name in arguments.shape:
            rows = measure(shape, arguments.biases, arguments.rounds)
            show(shape, rows)
            found += rows
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
