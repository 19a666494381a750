"""Experts and rows for the tests of `grouped_ffn`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.grouped_ffn import Experts, grouped_ffn
from mdrec_kernels.grouped_ffn.shapes import Shape


def make_experts(d: int, classes: Sequence[tuple[int, int]], gated: bool, seed: int = 0) -> tuple[Experts, ...]:
    """Classes of (experts, width) with weights that keep the size of what they multiply."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[1]), jnp.float32)

    return tuple(Experts(draw(n, d, f), draw(n, f, d), draw(n, d, f) if gated else None) for n, f in classes)


def make_rows(rows: int, d: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((rows, d)), jnp.float32)


def abstract(shape: Shape, dtype=jnp.float32) -> tuple:
    """Shapes and types of (x, counts, classes)."""
    like = lambda *s, of=jnp.float32: jax.ShapeDtypeStruct(s, of)  # noqa: E731
    classes = tuple(
        Experts(like(n, shape.d, f), like(n, f, shape.d), like(n, shape.d, f) if shape.gated else None)
        for n, f in shape.classes
    )
    return like(shape.T, shape.d, of=dtype), like(shape.experts, of=jnp.int32), classes


def step(x, counts, classes, dy, **options):
    """Outputs, and the gradients of x and the weights for the cotangent dy."""
    y, pull = jax.vjp(lambda x, classes: grouped_ffn(x, counts, classes, **options), x, classes)
    return y, *pull(dy)


def distance(got, expected) -> float:
    """The largest difference, in units of each array's largest entry; NaN if there is one anywhere."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    wide = lambda a: np.asarray(a, np.float64)  # noqa: E731
    return np.max([np.abs(wide(a) - wide(b)).max() / max(np.abs(wide(b)).max(), 1e-9) for a, b in pairs])
