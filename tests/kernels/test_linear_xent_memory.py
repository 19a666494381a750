"""What the compiled losses need beside their inputs and outputs: blocks of scores, never tokens x items."""

import jax
import jax.numpy as jnp
import pytest
from mdrec_kernels.linear_xent import linear_xent, linear_xent_sum, sampled_xent_sum, target_rank, top_k
from mdrec_kernels.linear_xent.shapes import MILLION, SHAPES, Shape

MIB = 2**20
BEAUTY = next(shape for shape in SHAPES if shape.name == "beauty")


def temporaries(f, *shapes) -> int:
    """Bytes of the temporary memory of f compiled for (shape, type) arguments; nothing is run."""
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return jax.jit(f).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def loss_arguments(shape: Shape, dtype=jnp.float32):
    states, items = ((shape.N, shape.D), dtype), ((shape.V, shape.D), jnp.float32)
    allowed = ((1, shape.V), jnp.bool_)
    return states, items, ((shape.N,), jnp.int32), ((shape.N,), jnp.float32), allowed


def summed(x, w, target, weight, allowed, **options):
    return jax.value_and_grad(
        lambda x, w: linear_xent_sum(x, w, target, weight, allowed=allowed, **options), argnums=(0, 1)
    )(x, w)


def recomputed(x, w, target, weight, allowed):
    return jax.value_and_grad(
        lambda x, w: jnp.sum(weight * linear_xent(x, w, target, allowed=allowed)), argnums=(0, 1)
    )(x, w)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("loss", [summed, recomputed])
def test_a_million_items_need_little_beside_the_gradient(loss, dtype) -> None:
    assert temporaries(loss, *loss_arguments(MILLION, dtype)) < 128 * MIB


def test_beauty_needs_a_small_part_of_the_formulas_memory() -> None:
    ours = temporaries(summed, *loss_arguments(BEAUTY))
    formula = temporaries(lambda *a: summed(*a, implementation="reference"), *loss_arguments(BEAUTY))
    assert ours < 40 * MIB
    assert ours < formula / 20


def test_the_gradient_of_the_items_is_added_up_in_place() -> None:
    # Twice the tokens: more of their own rows (x, its columns, dx, the losses), nothing of the catalogue's length.
    def grown(tokens: int) -> Shape:
        return Shape("grown", N=tokens, V=MILLION.V, D=MILLION.D, items=MILLION.V)

    one, two = (temporaries(summed, *loss_arguments(grown(n))) for n in (4096, 8192))
    assert two - one <= 8 * 4096 * MILLION.D * 4


def test_ranking_and_sampling_hold_blocks_only() -> None:
    queries = ((8192, 64), jnp.float32), ((500_352, 64), jnp.float32), ((8192, 50), jnp.int32)
    assert temporaries(lambda x, w, e: target_rank(x, w, e[:, 0], exclude=e), *queries) < 256 * MIB
    assert temporaries(lambda x, w, e: top_k(x, w, 100, exclude=e), *queries) < 256 * MIB
    rows = ((131_072, 64), jnp.float32)
    drawn = ((8192, 64), jnp.float32)

    def sampled(x, positive, negatives, weight):
        return jax.grad(sampled_xent_sum, argnums=(0, 1, 2))(x, positive, negatives, weight)

    assert temporaries(sampled, rows, rows, drawn, ((131_072,), jnp.float32)) < 256 * MIB
