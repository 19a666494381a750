"""What `delta_memory_scan` is compared with: the same chunks in a plain `jax.lax.scan`, differentiated by JAX."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from mdrec_kernels.bench import Case
from mdrec_kernels.delta_memory_scan import delta_memory_scan
from mdrec_kernels.delta_memory_scan.shapes import Shape, backward_work, forward_work


def cases(shape: Shape, bfloat16: bool = False) -> list[Case]:
    """One user a row, forward, and forward and backward.

    Args:
        bfloat16: q, k, value and outputs in bfloat16; else in float32.
    """
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    make = cache(partial(_arguments, shape, dtype))
    size = np.dtype(dtype).itemsize
    forward, backward = forward_work(shape, size), backward_work(shape, size)
    found = []
    for what, wrap, work in (("forward", _forward, forward), ("forward and backward", _both, forward + backward)):
        naive = f"{what}, plain scan"
        for name, f in ((naive, partial(_plain, shape)), (what, partial(_ours, shape))):
            compared = None if name == naive else naive
            found.append(Case(name, wrap(f), make, work, shape.R * shape.T, compared, dtype=dtype))
    return found


def _arguments(shape: Shape, dtype: DTypeLike) -> tuple[jax.Array, ...]:
    """q, k, value, write, log_decay, state, and the outputs' gradient."""
    rng = np.random.default_rng(0)

    def normal(*size: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(size), jnp.float32)

    q, k, value, d_out = (normal(shape.R, shape.T, n) for n in (shape.K, shape.K, shape.V, shape.V))
    k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
    write, fade = (jax.nn.sigmoid(normal(shape.R, shape.T)) for _ in range(2))
    state = normal(shape.R, shape.K, shape.V)
    return *(x.astype(dtype) for x in (q, k, value)), write, -0.05 * fade, state, d_out.astype(dtype)


def _forward(f: Callable[..., tuple]) -> Callable[..., tuple]:
    return lambda *arguments: f(*arguments[:-1])


def _both(f: Callable[..., tuple]) -> Callable[..., tuple]:
    def run(*arguments: jax.Array) -> tuple:
        (out, state), back = jax.vjp(f, *arguments[:-1])
        return out, state, back((arguments[-1], state))

    return run


def _ours(shape: Shape, *inputs: jax.Array) -> tuple:
    q, k, value, write, log_decay, state = inputs
    segment = jnp.ones((shape.R, shape.T), jnp.int32)
    return delta_memory_scan(q, k, value, segment, write, log_decay=log_decay, state=state, chunk=shape.chunk)


def _plain(shape: Shape, *inputs: jax.Array) -> tuple:
    q, k, value, write, fade, state = inputs

    def chunks(x: jax.Array) -> jax.Array:
        return x.reshape(shape.R, -1, shape.chunk, *x.shape[2:]).swapaxes(0, 1).astype(jnp.float32)

    tokens = tuple(map(chunks, (q, k, value, write, fade)))
    state, out = jax.lax.scan(partial(_delta, shape.K**-0.5), state, tokens)
    return out.swapaxes(0, 1).reshape(value.shape).astype(value.dtype), state


def _delta(scale: float, state: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
    q, k, value, write, fade = chunk
    total, write = jnp.cumsum(fade, axis=1)[..., None], write[..., None]
    between = jnp.tril(jnp.exp(jnp.minimum(total - total.swapaxes(1, 2), 0)))
    links = jnp.tril(write * between * jnp.einsum("rck,rdk->rcd", k, k), -1)
    right = write * (value - jnp.exp(total) * (k @ state))
    rows = jax.scipy.linalg.solve_triangular(
        links + jnp.eye(q.shape[1])[None], right, lower=True, unit_diagonal=True
    )  # fmt: skip
    out = scale * (jnp.exp(total) * (q @ state) + (between * jnp.einsum("rck,rdk->rcd", q, k)) @ rows)
    written = jnp.einsum("rck,rcv->rkv", jnp.exp(total[:, -1:] - total) * k, rows)
    return jnp.exp(total[:, -1:]) * state + written, out
