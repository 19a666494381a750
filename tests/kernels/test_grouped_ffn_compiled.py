"""By the compiler for TPUs: the kernels fit, and nothing of the size of the hidden layer is stored."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from mdrec_kernels.grouped_ffn import grouped_ffn
from mdrec_kernels.grouped_ffn.shapes import SHAPES

from tests.kernels.ffn_cases import abstract, step
from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

pytestmark = pytest.mark.tpu

MIB = 2**20
SHAPE = {shape.name: shape for shape in SHAPES}
train = partial(step, implementation="pallas_tpu")


@pytest.mark.parametrize("chip", CHIPS)
def test_forward_and_backward_in_float32(chip) -> None:
    x, counts, classes = abstract(SHAPE["sixteen"])
    assert compile_for(chip, partial(grouped_ffn, implementation="pallas_tpu"), x, counts, classes).temporaries < MIB
    compiled = compile_for(chip, train, x, counts, classes, x)
    assert compiled.kernels == 2
    assert compiled.temporaries < MIB


@pytest.mark.parametrize("chip", CHIPS)
def test_bfloat16_rows_need_room_for_the_weights_in_bfloat16(chip) -> None:
    x, counts, classes = abstract(SHAPE["long"], jnp.bfloat16)
    compiled = compile_for(chip, train, x, counts, classes, x)
    weights = sum(w.size for w in jax.tree.leaves(classes))
    assert compiled.kernels == 4
    assert compiled.temporaries < 2 * weights + 2 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("chip", CHIPS)
def test_the_shape_of_a_pod(chip, dtype) -> None:
    # The hidden layer of the wider class alone would be 512 MiB, the formula's sixteen times that.
    x, counts, classes = abstract(SHAPE["pod"], dtype)
    assert compile_for(chip, train, x, counts, classes, x).temporaries < 24 * MIB


@pytest.mark.slow
def test_experts_too_wide_for_vmem_are_compiled_in_parts() -> None:
    x, counts, classes = abstract(SHAPE["wide"], jnp.bfloat16)
    compiled = compile_for("v5e", partial(grouped_ffn, implementation="pallas_tpu"), x, counts, classes)
    assert compiled.kernels > 1


def test_devices_that_share_the_rows_sum_the_weights_gradients_and_exchange_nothing_else() -> None:
    x, counts, classes = abstract(SHAPE["small"])

    def sharded(mesh, x, counts, classes, dy):
        def local(x, counts, classes, dy):
            y, dx, dw = train(x, counts[0], classes, dy)
            return y, dx, jax.lax.psum(dw, "data")

        split = P("data")
        return jax.shard_map(
            local, mesh=mesh, in_specs=(split, split, P(), split), out_specs=(split, split, P()), check_vma=False
        )(x, counts, classes, dy)

    counts = jax.ShapeDtypeStruct((16, *counts.shape), counts.dtype)
    compiled = compile_spmd(
        sharded, (x, P("data")), (counts, P("data")), (classes, P()), (x, P("data")), axes={"data": 16}
    )
    assert set(compiled.collectives) == {"all-reduce"}
    assert compiled.kernels == 4
