"""By the compiler for TPUs: a step on rows of a table is in place, and its temporaries do not grow with the table."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from mdrec_kernels import embedding_rows as er

from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

pytestmark = pytest.mark.tpu

RULES = {
    "sgd": (er.update_sgd, er.init_sgd),
    "adagrad": (er.update_adagrad, er.init_adagrad),
    "adam": (er.update_adam, er.init_adam),
}
IDS = 25_856
MIB = 2**20


def update(name: str, chip: str, rows: int, width: int = 128):
    """One update of the rows of a donated table."""
    rule, init = RULES[name]
    table = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    unique, grads = jax.ShapeDtypeStruct((IDS,), jnp.int32), jax.ShapeDtypeStruct((IDS, width), jnp.float32)

    def step(table, slots, unique, grads):
        return rule(table, slots, unique, grads, 0.1, weight_decay=0.01, implementation="pallas_tpu")

    return compile_for(chip, step, table, jax.eval_shape(init, table), unique, grads, donate=(0, 1))


def table_bytes(name: str, rows: int, width: int = 128) -> int:
    table = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    state = table, jax.eval_shape(RULES[name][1], table)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("chip", CHIPS)
def test_an_update_is_in_place_and_needs_room_for_row_numbers_only(chip, name) -> None:
    large = update(name, chip, 2_000_000)
    assert large.kernels == 1
    assert large.temporaries < MIB
    assert large.aliased >= table_bytes(name, 2_000_000)


@pytest.mark.parametrize("chip", CHIPS)
def test_temporaries_are_the_same_for_a_table_ten_times_as_long(chip) -> None:
    assert update("adagrad", chip, 200_000).temporaries == update("adagrad", chip, 2_000_000).temporaries


@pytest.mark.parametrize("chip", CHIPS)
def test_rows_of_several_tiles(chip) -> None:
    assert update("adam", chip, 500_000, 384).temporaries < MIB


@pytest.mark.parametrize("chip", CHIPS)
def test_a_lookup_needs_room_for_row_numbers_only(chip) -> None:
    table, ids = jax.ShapeDtypeStruct((2_000_000, 128), jnp.float32), jax.ShapeDtypeStruct((IDS,), jnp.int32)
    compiled = compile_for(chip, lambda t, i: er.lookup(t, {"a": i}, implementation="pallas_tpu"), table, ids)
    assert compiled.kernels == 1
    assert compiled.temporaries < MIB


def test_devices_that_hold_the_table_each_exchange_ids_and_gradients_alone() -> None:
    def step(mesh, state, ids):
        def local(state, own):
            everywhere = jax.lax.all_gather(own, "data", tiled=True)
            values, unique, index = er.lookup(state[0], {"a": everywhere}, implementation="pallas_tpu")
            mine = jax.lax.dynamic_slice_in_dim(index["a"], jax.lax.axis_index("data") * own.size, own.size)
            grads = jax.lax.psum(jax.grad(lambda values: (values[mine] ** 2).sum())(values), "data")
            return er.update_adagrad(*state, unique, grads, 0.1, implementation="pallas_tpu")

        return jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False)(state, ids)

    table = jax.ShapeDtypeStruct((1_000_000, 128), jnp.float32)
    state, ids = (table, jax.eval_shape(er.init_adagrad, table)), jax.ShapeDtypeStruct((16 * 512,), jnp.int32)
    compiled = compile_spmd(step, (state, P()), (ids, P("data")), axes={"data": 16}, donate=(0,))
    assert compiled.collectives == {"all-gather": 1, "all-reduce": 1}
    assert compiled.kernels == 2
    assert compiled.aliased >= table_bytes("adagrad", 1_000_000)
    assert compiled.temporaries < 16 * MIB  # values and their gradients: 8192 x 128 floats each
