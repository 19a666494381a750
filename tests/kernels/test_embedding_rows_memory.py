"""Lookup and row updates make nothing of the table's length: no temporary, no copy, on one device or many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdrec_kernels import embedding_rows as er

RULES = {
    "sgd": (er.update_sgd, er.init_sgd),
    "adagrad": (er.update_adagrad, er.init_adagrad),
    "adam": (er.update_adam, er.init_adam),
}
IDS, WIDTH = 300, 16


def step_of(name, form=None):
    """One step: look up, a loss of the rows, update."""
    update, _ = RULES[name]

    def step(table, slots, ids):
        values, unique, index = er.lookup(table, {"a": ids}, implementation=form)
        grads = jax.grad(lambda values: (values[index["a"]] ** 2).sum())(values)
        return update(table, slots, unique, grads, 0.1, implementation=form)

    return step


def compiled(name, length, form=None):
    table = jax.ShapeDtypeStruct((length, WIDTH), jnp.float32)
    slots = jax.eval_shape(RULES[name][1], table)
    ids = jax.ShapeDtypeStruct((IDS,), jnp.int32)
    return jax.jit(step_of(name, form), donate_argnums=(0, 1)).lower(table, slots, ids).compile()


@pytest.mark.parametrize("name", RULES)
def test_a_step_is_in_place_and_its_temporaries_do_not_grow_with_the_table(name):
    small, large = (compiled(name, length).memory_analysis() for length in (20_000, 2_000_000))
    assert large.temp_size_in_bytes == small.temp_size_in_bytes
    assert (
        large.alias_size_in_bytes == large.output_size_in_bytes - small.output_size_in_bytes + small.alias_size_in_bytes
    )
    assert large.alias_size_in_bytes >= 2_000_000 * WIDTH * 4


@pytest.mark.parametrize("name", RULES)
def test_a_step_needs_a_small_part_of_the_formulas_memory(name):
    ours, formula = (compiled(name, 200_000, form).memory_analysis() for form in ("xla", "reference"))
    assert formula.temp_size_in_bytes >= 200_000 * WIDTH * 4
    assert ours.temp_size_in_bytes < formula.temp_size_in_bytes / 10


@pytest.mark.parametrize("name", RULES)
def test_no_instruction_makes_a_second_table(name):
    text = compiled(name, 54_321).as_text()
    copies = [line for line in text.splitlines() if " copy(" in line and "54321" in line.split(" copy(")[0]]
    assert not copies


def test_the_dense_form_is_in_place_and_makes_at_most_two_arrays_of_the_tables_size():
    rows = 50_000
    table = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32)
    slots = jax.eval_shape(er.init_adam, table)
    step = jax.jit(lambda t, s, g: er.update_adam(t, s, None, g, 0.1, weight_decay=0.01), donate_argnums=(0, 1))
    memory = step.lower(table, slots, table).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= rows * (3 * WIDTH + 1) * 4
    assert memory.temp_size_in_bytes <= rows * (2 * WIDTH + 4) * 4


def test_the_result_is_the_same_every_time():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5_000, WIDTH)), jnp.float32)
    ids = jnp.asarray(np.random.default_rng(1).zipf(1.3, IDS) % 5_000, jnp.int32)
    step = jax.jit(step_of("adam"))
    first, second = (step(table, er.init_adam(table), ids) for _ in range(2))
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(x, y)


def test_devices_that_hold_the_table_each_move_it_alike():
    length, devices = 500, 4
    table = jnp.asarray(np.random.default_rng(0).normal(size=(length, WIDTH)), jnp.float32)
    ids = jnp.asarray(np.random.default_rng(1).integers(0, length, (devices * 8, 5)), jnp.int32)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))

    def local(table, slots, own):
        everywhere = jax.lax.all_gather(own, "data", tiled=True)
        values, unique, index = er.lookup(table, {"a": everywhere})
        start = jax.lax.axis_index("data") * own.shape[0]
        mine = jax.lax.dynamic_slice_in_dim(index["a"], start, own.shape[0])
        grads = jax.lax.psum(jax.grad(lambda values: (values[mine] ** 2).sum())(values), "data")
        return er.update_adam(table, slots, unique, grads, 0.1)

    whole = jax.P()
    sharded = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(whole, whole, jax.P("data")), out_specs=whole, check_vma=False)
    )
    put = lambda tree, spec: jax.device_put(tree, jax.NamedSharding(mesh, spec))  # noqa: E731
    got = sharded(put(table, whole), put(er.init_adam(table), whole), put(ids, jax.P("data")))
    expected = step_of("adam")(table, er.init_adam(table), ids)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
