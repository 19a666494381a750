"""Packed attention gives what the formula gives, in values and gradients, however the score matrix is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from mdrec_kernels.packed_attention import Tiling, packed_attention, time_bucket
from mdrec_kernels.packed_attention.shapes import SHAPES

from tests.kernels.packed import arrays, pack, times

SMALL = Tiling(block=16, step=8, group_bytes=6000)
"""Two widths and several groups, some not full, on rows that are short enough for a test."""
ROWS = [[5, 7, 1, 13, 4], [-3, 17, 1, 1, 6], [30], [], [9, -4, 9]]
SEGMENT = pack(ROWS, 30)

CASES = {
    "softmax": {},
    "softmax, window": {"window": 6},
    "softmax, not causal": {"causal": False, "window": 9},
    "softmax, biases a head": {"position": 2, "time": 2, "window": 20},
    "softmax, shared biases": {"position": 1, "time": 1},
    "softmax, time bias, not causal": {"time": 1, "causal": False},
    "silu": {"mode": "silu"},
    "silu, window, biases": {"mode": "silu", "window": 11, "position": 1, "time": 2},
    "silu, not causal": {"mode": "silu", "causal": False},
    "softmax, dropout": {"dropout": 0.4, "window": 20},
    "silu, dropout": {"mode": "silu", "dropout": 0.4},
}


def attend(weights, segment, case, implementation, tiling=None, seed=0):
    """`packed_attention` of a case of CASES on weights (q, k, v, position bias, time bias)."""
    q, k, v, position, time = weights
    rows, length = segment.shape
    moments = jnp.asarray(times(seed, rows, length))
    return packed_attention(
        q,
        k,
        v,
        jnp.asarray(segment),
        mode=case.get("mode", "softmax"),
        causal=case.get("causal", True),
        window=case.get("window"),
        normalizer=20.0 if case.get("mode") == "silu" else None,
        position_bias=position,
        time_bias=time,
        time=moments,
        query_time=moments + 3600,
        dropout_rate=case.get("dropout", 0.0),
        dropout_keys=jax.random.split(jax.random.key(seed), rows) if "dropout" in case else None,
        tiling=tiling,
        implementation=implementation,
    )


def make_weights(case, rows, length, *, heads=2, width=8, seed=1, dtype="float32"):
    q, k, v = arrays(seed, rows, length, heads, width, dtype=dtype)
    generator = np.random.default_rng(seed)
    position, time = (
        jnp.asarray(generator.normal(size=(case[name], n)), dtype) if name in case else None
        for name, n in (("position", 7), ("time", 40))
    )
    return q, k, v, position, time


def value_and_gradients(weights, segment, case, implementation, tiling=None):
    ahead = jnp.asarray(np.random.default_rng(5).normal(size=weights[0].shape), weights[0].dtype)

    def f(weights):
        out = attend(weights, segment, case, implementation, tiling)
        return (out * ahead).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(f, has_aux=True))(weights)
    return out, gradients


def assert_close(got, expected, tolerance=3e-6):
    """Equal to within `tolerance` of the largest entry of each array, and numbers all of them."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.isfinite(y).all()
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(y).max())))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_formulas(name):
    case = CASES[name]
    weights = make_weights(case, *SEGMENT.shape)
    got = value_and_gradients(weights, SEGMENT, case, "xla", SMALL)
    assert_close(got, value_and_gradients(weights, SEGMENT, case, "reference"))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.sampled_from([-5, 1, 1, 3, 19]), max_size=4), min_size=1, max_size=3),
    rest=st.integers(0, 5),
    heads=st.integers(1, 3),
    width=st.integers(1, 9),
    name=st.sampled_from(["softmax", "softmax, not causal", "silu", "silu, not causal"]),
)
def test_odd_sizes_and_segments_of_any_length(rows, rest, heads, width, name):
    segment = pack(rows, max(1, *(sum(map(abs, row)) + rest for row in rows)))
    weights = make_weights({}, *segment.shape, heads=heads, width=width)
    got = value_and_gradients(weights, segment, CASES[name], "xla", SMALL)
    assert_close(got, value_and_gradients(weights, segment, CASES[name], "reference"))


@pytest.mark.parametrize("tiling", [None, Tiling(8, 4, 1), Tiling(30, 10, 9000)])
def test_the_cut_changes_nothing(tiling):
    case = {"window": 13, "position": 1, "time": 1}
    weights = make_weights(case, *SEGMENT.shape)
    got = jax.jit(lambda w: attend(w, SEGMENT, case, "xla", tiling))(weights)
    assert_close(got, attend(weights, SEGMENT, case, "reference"))


@pytest.mark.parametrize("mode", ["softmax", "silu"])
def test_gradients_are_the_slopes_of_the_function(mode):
    segment = pack([[3, 1, 2], [-1, 4]], 6)
    case = {"mode": mode, "position": 1, "time": 2}
    with jax.enable_x64(True):
        weights = make_weights(case, *segment.shape, width=3, dtype="float64")
        f = jax.jit(lambda w: attend(w, segment, case, "xla", Tiling(4, 2, 64)))
        check_grads(f, (weights,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        weights = make_weights({}, *SEGMENT.shape, dtype="float64")
        got, expected = (attend(weights, SEGMENT, {}, name) for name in ("xla", "reference"))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", ["softmax", "silu"])
def test_bfloat16_errs_little_more_than_rounding_its_input(mode):
    case = {"mode": mode, "window": 20}
    narrow = tuple(None if x is None else x.astype(jnp.bfloat16) for x in make_weights(case, *SEGMENT.shape))
    wide = tuple(None if x is None else x.astype(jnp.float32) for x in narrow)
    exact = value_and_gradients(wide, SEGMENT, case, "reference")
    naive = value_and_gradients(narrow, SEGMENT, case, "reference")
    got = value_and_gradients(narrow, SEGMENT, case, "xla", SMALL)
    for x, y, z in zip(*(jax.tree.leaves(tree) for tree in (got, naive, exact)), strict=True):
        assert x.dtype == jnp.bfloat16
        error, allowed = (float(jnp.sqrt(jnp.mean((a.astype(jnp.float32) - z) ** 2))) for a in (x, y))
        assert error <= 2 * allowed


def test_time_buckets_are_two_an_octave():
    seconds = jnp.asarray([-5, 0, 1, 2, 3, 3600, 86400, 365 * 86400, 2**31 - 1], jnp.int32)
    np.testing.assert_array_equal(time_bucket(seconds, 63), [0, 0, 2, 3, 4, 23, 32, 49, 62])
    np.testing.assert_array_equal(time_bucket(seconds, 10), [0, 0, 2, 3, 4, 9, 9, 9, 9])


def test_a_query_looks_back_from_its_own_time():
    q, k, v = arrays(0, 1, 4, 1, 2)
    segment, time = jnp.ones((1, 4), jnp.int32), jnp.asarray([[0, 10, 100, 1000]], jnp.int32)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1, 63)), jnp.float32)
    settings = {"time_bias": table, "time": time, "scale": 0.0}
    got = packed_attention(q, k, v, segment, query_time=time + 7, **settings)
    for t in range(4):
        ages = [int(time[0, t]) + 7 - int(time[0, s]) for s in range(t + 1)]
        weight = jax.nn.softmax(table[0, time_bucket(jnp.asarray(ages), 63)])
        np.testing.assert_allclose(got[0, t, 0], weight @ v[0, : t + 1, 0], rtol=1e-5)
    assert not np.allclose(got, packed_attention(q, k, v, segment, **settings))


def test_the_result_is_the_same_every_time():
    case = CASES["softmax, biases a head"]
    weights = make_weights(case, *SEGMENT.shape)
    f = jax.jit(lambda w: value_and_gradients(w, SEGMENT, case, "xla", SMALL))
    for first, second in zip(jax.tree.leaves(f(weights)), jax.tree.leaves(f(weights)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_temporary_memory_does_not_grow_with_the_square_of_the_row():
    def temporary(length):
        shape = jax.ShapeDtypeStruct((4, length, 1, 16), jnp.float32)
        segment = jax.ShapeDtypeStruct((4, length), jnp.int32)
        cuts = Tiling(64, 64, 256 << 10)
        f = jax.grad(lambda q, k, v, s: packed_attention(q, k, v, s, window=32, tiling=cuts).sum(), argnums=(0, 1, 2))
        return jax.jit(f).lower(shape, shape, shape, segment).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary(256), temporary(2048)
    assert long < 9 * short
    assert long < 4 * 2048 * 2048 * 4 / 10  # a tenth of one score matrix


def test_a_step_needs_a_small_part_of_the_formulas_memory():
    shape = next(shape for shape in SHAPES if shape.name == "ml1m")
    x = jax.ShapeDtypeStruct((shape.R, shape.T, shape.H, shape.K), jnp.float32)
    segment = jax.ShapeDtypeStruct((shape.R, shape.T), jnp.int32)

    def temporary(form):
        def loss(q, k, v, segment):
            return packed_attention(q, k, v, segment, window=shape.window, implementation=form).sum()

        f = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        return f.lower(x, x, x, segment).compile().memory_analysis().temp_size_in_bytes

    assert temporary("xla") < temporary("reference") / 4


def test_shapes_are_what_the_operation_accepts():
    for shape in SHAPES:
        q = jax.ShapeDtypeStruct((shape.R, shape.T, shape.H, shape.K), jnp.float32)
        segment = jax.ShapeDtypeStruct((shape.R, shape.T), jnp.int32)
        settings = {"mode": shape.mode, "window": shape.window, "normalizer": float(shape.window)}
        out = jax.eval_shape(lambda q, s, settings=settings: packed_attention(q, q, q, s, **settings), q, segment)
        assert out.shape == q.shape


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mode": "linear"}, "mode"),
        ({"mode": "silu"}, "normalizer"),
        ({"window": 0}, "window"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"position_bias": jnp.zeros((3, 4))}, "position_bias"),
        ({"position_bias": jnp.zeros((1, 4)), "causal": False}, "causal"),
        ({"time_bias": jnp.zeros((1, 4))}, "time"),
        ({"implementation": "cuda"}, "packed_attention"),
    ],
)
def test_what_has_no_meaning_is_refused(settings, problem):
    q, k, v = arrays(0, 1, 4, 2, 2)
    with pytest.raises(ValueError, match=problem):
        packed_attention(q, k, v, jnp.ones((1, 4), jnp.int32), **settings)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v = arrays(0, 1, 4, 2, 2)
    with pytest.raises(ValueError, match="segment"):
        packed_attention(q, k, v, jnp.ones((1, 5), jnp.int32))
    with pytest.raises(ValueError, match="floating type"):
        packed_attention(q, k, v.astype(jnp.bfloat16), jnp.ones((1, 4), jnp.int32))
