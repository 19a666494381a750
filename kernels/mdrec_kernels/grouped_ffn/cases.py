"""What `grouped_ffn` is compared with: every expert on every row, `jax.lax.ragged_dot`, and one expert for all rows."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from mdrec_kernels.bench import Case
from mdrec_kernels.grouped_ffn import Experts, grouped_ffn
from mdrec_kernels.grouped_ffn.shapes import Shape
from mdrec_kernels.roofline import Work

LARGEST_NAIVE = 2**31
"""Bytes of every expert's hidden layer up to which forms that compute all of them are run."""


def cases(shape: Shape, bfloat16: bool = False) -> list[Case]:
    """Forward, and forward and backward, on rows that the experts share equally but for chance.

    "one expert" is a dense layer of the average width on all rows: no form can be faster.

    Args:
        bfloat16: rows and products in bfloat16; else in float32.
    """
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    multiplies = shape.weights_of_a_row * shape.T
    mean = round(sum(n * f for n, f in shape.classes) / shape.experts)
    forms: dict[str, tuple[Callable, tuple[tuple[int, int], ...]]] = {"one expert": (_dense, ((1, mean),))}
    if 4 * shape.T * sum(n * f for n, f in shape.classes) <= LARGEST_NAIVE:
        forms["naive"] = partial(grouped_ffn, implementation="reference"), shape.classes
        forms["ragged_dot"] = _ragged, shape.classes
    forms["grouped_ffn"] = grouped_ffn, shape.classes
    moved = float(np.dtype(dtype).itemsize * shape.T * shape.d), 4.0 * shape.experts * shape.weights_of_a_row
    found = []
    for what, wrap, passes in (("forward", _forward, 1), ("forward and backward", _both, 3)):
        work = Work(2 * passes * multiplies, 2 * passes * moved[0] + passes * moved[1])
        for name, (f, classes) in forms.items():
            make = cache(partial(_arguments, shape, classes, dtype))
            naive = None if name == "naive" else f"{what}, naive"
            found.append(Case(f"{what}, {name}", partial(wrap, f), make, work, shape.T, naive, dtype=dtype))
    return found


def _arguments(shape: Shape, classes: tuple[tuple[int, int], ...], dtype: DTypeLike) -> tuple:
    rng = np.random.default_rng(0)

    def draw(*size: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(size) / np.sqrt(size[1]), jnp.float32)

    experts = tuple(
        Experts(draw(n, shape.d, f), draw(n, f, shape.d), draw(n, shape.d, f) if shape.gated else None)
        for n, f in classes
    )
    counts = np.random.default_rng(1).multinomial(shape.T, np.full(shape.experts, 1 / shape.experts))
    return draw(shape.T, shape.d).astype(dtype), jnp.asarray(counts, jnp.int32), experts


def _forward(f: Callable, x: jax.Array, counts: jax.Array, classes: tuple[Experts, ...]) -> jax.Array:
    return f(x, counts, classes)


def _both(f: Callable, x: jax.Array, counts: jax.Array, classes: tuple[Experts, ...]) -> tuple:
    out, back = jax.vjp(lambda x, classes: f(x, counts, classes), x, classes)
    return out, back(out)


def _dense(x: jax.Array, _: jax.Array, classes: tuple[Experts, ...]) -> jax.Array:
    first, *rest = (x @ w[0].astype(x.dtype) for w in classes[0].entries)
    inner = jax.nn.silu(first)
    return (inner * rest[0] if rest else inner) @ classes[0].down[0].astype(x.dtype)


def _ragged(x: jax.Array, counts: jax.Array, classes: tuple[Experts, ...]) -> jax.Array:
    """One class after the other; rows before a class go to an expert of zeros."""
    out, first = jnp.zeros_like(x), 0
    for experts in classes:
        own = jnp.concatenate([jnp.sum(counts[:first])[None], counts[first : first + experts.number]])

        def product(a: jax.Array, w: jax.Array, own: jax.Array = own) -> jax.Array:
            return jax.lax.ragged_dot(a, jnp.pad(w.astype(a.dtype), ((1, 0), (0, 0), (0, 0))), own)

        head, *rest = (product(x, w) for w in experts.entries)
        inner = jax.nn.silu(head)
        out = out + product(inner * rest[0] if rest else inner, experts.down)
        first += experts.number
    return out
