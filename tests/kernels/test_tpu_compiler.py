"""The TPU compiler compiles for chips that are not here, and leaves the process's own devices alone."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P
from mdrec_kernels import tpu

from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

SQUARE = jax.ShapeDtypeStruct((1024, 256), jnp.float32)


def double(x: jax.Array) -> jax.Array:
    """2 x, by a kernel."""

    def body(x_ref, out_ref):
        out_ref[...] = 2 * x_ref[...]

    block = pl.BlockSpec((256, 256), lambda i: (i, 0))
    return pl.pallas_call(
        body,
        grid=(x.shape[0] // 256,),
        in_specs=[block],
        out_specs=block,
        out_shape=x,
        interpret=tpu.interpret(),
        compiler_params=tpu.compiler_params("double", ["parallel"], blocks=[((256, 256), x.dtype)] * 2, scratch=[]),
    )(x)


@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_for_one_chip(chip: str) -> None:
    compiled = compile_for(chip, double, SQUARE, donate=[0])
    assert compiled.kernels == 1
    assert compiled.temporaries == 0
    assert compiled.aliased == 1024 * 256 * 4
    assert not compiled.collectives
    assert jax.devices()[0].platform == "cpu"
    with tpu.interpreted():
        assert jax.jit(double)(jnp.ones((256, 256)))[0, 0] == 2


@pytest.mark.tpu
def test_a_program_for_sixteen_chips_names_its_collectives() -> None:
    def total(mesh, x):
        return jax.shard_map(
            lambda x: jax.lax.psum(double(x).sum(), "data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
            check_vma=False,
        )(x)

    rows = jax.ShapeDtypeStruct((16 * 256, 256), jnp.float32)
    compiled = compile_spmd(total, (rows, P("data")), axes={"data": 16})
    assert compiled.collectives == {"all-reduce": 1}
    assert compiled.kernels == 1


def test_what_does_not_fit_into_vmem_is_refused_before_it_is_compiled() -> None:
    ask = partial(tpu.compiler_params, "large", ["arbitrary"], scratch=[])
    with pytest.raises(NotImplementedError, match=r"large: .* 64.0 MiB of VMEM, and 48 MiB"):
        ask(blocks=[((8192, 1024), jnp.float32)])


def test_a_kernel_for_tpus_is_refused_elsewhere() -> None:
    with pytest.raises(NotImplementedError, match="the platform is cpu"):
        double(jnp.ones((256, 256)))


def test_buffers_take_whole_tiles() -> None:
    assert tpu.vmem_bytes((3, 5, 130), jnp.float32) == 3 * 8 * 256 * 4
    assert tpu.vmem_bytes((9,), jnp.bfloat16) == 16 * 128 * 2
