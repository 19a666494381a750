"""Cross entropy and top-k compiled by the TPU compiler: for every generation, and for sixteen chips."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from mdrec_kernels.linear_xent import linear_xent, linear_xent_sum, top_k
from mdrec_kernels.linear_xent.shapes import MILLION, SHAPES, Shape

from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

MIB = 2**20
BEAUTY = next(shape for shape in SHAPES if shape.name == "beauty")


def arguments(shape: Shape, dtype=jnp.float32) -> tuple:
    sizes = ((shape.N, shape.D), dtype), ((shape.V, shape.D), jnp.float32)
    tokens = ((shape.N,), jnp.int32), ((shape.N,), jnp.float32), ((shape.groups, shape.V), jnp.bool_)
    return tuple(jax.ShapeDtypeStruct(*size) for size in (*sizes, *tokens, ((shape.N,), jnp.int32)))


def summed(x, w, target, weight, allowed, group, **options):
    options |= {"allowed": allowed, "group": group}
    return jax.value_and_grad(partial(linear_xent_sum, **options), argnums=(0, 1))(x, w, target, weight)


def recomputed(x, w, target, weight, allowed, group, **options):
    def loss(x, w):
        return jnp.sum(weight * linear_xent(x, w, target, allowed=allowed, group=group, **options))

    return jax.value_and_grad(loss, argnums=(0, 1))(x, w)


@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS)
def test_a_million_items_train_in_little_beside_the_gradient(chip: str) -> None:
    compiled = compile_for(chip, partial(summed, implementation="pallas_tpu"), *arguments(MILLION))
    assert compiled.kernels == 2
    assert compiled.temporaries <= 64 * MIB


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("loss", [summed, recomputed])
@pytest.mark.parametrize("chip", CHIPS)
def test_every_shape_is_taken(chip: str, loss) -> None:
    several = replace(BEAUTY, name="several groups", groups=3, V=12_289)
    odd = replace(BEAUTY, name="odd width", D=50, N=1000)
    for shape in (*(shape for shape in SHAPES if shape.V < 200_000), several, odd, MILLION):
        for dtype in (jnp.float32, jnp.bfloat16):
            compiled = compile_for(chip, partial(loss, implementation="pallas_tpu"), *arguments(shape, dtype))
            assert compiled.kernels == (2 if loss is summed else 3)
            # v5p and 7x store rows of fewer than 128 lanes otherwise than a kernel reads them: the table and its
            # gradient are copied into full rows.
            copies = 2 * shape.V * 128 * 4 if shape.D < 128 else 0
            assert compiled.temporaries <= 64 * MIB + copies


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("loss", [summed, recomputed])
def test_a_million_items_train_by_plain_xla_too(loss) -> None:
    compiled = compile_for("v5e", partial(loss, implementation="xla"), *arguments(MILLION))
    assert compiled.kernels == 0
    assert compiled.temporaries <= 2048 * MIB


@pytest.mark.tpu
@pytest.mark.parametrize(
    "chip", ["v5e", *(pytest.param(chip, marks=pytest.mark.slow) for chip in CHIPS if chip != "v5e")]
)
def test_top_k(chip: str) -> None:
    x, w, seen = ((1000, 64), jnp.float32), ((BEAUTY.V, 64), jnp.float32), ((1000, 50), jnp.int32)
    values = (jax.ShapeDtypeStruct(*size) for size in (x, w, seen, ((1, BEAUTY.V), jnp.bool_)))

    def best(x, w, seen, allowed):
        return top_k(x, w, 10, exclude=seen, allowed=allowed, implementation="pallas_tpu")

    compiled = compile_for(chip, best, *values)
    assert compiled.kernels == 1
    assert compiled.temporaries <= 16 * MIB


@pytest.mark.tpu
def test_sixteen_chips_share_the_tokens_and_the_items() -> None:
    shape = replace(MILLION, V=1_000_000)

    def step(mesh, x, w, target, weight, allowed, group):
        def local(x, target, weight, group, w, allowed):
            options = {"axis": "items", "implementation": "pallas_tpu"}
            value, (dx, dw) = summed(x, w, target, weight, allowed, group, **options)
            return jax.lax.psum(value, "data"), dx, jax.lax.psum(dw, "data")

        by_token, by_item = P("data"), P("items")
        specs = (by_token,) * 4 + (by_item, P(None, "items"))
        mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), by_token, by_item), check_vma=False)
        return mapped(x, target, weight, group, w, allowed)

    spread = (P("data"), P("items"), P("data"), P("data"), P(None, "items"), P("data"))
    pairs = zip(arguments(shape), spread, strict=True)
    compiled = compile_spmd(step, *pairs, axes={"data": 4, "items": 4})
    assert set(compiled.collectives) == {"all-reduce"}
    assert compiled.kernels == 3
    assert compiled.temporaries <= 512 * MIB
