"""What `packed_attention` is compared with: one user a row, padded, and dense attention of packed rows."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.bench import Case
from mdrec_kernels.packed_attention import packed_attention
from mdrec_kernels.packed_attention.plan import cut, executed, plan
from mdrec_kernels.packed_attention.shapes import Shape
from mdrec_kernels.packed_attention.spec import Spec
from mdrec_kernels.packed_attention.xla import tiling
from mdrec_kernels.roofline import Work


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


def cases(shape: Shape, biases: bool = False) -> list[Case]:
    """Forward and backward passes over the same users.

    Args:
        biases: with position and time bias.
    """
    segment, packed = pack(shape)
    lengths = np.asarray(packed)
    users = np.arange(shape.window)[None, :] < lengths[:, None]
    needed, tokens = float((lengths * (lengths + 1) / 2).sum()), int(lengths.sum())
    # Two products forward and four backward a score; q, k, v, the output and their gradients once each.
    work = Work(12.0 * needed * shape.H * shape.K, 8 * 4.0 * tokens * shape.H * shape.K)
    forms = {
        "padded": (users, "reference", users.size * shape.window),
        "packed, dense": (segment, "reference", shape.R * shape.T**2),
        "packed": (segment, None, _executed(shape, segment)),
    }
    return [
        Case(
            name,
            _step(shape, jnp.asarray(rows, jnp.int32), biases, implementation),
            partial(_arguments, shape, rows.shape),
            work,
            tokens,
            naive="padded",
            notes={"scores for each needed": f"{scores / needed:.1f}"},
        )
        for name, (rows, implementation, scores) in forms.items()
    ]


def _executed(shape: Shape, segment: np.ndarray) -> int:
    """How many scores the packed form computes."""
    spec = Spec(shape.mode, True, shape.window, 1.0, 1.0, 0.0)
    sizes = cut(shape.R, shape.T, shape.H, spec, tiling(shape.T, shape.window))
    padded = np.pad(segment, ((0, 0), (0, sizes.length - shape.T)))
    return int(executed(plan(jnp.asarray(padded), spec, sizes), sizes))


def _arguments(shape: Shape, rows: tuple[int, ...]) -> tuple:
    rng = np.random.default_rng(0)
    sizes = [(*rows, shape.H, shape.K)] * 3 + [(1, shape.window), (1, 63)]
    return tuple(jnp.asarray(rng.standard_normal(size), jnp.float32) for size in sizes)


def _step(shape: Shape, segment: jax.Array, biases: bool, implementation: str | None) -> Callable:
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
