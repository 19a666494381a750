"""What the compiled training step needs beside inputs and outputs: blocks, and states of chunks, never of tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from mdrec_kernels.delta_memory_scan import delta_memory_scan
from mdrec_kernels.delta_memory_scan.shapes import SHAPES, Shape

MIB = 2**20


def temporaries(shape: Shape, form: str, T: int | None = None) -> int:
    """Bytes of the temporary memory of a step's gradient; nothing is run."""
    T = T or shape.T
    tokens = [jax.ShapeDtypeStruct((shape.R, T, n), jnp.float32) for n in (shape.K, shape.K, shape.V)]
    gates = [jax.ShapeDtypeStruct((shape.R, T), jnp.float32)] * 2
    state = jax.ShapeDtypeStruct((shape.R, shape.K, shape.V), jnp.float32)
    run = partial(delta_memory_scan, chunk=shape.chunk, implementation=form)

    def loss(q, k, value, write, log_decay, state):
        segment = jnp.ones((shape.R, T), jnp.int32)
        out, end = run(q, k, value, segment, write, log_decay=log_decay, state=state)
        return (out**2).sum() + (end**2).sum()

    arguments = *tokens, *gates, state
    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("shape", SHAPES[:2], ids=lambda shape: shape.name)
def test_a_step_needs_a_small_part_of_the_recurrences_memory(shape: Shape) -> None:
    ours, formula = (temporaries(shape, form) for form in ("xla", "reference"))
    assert ours < 32 * MIB
    assert ours < formula / 20


def test_of_wide_keys_one_state_a_block_is_kept() -> None:
    shape = Shape("wide keys", R=4, T=4096, K=256, V=128, chunk=16)
    every = shape.R * (shape.T // shape.chunk) * shape.K * shape.V * 4
    assert temporaries(shape, "xla") < every / 2
