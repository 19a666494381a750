"""What `memory_bank_read` is compared with: the formula, with all scores at once."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from mdrec_kernels.bench import Case
from mdrec_kernels.memory_bank_read import Bank, memory_bank_read
from mdrec_kernels.memory_bank_read.shapes import Shape
from mdrec_kernels.roofline import Work


def cases(shape: Shape, bfloat16: bool = False) -> list[Case]:
    """Reads of a local and a global bank behind a gate a token, forward, and forward and backward.

    Args:
        bfloat16: queries, outputs and products in bfloat16; else in float32.
    """
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    make = cache(partial(_arguments, shape, dtype))
    slots, tokens = shape.M + shape.G, float(np.dtype(dtype).itemsize * shape.T * shape.D)
    product = 2.0 * shape.T * slots * shape.D
    once = Work(2 * product, 2 * tokens)
    both = once + Work(5 * product, 3 * tokens)
    found = []
    for what, f, work in (("forward", _forward, once), ("forward and backward", _both, both)):
        naive = f"{what}, naive"
        forms: dict[str, str | None] = {naive: "reference", what: None}
        if jax.default_backend() == "gpu":
            forms |= {f"{what}, xla": "xla"} | ({f"{what}, cudnn": "cudnn"} if bfloat16 else {})
        for name, form in forms.items():
            run = partial(f, implementation=form)
            found.append(Case(name, run, make, work, shape.T, None if name == naive else naive, dtype=dtype))
    return found


def _arguments(shape: Shape, dtype: DTypeLike) -> tuple:
    rng = np.random.default_rng(0)

    def normal(*size: int, kind: DTypeLike = dtype) -> jax.Array:
        return jnp.asarray(rng.standard_normal(size), kind)

    wide = partial(normal, kind=jnp.float32)
    sizes = [n for n in (shape.M, shape.G) if n]
    banks = [Bank(wide(n, shape.D), wide(n, shape.D), normal(shape.T)) for n in sizes]
    return normal(shape.T, shape.D), banks, normal(shape.T, shape.D)


def _forward(q: jax.Array, banks: list[Bank], _: jax.Array, implementation: str | None) -> jax.Array:
    return memory_bank_read(q, banks, implementation=implementation)


def _both(q: jax.Array, banks: list[Bank], d_out: jax.Array, implementation: str | None) -> tuple:
    read: Callable = partial(memory_bank_read, implementation=implementation)
    out, back = jax.vjp(read, q, banks)
    return out, back(d_out)
