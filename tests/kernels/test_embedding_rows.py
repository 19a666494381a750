"""Looked-up rows are read once, and updates of touched rows are the rule's formula and touch nothing else."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from mdrec_kernels import embedding_rows as er
from mdrec_kernels import tpu
from mdrec_kernels.embedding_rows import xla
from mdrec_kernels.embedding_rows.shapes import SHAPES

RULES = {
    "sgd": (er.update_sgd, er.init_sgd),
    "adagrad": (er.update_adagrad, er.init_adagrad),
    "adam": (er.update_adam, er.init_adam),
}


def table_of(rows, width=8, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, width)), jnp.float32)


def assert_equal(got, expected):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(got, expected, tolerance):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@partial(jax.jit, static_argnums=2)
def lookup(table, ids, implementation):
    return er.lookup(table, ids, implementation=implementation)


@pytest.mark.parametrize("length", [7, 100_000])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_values_at_the_index_are_the_rows_of_the_ids(length, data):
    table = table_of(length)
    number = st.integers(-1, length)
    ids = {
        "input": np.asarray(
            data.draw(st.lists(st.lists(number, min_size=3, max_size=3), min_size=2, max_size=2)), np.int32
        ),
        "targets": np.asarray(data.draw(st.lists(number, min_size=5, max_size=5)), np.int32),
    }
    values, unique, index = lookup(table, ids, None)
    padded = np.concatenate([table, np.zeros((1, 8), np.float32)])
    everything = np.concatenate([x.ravel() for x in ids.values()])
    named = np.unique(everything[(everything >= 0) & (everything < length)])
    for name, x in ids.items():
        assert index[name].shape == x.shape
        np.testing.assert_array_equal(values[index[name]], padded[np.where((x < 0) | (x >= length), length, x)])
    np.testing.assert_array_equal(unique[: named.size], named)
    assert (np.asarray(unique[named.size :]) == length).all()
    assert unique.size == values.shape[0] == min(everything.size, length + 1)
    assert_equal((values, unique, index), lookup(table, ids, "reference"))


def test_both_ways_to_find_the_distinct_ids_agree():
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 51, 200), jnp.int32)
    assert_equal(xla._by_mark(ids, 50, 51), xla._by_sort(ids, 50, 51))


def test_more_slots_may_be_asked_for_but_not_too_few():
    table, ids = table_of(10), {"a": jnp.asarray([3, 3, 1])}
    values, unique, _ = er.lookup(table, ids, max_rows=6)
    np.testing.assert_array_equal(unique, [1, 3, 10, 10, 10, 10])
    assert values.shape == (6, 8)
    assert (np.asarray(values[2:]) == 0).all()
    with pytest.raises(ValueError, match="max_rows is 2"):
        er.lookup(table, ids, max_rows=2)


def test_repeated_ids_sum_their_gradients():
    table, ids = table_of(10), {"a": jnp.asarray([[4, 2], [4, 9]])}
    values, unique, index = er.lookup(table, ids)
    weight = table_of(4, seed=1).reshape(2, 2, 8)
    grads = jax.grad(lambda v: (v[index["a"]] * weight).sum())(values)
    np.testing.assert_array_equal(unique, [2, 4, 9, 10])
    np.testing.assert_allclose(grads[:3], [weight[0, 1], weight[0, 0] + weight[1, 0], weight[1, 1]], rtol=1e-6)


def step_of(name, length, steps, seed=0, weight_decay=0.01, implementation=None):
    """A table and slots after a few steps on random rows, and the same steps by the dense form."""
    update, init = RULES[name]
    some = jax.jit(partial(update, weight_decay=weight_decay, implementation=implementation))
    every = jax.jit(partial(update, weight_decay=weight_decay))
    lookup = jax.jit(er.lookup)
    generator, table = np.random.default_rng(seed), table_of(length)
    state = rows_state = table, init(table)
    for _ in range(steps):
        ids = {"a": jnp.asarray(generator.integers(0, length, 30), jnp.int32)}
        values, unique, _ = lookup(table, ids)
        grads = np.float32(generator.normal(size=values.shape))
        grads *= generator.random((len(values), 1)) > 0.2  # a looked-up row may have no gradient
        rows_state = some(*rows_state, unique, grads, jnp.float32(0.1))
        dense_grad = jnp.zeros_like(table).at[unique].add(grads, mode="drop")
        state = every(*state, None, dense_grad, jnp.float32(0.1))
    return rows_state, state


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("chunk", [8, 1024])
def test_rows_and_dense_forms_and_the_formula_give_one_table(name, chunk, monkeypatch):
    monkeypatch.setattr(xla, "CPU_CHUNK", chunk)  # 30 slots are no multiple of 8: the last chunk overlaps
    rows, dense = step_of(name, 60, 4)
    formula, _ = step_of(name, 60, 4, implementation="reference")
    assert_close(rows, dense, 1e-6)
    assert_close(rows, formula, 1e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("form", ["rows", "dense"])
def test_rows_without_a_gradient_keep_their_bits(name, form):
    update, _ = RULES[name]
    table = table_of(50)
    (before, slots), _ = step_of(name, 50, 2)
    unique = jnp.asarray([3, 7, 20, 50, 50], jnp.int32)
    grads = table_of(5, seed=2).at[1].set(0.0)
    if form == "rows":
        after = update(before, slots, unique, grads, 0.1, weight_decay=0.1)
    else:
        grad = jnp.zeros_like(table).at[unique].add(grads, mode="drop")
        after = update(before, slots, None, grad, 0.1, weight_decay=0.1)
    untouched = np.setdiff1d(np.arange(50), [3, 20])
    for x, y in zip(jax.tree.leaves((before, slots)), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(x[untouched], y[untouched])
        assert (np.asarray(x)[[3, 20]] != np.asarray(y)[[3, 20]]).all()


def test_rows_touched_in_every_step_get_exactly_adam():
    table = table_of(20)
    optimiser = optax.adam(0.1, 0.9, 0.98, 1e-8)
    state, expected, got = optimiser.init(table), table, (table, er.init_adam(table))
    for seed in range(5):
        grad = table_of(20, seed=seed + 1)
        updates, state = optimiser.update(grad, state)
        expected = optax.apply_updates(expected, updates)
        got = er.update_adam(*got, None, grad, 0.1, b2=0.98)
    np.testing.assert_allclose(got[0], expected, atol=1e-5)
    np.testing.assert_array_equal(got[1].count, 5)


def test_the_first_step_of_a_row_is_one_learning_rate_however_late():
    table = table_of(6)
    state, update = (table, er.init_adam(table)), jax.jit(er.update_adam)
    for _ in range(100):
        state = update(*state, jnp.asarray([2], jnp.int32), jnp.ones((1, 8)), 0.01)
    late, _ = update(*state, jnp.asarray([4], jnp.int32), jnp.full((1, 8), -3.0), 0.01)
    np.testing.assert_allclose(late[4] - table[4], 0.01, rtol=1e-4)


def test_adam_without_momentum_divides_by_no_zero():
    table = table_of(6)
    after, _ = er.update_adam(
        table, er.init_adam(table), jnp.asarray([2], jnp.int32), jnp.ones((1, 8)), 0.01, b1=0.0, b2=0.0
    )
    np.testing.assert_allclose(after[2], table[2] - 0.01, rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_no_number_is_seen(name):
    update, init = RULES[name]
    table = table_of(6)
    after, _ = update(table, init(table), jnp.asarray([2], jnp.int32), jnp.full((1, 8), jnp.nan), 0.01)
    assert np.isnan(after[2]).all()
    np.testing.assert_array_equal(np.delete(after, 2, 0), np.delete(table, 2, 0))


def test_a_bfloat16_table_is_updated_in_float32():
    table = table_of(6).astype(jnp.bfloat16)
    slots = er.init_adam(table)
    after, slots = er.update_adam(table, slots, jnp.asarray([2], jnp.int32), jnp.ones((1, 8)), 0.25)
    assert after.dtype == jnp.bfloat16
    assert slots.mu.dtype == jnp.float32
    np.testing.assert_array_equal(after[2], (table[2].astype(jnp.float32) - 0.25).astype(jnp.bfloat16))


@pytest.mark.parametrize("name", RULES)
def test_bfloat16_errs_at_most_twice_as_much_as_the_formula_in_bfloat16(name):
    update, init = RULES[name]
    narrow = table_of(50).astype(jnp.bfloat16)
    unique = jnp.arange(0, 50, 2, dtype=jnp.int32)

    def stepped(form, dtype):
        table, step = narrow.astype(dtype), jax.jit(partial(update, weight_decay=0.01, implementation=form))
        slots = init(table)
        for seed in range(3):
            grads = table_of(25, seed=seed).astype(jnp.bfloat16).astype(dtype)
            table, slots = step(table, slots, unique, grads, 0.1)
            assert table.dtype == dtype
        return table.astype(jnp.float32)

    exact = stepped("reference", jnp.float32)
    ours, naive = (float(jnp.linalg.norm(stepped(form, jnp.bfloat16) - exact)) for form in ("xla", "reference"))
    assert 0 < ours <= 2 * naive


def test_float64_tables_are_updated_in_float64():
    with jax.enable_x64(True):
        table = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)))
        grads, unique = jnp.ones((1, 8)), jnp.asarray([2], jnp.int32)
        got, expected = (
            er.update_adam(table, er.init_adam(table), unique, grads, 0.25, implementation=name)
            for name in ("xla", "reference")
        )
        assert_close(got, expected, 1e-15)


def test_gradients_of_another_shape_are_refused():
    table = table_of(6)
    with pytest.raises(ValueError, match="row_grads"):
        er.update_sgd(table, er.SgdSlots(), jnp.asarray([1, 2], jnp.int32), jnp.ones((1, 8)), 0.1)
    with pytest.raises(ValueError, match="grad"):
        er.update_sgd(table, er.SgdSlots(), None, jnp.ones((5, 8)), 0.1)


def test_shapes_are_what_the_operation_accepts():
    for shape in SHAPES:
        table = jax.ShapeDtypeStruct((shape.V, shape.D), jnp.float32)
        ids = {"a": jax.ShapeDtypeStruct((shape.ids,), jnp.int32)}
        values, unique, index = jax.eval_shape(er.lookup, table, ids)
        assert values.shape == (min(shape.ids, shape.V + 1), shape.D)
        assert unique.shape == values.shape[:1]
        assert index["a"].shape == (shape.ids,)


KERNEL_ROWS, KERNEL_WIDTH = 400, 128
"""Rows of the tables that the kernels for TPUs take; a step names more ids than a chunk holds."""


def steps(name: str, implementation: str, ids: list[np.ndarray], width: int = KERNEL_WIDTH):
    """A table and its slots after a step for each of `ids`, and the values of the first lookup."""
    update, init = RULES[name]

    @jax.jit
    def step(state, ids):
        values, unique, index = er.lookup(state[0], {"a": ids}, implementation=implementation)
        weight = jnp.sin(jnp.arange(ids.size * width, dtype=jnp.float32)).reshape(ids.size, width)
        weight = jnp.where((jnp.arange(ids.size) % 5 > 0)[:, None], weight, 0)
        grads = jax.grad(lambda values: (values[index["a"]] * weight).sum())(values)
        state = update(*state, unique, grads, 0.1, weight_decay=0.01, implementation=implementation)
        return state, values

    table = table_of(KERNEL_ROWS, width)
    state, values = (table, init(table)), []
    with tpu.interpreted():
        for some in ids:
            state, found = step(state, jnp.asarray(some, jnp.int32))
            values.append(found)
    return state, values[0]


@pytest.mark.parametrize("name", RULES)
def test_the_kernels_give_the_formulas_table_and_touch_no_other_row(name):
    # Repeated ids, and ids before the first and after the last row.
    ids = np.random.default_rng(0).integers(-3, KERNEL_ROWS // 2, (2, 700))
    ids[:, :4] = KERNEL_ROWS, KERNEL_ROWS + 7, 2**31 - 1, -(2**31)
    got, expected = (steps(name, form, ids) for form in ("pallas_tpu", "reference"))
    assert_close(got, expected, 1e-6)
    before = table_of(KERNEL_ROWS, KERNEL_WIDTH)
    np.testing.assert_array_equal(got[0][0][KERNEL_ROWS // 2 :], before[KERNEL_ROWS // 2 :])
    np.testing.assert_array_equal(got[1], expected[1])


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), names=st.sampled_from([1, 127, 128, 129]) | st.integers(1, 500))
def test_the_kernels_take_any_number_of_ids(seed, names):
    ids = np.random.default_rng(seed).integers(0, 2 * KERNEL_ROWS, (1, names))
    got, expected = (steps("adagrad", form, ids) for form in ("pallas_tpu", "reference"))
    assert_close(got, expected, 1e-6)


@pytest.mark.slow
def test_the_kernels_wait_for_every_copy_before_they_use_it(monkeypatch):
    # The simulator moves bytes when a copy is waited for, and not before.
    simulator = pltpu.InterpretParams(dma_execution_mode="on_wait", detect_races=True)
    monkeypatch.setattr(tpu, "interpret", lambda: simulator)
    ids = np.random.default_rng(0).integers(0, 2 * KERNEL_ROWS, (1, 900))
    got, expected = (steps("sgd", form, ids) for form in ("pallas_tpu", "reference"))
    assert_close(got, expected, 1e-6)


@pytest.mark.parametrize("form", ["xla", "pallas_tpu"])
def test_nothing_happens_where_no_id_names_a_row(form):
    got, expected = (steps("adam", one, np.full((1, 9), -1), 256) for one in (form, "reference"))
    assert_equal(got, expected)
    assert_equal(got[0][0], table_of(KERNEL_ROWS, 256))


@partial(jax.jit, static_argnums=0)
def update_by(form: str, table, slots, unique, grads):
    return er.update_adam(table, slots, unique, grads, 0.1, weight_decay=0.01, implementation=form)


@pytest.mark.parametrize("form", ["xla", "pallas_tpu"])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(others=st.sets(st.integers(0, KERNEL_ROWS - 1), max_size=199), seed=st.integers(0, 99))
def test_a_row_takes_the_same_step_beside_any_others(form, others, seed):
    row, slots = 137, 200
    table = table_of(KERNEL_ROWS, KERNEL_WIDTH)

    def stepped(named, grads):
        ids = np.full(slots, KERNEL_ROWS, np.int32)
        ids[: len(named)] = sorted(named)
        grads = grads.at[sorted(named).index(row)].set(table_of(1, KERNEL_WIDTH, seed=200)[0])
        with tpu.interpreted():
            return update_by(form, table, er.init_adam(table), jnp.asarray(ids), grads)

    alone = stepped({row}, jnp.zeros((slots, KERNEL_WIDTH)))
    beside = stepped(others | {row}, 1e4 * table_of(slots, KERNEL_WIDTH, seed=seed))
    for x, y in zip(jax.tree.leaves(beside), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(x[row], y[row])
    assert np.any(np.asarray(alone[0][row]) != table[row])


def test_the_kernels_refuse_what_they_cannot_copy():
    with tpu.interpreted():
        for table in (table_of(9, 64), table_of(9, 128).astype(jnp.bfloat16)):
            unique, grads = jnp.asarray([2], jnp.int32), jnp.ones((1, table.shape[1]))
            with pytest.raises(NotImplementedError, match="multiple of 128"):
                er.lookup(table, {"a": unique}, implementation="pallas_tpu")
            with pytest.raises(NotImplementedError, match="multiple of 128"):
                er.update_sgd(table, er.SgdSlots(), unique, grads, 0.1, implementation="pallas_tpu")
        many = jax.ShapeDtypeStruct((2**17 + 1,), jnp.int32)
        with pytest.raises(NotImplementedError, match="131073 row numbers"):
            jax.eval_shape(lambda ids: er.lookup(jnp.ones((2**18, 128)), {"a": ids}, implementation="pallas_tpu"), many)
    with pytest.raises(NotImplementedError, match="platform"):
        er.lookup(table_of(9, 128), {"a": jnp.asarray([2])}, implementation="pallas_tpu")
