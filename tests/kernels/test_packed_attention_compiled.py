"""Packed attention compiled by the TPU compiler: for every generation, and for sixteen chips."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from mdrec_kernels.packed_attention import packed_attention
from mdrec_kernels.packed_attention.shapes import SHAPES, Shape

from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

MIB = 2**20
ML1M = next(shape for shape in SHAPES if shape.name == "ml1m")


@dataclass(frozen=True)
class Options:
    """Of a call: heads of the bias tables (0 for none), and what else is not by default."""

    position: int = 0
    time: int = 0
    dropout: float = 0.0
    causal: bool = True


def gradient(shape: Shape, options: Options):
    """Value and gradient of a sum of the outputs; q, k, v with the heads side by side, as a projection makes them."""

    def loss(qkv, tables, segment, time, keys):
        q, k, v = (x.reshape(*x.shape[:2], shape.H, shape.K) for x in qkv)
        out = packed_attention(
            q, k, v, segment, mode=shape.mode, window=shape.window, normalizer=float(shape.window),
            causal=options.causal, position_bias=tables[0], time_bias=tables[1], time=time,
            dropout_rate=options.dropout, dropout_keys=keys, implementation="pallas_tpu",
        )  # fmt: skip
        return jnp.sum(jnp.square(out.astype(jnp.float32)))

    return jax.value_and_grad(loss, argnums=(0, 1))


def arguments(shape: Shape, options: Options, rows: int, dtype=jnp.float32) -> tuple:
    x = jax.ShapeDtypeStruct((rows, shape.T, shape.H * shape.K), dtype)
    columns = jax.ShapeDtypeStruct((rows, shape.T), jnp.int32)
    tables = tuple(
        jax.ShapeDtypeStruct((heads, n), jnp.float32) if heads else None
        for heads, n in ((options.position, shape.window), (options.time, 64))
    )
    return (x, x, x), tables, columns, columns, jax.ShapeDtypeStruct((rows, 2), jnp.uint32)


@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS)
def test_forward_and_backward_are_one_kernel_each_and_copy_nothing(chip: str) -> None:
    options = Options(position=1, time=2, dropout=0.2)
    compiled = compile_for(chip, gradient(ML1M, options), *arguments(ML1M, options, ML1M.R))
    assert compiled.kernels == 2
    assert compiled.temporaries <= 12 * MIB


def stored_anew(chip: str, shape: Shape) -> int:
    """Bytes of the four operands in rows of whole lanes, which v5p and 7x store anew; nothing of columns x columns."""
    return 4 * shape.R * shape.T * max(shape.H * shape.K, 128) * 4 if chip in ("v5p", "7x") else 0


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES, Shape("wide", R=8, T=1024, H=4, K=128, mean=300.0, window=1024)])
@pytest.mark.parametrize("chip", CHIPS)
def test_every_shape_is_taken(chip: str, shape: Shape, dtype) -> None:
    for options in (Options(), Options(causal=False), Options(position=shape.H, time=shape.H), Options(dropout=0.2)):
        compiled = compile_for(chip, gradient(shape, options), *arguments(shape, options, shape.R, dtype))
        assert compiled.kernels == 2
        assert compiled.temporaries <= 9 * MIB + stored_anew(chip, shape)


@pytest.mark.tpu
def test_sixteen_chips_share_the_rows_and_sum_the_tables_gradients() -> None:
    options = Options(position=2)

    def step(mesh, qkv, tables, segment, time, keys):
        def local(*values):
            value, (dx, dtables) = gradient(ML1M, options)(*values)
            return jax.lax.psum(value, "data"), dx, jax.lax.psum(dtables, "data")

        specs, out = (P("data"), P(), P("data"), P("data"), P("data")), (P(), P("data"), P())
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)(
            qkv, tables, segment, time, keys
        )

    qkv, tables, segment, time, keys = arguments(ML1M, options, 16 * ML1M.R)
    split = ((value, P("data")) for value in (segment, time, keys))
    compiled = compile_spmd(step, (qkv, P("data")), (tables, P()), *split, axes={"data": 16})
    assert set(compiled.collectives) == {"all-reduce"}
    assert compiled.kernels == 2
    assert compiled.temporaries <= 12 * MIB
