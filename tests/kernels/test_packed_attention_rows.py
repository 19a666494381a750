"""What a segment gets depends on that segment: not on its neighbours, its place, padding, or the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdrec_kernels.packed_attention import Tiling, packed_attention
from mdrec_kernels.packed_attention.dropout import keep_mask, row_seeds

from tests.kernels.packed import arrays, pack, times

SMALL = Tiling(block=8, step=8, group_bytes=2048)
LENGTH, USER = 40, 11
TIME_TABLE = jnp.asarray(np.random.default_rng(3).normal(size=(1, 40)), jnp.float32)
POSITION_TABLE = jnp.asarray(np.random.default_rng(4).normal(size=(2, 9)), jnp.float32)


def settings_of(mode):
    return {
        "mode": mode,
        "window": 16,
        "normalizer": 16.0 if mode == "silu" else None,
        "position_bias": POSITION_TABLE,
        "time_bias": TIME_TABLE,
        "tiling": SMALL,
    }


@jax.jit
def softmax_rows(q, k, v, segment, time):
    return packed_attention(q, k, v, segment, time=time, **settings_of("softmax"))


@jax.jit
def silu_rows(q, k, v, segment, time):
    return packed_attention(q, k, v, segment, time=time, **settings_of("silu"))


def value_and_pullback(f, *weights):
    """f of the weights, and the gradient of half its square."""
    out, backward = jax.vjp(f, *weights)
    return out, backward(out)


FORMS = {"softmax": softmax_rows, "silu": silu_rows}


@pytest.mark.parametrize("mode", FORMS)
@settings(max_examples=25, deadline=None)
@given(
    before=st.lists(st.integers(1, 9), max_size=6),
    gap=st.integers(0, 3),
    after=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_a_user_gets_the_same_at_any_offset_beside_any_neighbours(mode, before, gap, after, seed):
    before = [n for n, end in zip(before, np.cumsum(before), strict=True) if end + gap + USER <= LENGTH]
    start = sum(before) + gap
    after = min(after, LENGTH - start - USER)
    segment = pack([[*before, *([-gap] if gap else []), USER, *([after] if after else [])]], LENGTH)
    row = arrays(seed + 100, 1, LENGTH, 2, 4)
    user = arrays(0, 1, USER, 2, 4)
    moments, own = times(seed, 1, LENGTH), times(99, 1, USER)
    moments[:, start : start + USER] = own
    placed = [x.at[:, start : start + USER].set(y) for x, y in zip(row, user, strict=True)]
    alone = [jnp.zeros_like(x).at[:, :USER].set(y) for x, y in zip(row, user, strict=True)]
    beside = FORMS[mode](*placed, jnp.asarray(segment), jnp.asarray(moments))
    single = FORMS[mode](
        *alone, jnp.asarray(pack([[USER]], LENGTH)), jnp.asarray(np.pad(own, ((0, 0), (0, LENGTH - USER))))
    )
    np.testing.assert_allclose(beside[:, start : start + USER], single[:, :USER], atol=2e-6)


@pytest.mark.parametrize("mode", FORMS)
def test_a_token_alone_gets_its_value(mode):
    q, k, v = arrays(0, 1, 6, 2, 4)
    segment = jnp.asarray(pack([[1, 1, 1, -1, 1]], 6))
    got = jax.jit(lambda *qkv: packed_attention(*qkv, segment, mode=mode, normalizer=3.0))(q, k, v)
    score = 0.5 * (q * k).sum(-1, keepdims=True)
    expected = v if mode == "softmax" else jax.nn.silu(score) / 3 * v
    np.testing.assert_allclose(got, jnp.where((segment > 0)[:, :, None, None], expected, 0), atol=1e-6)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("mode", FORMS)
def test_padding_gets_zeros_and_gives_nothing(mode, implementation):
    q, k, v = arrays(0, 3, 20, 1, 4)
    segment = jnp.asarray(pack([[6, -5, 4], [], [-19, 1]], 20))

    def f(q, k, v):
        keys = jax.random.split(jax.random.key(0), 3)
        return packed_attention(
            q, k, v, segment, mode=mode, normalizer=5.0, dropout_rate=0.2, dropout_keys=keys,
            tiling=SMALL, implementation=implementation,
        )  # fmt: skip

    out, gradients = jax.jit(lambda *qkv: value_and_pullback(f, *qkv))(q, k, v)
    padding = np.asarray(segment == 0)
    for x in (out, *gradients):
        assert np.isfinite(x).all()
        assert (np.asarray(x)[padding] == 0).all()


@pytest.mark.parametrize("mode", FORMS)
def test_what_stands_in_padding_and_in_neighbours_changes_nothing(mode):
    q, k, v = arrays(0, 1, 20, 1, 4)
    segment = jnp.asarray(pack([[6, -5, 7]], 20))
    others = (segment != 2)[:, :, None, None]
    f = jax.jit(lambda *qkv: packed_attention(*qkv, segment, mode=mode, normalizer=5.0, tiling=SMALL))
    first, second = (f(*(jnp.where(others, y, x) for x in (q, k, v))) for y in (0.0, 1e4))
    np.testing.assert_array_equal(first[0, 11:18], second[0, 11:18])


@pytest.mark.parametrize("mode", FORMS)
def test_huge_scores_are_no_nan(mode):
    q, k, v = arrays(0, 2, 20, 1, 4)
    segment = jnp.asarray(pack([[6, -5, 7], [20]], 20))
    options = {"mode": mode, "normalizer": 20.0, "tiling": SMALL}
    f = lambda q, k, v: packed_attention(1e4 * q, 1e4 * k, v, segment, **options)  # noqa: E731
    out, gradients = jax.jit(lambda *qkv: value_and_pullback(f, *qkv))(q, k, v)
    assert all(np.isfinite(x).all() for x in (out, *gradients))


def test_the_window_hides_what_is_farther():
    q, k, v = arrays(0, 1, 20, 1, 4)
    segment = jnp.ones((1, 20), jnp.int32)
    changed = [x.at[:, 7].add(1.0) for x in (q, k, v)]
    f = jax.jit(lambda *qkv: packed_attention(*qkv, segment, window=5, tiling=SMALL))
    first, second = f(q, k, v), f(*changed)
    differs = np.asarray(jnp.abs(first - second).max((0, 2, 3)) > 0)
    np.testing.assert_array_equal(np.flatnonzero(differs), [7, 8, 9, 10, 11])


def test_dropout_depends_on_the_rows_key_alone():
    q, k, v = arrays(0, 6, 20, 2, 4)
    segment = jnp.asarray(pack([[6, -5, 4], [20], [3, 3, 3], [], [19, 1], [20]], 20))
    keys = jax.random.split(jax.random.key(1), 6)
    f = jax.jit(
        lambda q, k, v, segment, keys: packed_attention(
            q, k, v, segment, dropout_rate=0.3, dropout_keys=keys, tiling=SMALL
        )
    )
    whole, order = f(q, k, v, segment, keys), np.asarray([4, 1, 5, 0, 2, 3])
    np.testing.assert_allclose(f(*(x[order] for x in (q, k, v, segment, keys))), whole[order], atol=1e-6)
    assert not np.allclose(whole, f(q, k, v, segment, jax.random.split(jax.random.key(2), 6)))


def test_dropout_keeps_the_share_that_it_should_and_no_pattern():
    columns = jnp.arange(256)[None]
    keep = np.asarray(
        keep_mask(row_seeds(jax.random.split(jax.random.key(0), 4)), 2, columns, columns, 0.3), np.float64
    )
    assert abs(keep.mean() - 0.7) < 0.002
    assert np.abs(keep.mean((2, 3)) - 0.7).max() < 0.01
    parts = keep.reshape(8, -1) - 0.7
    likeness = parts @ parts.T / parts.shape[1] / 0.21
    assert np.abs(likeness - np.eye(8)).max() < 0.02  # rows and heads drop independently
    for shift in (1, 2, 16):  # and so do neighbouring columns
        assert abs((parts[:, shift:] * parts[:, :-shift]).mean() / 0.21) < 0.01


def test_devices_share_the_rows_and_sum_the_gradients_of_the_tables():
    rows, length = 8, 16
    q, k, v = arrays(0, rows, length, 2, 4)
    segment = jnp.asarray(pack([[6, 4], [16], [3, 3, 3], [], [14, 1], [2, 2, 2], [-7, 9], [1]], length))
    time = jnp.asarray(times(0, rows, length))
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), rows))

    def loss(weights, segment, time, keys):
        q, k, v, position, table = weights
        out = packed_attention(
            q, k, v, segment, position_bias=position, time_bias=table, time=time,
            dropout_rate=0.3, dropout_keys=keys, tiling=SMALL,
        )  # fmt: skip
        return (out * jnp.cos(out)).sum()

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    by_row, whole = jax.P("data"), jax.P()
    specs = (by_row, by_row, by_row, whole, whole)
    weights = (q, k, v, POSITION_TABLE, TIME_TABLE)

    def step(weights, *places):
        value, gradients = jax.value_and_grad(loss)(weights, *places)
        return jax.lax.psum(value, "data"), gradients

    sharded = jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=(specs, by_row, by_row, by_row), out_specs=(whole, specs), check_vma=True
        )
    )
    put = lambda x, spec: jax.device_put(x, jax.NamedSharding(mesh, spec))  # noqa: E731
    got = sharded(tuple(map(put, weights, specs)), *(put(x, by_row) for x in (segment, time, keys)))
    expected = jax.jit(jax.value_and_grad(loss))(weights, segment, time, keys)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1.0, float(jnp.abs(y).max())))
