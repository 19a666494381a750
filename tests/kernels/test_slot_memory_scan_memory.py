"""What the compiled training step needs beside inputs and outputs: blocks, and states of chunks, never of tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from mdrec_kernels.slot_memory_scan import slot_memory_scan
from mdrec_kernels.slot_memory_scan.shapes import SHAPES, Shape

MIB = 2**20


def temporaries(shape: Shape, form: str, T: int | None = None) -> int:
    """Bytes of the temporary memory of a step's gradient; nothing is run."""
    T = T or shape.T
    tokens = [jax.ShapeDtypeStruct((shape.R, T, n), jnp.float32) for n in (shape.K, shape.K, shape.V)]
    gates = [jax.ShapeDtypeStruct((shape.R, T), jnp.float32)] * 2
    state = jax.ShapeDtypeStruct((shape.R, shape.M, shape.V), jnp.float32)
    slots = [jax.ShapeDtypeStruct((shape.M, shape.K), jnp.float32)] if shape.mode == "erase" else []
    run = partial(slot_memory_scan, mode=shape.mode, chunk=shape.chunk, implementation=form)

    def loss(q, k, value, write, fade, state, *slots):
        options = {"slots": slots[0], "erase": fade} if slots else {"log_decay": fade}
        out, end = run(q, k, value, jnp.ones((shape.R, T), jnp.int32), write, state=state, **options)
        return (out**2).sum() + (end**2).sum()

    arguments = *tokens, *gates, state, *slots
    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("shape", SHAPES[:2], ids=lambda shape: shape.name)
def test_a_step_needs_a_small_part_of_the_recurrences_memory(shape: Shape) -> None:
    ours, formula = (temporaries(shape, form) for form in ("xla", "reference"))
    assert ours < 32 * MIB
    assert ours < formula / 20


def test_of_many_slots_one_state_a_block_is_kept() -> None:
    shape = Shape("many slots", R=4, T=8192, K=32, V=128, M=256, chunk=16)
    every = shape.R * (shape.T // shape.chunk) * shape.M * shape.V * 4
    assert temporaries(shape, "xla") < every / 2
