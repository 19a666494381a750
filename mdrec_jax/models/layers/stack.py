"""A stack of equal blocks as one module, run in a compiled loop or unrolled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SCAN_FROM_LAYERS = 6
"""Depth from which blocks run as one compiled loop: unrolled is faster, and compiles in time up to here."""


def stack(build: Callable[[jax.Array], Any], key: jax.Array, layers: int) -> Any:
    """`layers` blocks as one module whose parameters have the layers as their first axis."""
    return jax.vmap(build)(jax.random.split(key, layers))


def run_stack[Carry, Out](
    blocks: Any,
    step: Callable[[Any, Carry, jax.Array], tuple[Carry, Out]],
    x: Carry,
    *,
    layers: int,
    remat: bool = False,
) -> tuple[Carry, Out]:
    """x after `x, out = step(block, x, number)` for each block of a stack, and all outs, layers as their first axis.

    x and out are arrays of any tree. From `SCAN_FROM_LAYERS` blocks on, one compiled block is run in a loop, whose
    compile time does not grow with depth.

    Args:
        remat: keep only the blocks' inputs for the backward pass and compute the rest again.
    """
    scan = layers >= SCAN_FROM_LAYERS
    if remat:
        step = jax.checkpoint(step, prevent_cse=not scan)
    numbers = jnp.arange(layers, dtype=jnp.uint32)
    if scan:
        return jax.lax.scan(lambda x, block: step(block[0], x, block[1]), x, (blocks, numbers))
    outs = []
    for layer in range(layers):
        x, out = step(jax.tree.map(lambda p, layer=layer: p[layer], blocks), x, numbers[layer])
        outs.append(out)
    return x, jax.tree.map(lambda *out: jnp.stack(out), *outs)
