"""What `grouped_ffn` computes and holds: hardly more than the rows that there are ask for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int
from mdrec_kernels import dispatch
from mdrec_kernels.grouped_ffn import Tiling, grouped_ffn
from mdrec_kernels.grouped_ffn.blocks import CPU, choose_tiling, turns
from mdrec_kernels.grouped_ffn.pallas_tpu import ROWS, STRIP
from mdrec_kernels.grouped_ffn.shapes import SHAPES, Shape
from mdrec_kernels.grouped_ffn.visits import Visits, visits

from tests.kernels.fetches import fetches
from tests.kernels.ffn_cases import abstract, step

MIB = 2**20
SIXTEEN = next(shape for shape in SHAPES if shape.name == "sixteen")


def ends_of(rows: int, experts: int, seed: int, skew: float) -> tuple[jax.Array, jax.Array]:
    """First rows and ends of experts that get shares of the rows: equal ones, or as skewed as 1 / rank ** skew."""
    share = 1 / np.arange(1, experts + 1) ** skew
    counts = np.random.default_rng(seed).multinomial(rows, share / share.sum())
    ends = jnp.asarray(np.cumsum(counts), jnp.int32)
    return ends - jnp.asarray(counts, jnp.int32), ends


def rows_computed(starts: Int[Array, "E"], ends: Int[Array, "E"], length: int, tiling: Tiling) -> Int[Array, ""]:
    """Rows that go through the products of a class, those of blocks that are not full included."""
    rows = min(tiling.rows, length)
    if tiling.together > 1:
        number, together = turns(length, starts.size, rows, tiling.together)
        return jnp.int32(number * together * rows)
    rest, counts = min(tiling.rest or rows, rows), ends - starts
    return jnp.sum(counts // rows * rows + (counts % rows + rest - 1) // rest * rest)


def rows_in_tiles(visits: Visits, rows: int, strip: int) -> Int[Array, ""]:
    """Rows that a kernel computes: whole tiles where an expert fills them, else the strips that it has rows in."""
    made = jnp.arange(visits.tile.size) < visits.number
    strips = (visits.stop + strip - 1) // strip - visits.start // strip
    partly = jnp.where(visits.stop > visits.start, strips * strip, 0)
    return jnp.sum(jnp.where(made, jnp.minimum(partly, rows), 0))


def flops(shape: Shape, tiling: Tiling, f=grouped_ffn) -> float:
    """By XLA's count, which takes the body of a loop once."""
    x, counts, classes = abstract(shape)
    arguments = (x, counts, classes) if f is grouped_ffn else (x, counts, classes, x)
    analysis = jax.jit(partial(f, tiling=tiling)).lower(*arguments).compile().cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


@pytest.mark.parametrize(("f", "passes"), [(grouped_ffn, 1), (step, 3)])
@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_sixteen_experts_cost_at_most_a_fifth_more_than_one_on_a_cpu(f, passes, skew) -> None:
    # Two loops, of blocks of 256 and of 32 rows: XLA counts one block of each. Forward and backward double them.
    of_a_row = flops(SIXTEEN, CPU, f) / (CPU.rows + CPU.rest)
    rows = int(rows_computed(*ends_of(SIXTEEN.T, SIXTEEN.experts, 0, skew), SIXTEEN.T, CPU))
    ideal = passes * 2 * SIXTEEN.weights_of_a_row * SIXTEEN.T
    assert 1 <= of_a_row * rows / ideal <= 1.2


def test_blocks_together_cost_at_most_a_fifth_more_than_the_rows() -> None:
    ideal = 2 * SIXTEEN.weights_of_a_row * SIXTEEN.T
    assert 1 <= flops(SIXTEEN, Tiling(64, together=1000)) / ideal <= 1.2


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_at_most_a_twentieth_of_the_rows_is_added_where_experts_have_two_thousand(seed, skew) -> None:
    rows, experts = 16 * 2048, 16
    bound = ends_of(rows, experts, seed, skew)
    assert int(rows_computed(*bound, rows, CPU)) <= 1.05 * rows
    for tile in ROWS:
        assert int(rows_in_tiles(visits(*bound, rows, tile, every=False), tile, STRIP)) <= 1.05 * rows
    with dispatch.compiling_for("gpu"):
        tiling = choose_tiling(rows, experts, 10 * MIB)
    assert tiling.together > 1
    assert int(rows_computed(*bound, rows, tiling)) <= 1.05 * rows


def temporaries(shape: Shape, f, dtype=jnp.float32, **options) -> int:
    x, counts, classes = abstract(shape, dtype)
    arguments = (x, counts, classes) if f is grouped_ffn else (x, counts, classes, x)
    memory = jax.jit(partial(f, **options)).lower(*arguments).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_the_forward_pass_holds_a_block_and_the_gradient_one_hidden_layer() -> None:
    hidden = 4 * SIXTEEN.T * SIXTEEN.classes[0][1]
    weights = 4 * 16 * SIXTEEN.weights_of_a_row
    assert temporaries(SIXTEEN, grouped_ffn) < 2 * MIB
    assert temporaries(SIXTEEN, step) < hidden + weights + 4 * MIB


def test_the_formula_holds_a_hidden_layer_for_every_expert() -> None:
    assert temporaries(SIXTEEN, step) < temporaries(SIXTEEN, step, implementation="reference") / 10


def test_a_kernel_fetches_each_experts_weights_once_and_each_tile_of_rows_once() -> None:
    rows, tile = 2048, 512
    counts = jnp.asarray([700, 0, 500, 30, 818], jnp.int32)
    ends = jnp.cumsum(counts)
    plan = visits(ends - counts, ends, rows, tile, every=False)
    number = int(plan.number)
    assert number == 7  # 4 tiles, and 3 borders of experts inside of one
    assert fetches((number,), lambda i: (plan.expert[i], 0, 0)) == 4
    assert fetches((number,), lambda i: (plan.tile[i], 0)) == 4
