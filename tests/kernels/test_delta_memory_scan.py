"""The chunked scan gives what the recurrence gives, token by token, in values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from mdrec_kernels.delta_memory_scan import delta_memory_scan, xla
from mdrec_kernels.delta_memory_scan.delta_chunk import inverse
from mdrec_kernels.delta_memory_scan.places import places
from mdrec_kernels.delta_memory_scan.shapes import SHAPES, USERS
from mdrec_kernels.delta_memory_scan.xla import Tile

from tests.kernels.delta_cases import aligned, assert_close, make, scan, value_and_gradients

CHUNK = 4
ROWS = [[7, 1, -8, 9], [-4, 13], [], [1, 1, 1, 4, 0, 5]]
SEGMENT = aligned(ROWS, CHUNK, 29)
TILE = Tile(rows=3, chunks=2)
"""Several blocks of several rows, the last of them filled up."""


def recurrence(inputs, segment):
    """The papers' recurrences, one token after the other, in float64: nothing is put off to a chunk's end."""
    x = {name: np.asarray(value, np.float64) for name, value in inputs.items()}
    out, end, scale = np.zeros_like(x["value"]), x["state"].copy(), x["q"].shape[2] ** -0.5
    for r, numbers in enumerate(segment):
        before = 0
        for t in np.flatnonzero(numbers):
            S = end[r] if numbers[t] == before else x["state"][r]
            q, k, value, write = (x[name][r, t] for name in ("q", "k", "value", "write"))
            S = np.exp(x["log_decay"][r, t]) * S
            S = S + write * np.outer(k, value - k @ S)
            out[r, t] = scale * q @ S
            before, end[r] = numbers[t], S
    return {"out": out, "end": end}


@pytest.mark.parametrize("form", ["reference", "xla"])
@pytest.mark.parametrize("chunk", [1, CHUNK])
def test_the_per_token_recurrence(chunk, form):
    segment = aligned(ROWS, chunk, 50)
    inputs = make(*segment.shape)
    out, end = scan(inputs, segment, chunk=chunk, implementation=form)
    for name, x in recurrence(inputs, segment).items():
        np.testing.assert_allclose({"out": out, "end": end}[name], x, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_values_and_gradients_are_the_references(chunk, monkeypatch):
    monkeypatch.setattr(xla, "tile", lambda *_: TILE)
    segment = aligned(ROWS, chunk, 37)
    inputs = make(*segment.shape)
    expected = value_and_gradients(inputs, segment, chunk=chunk, implementation="reference")
    found = value_and_gradients(inputs, segment, TILE, chunk=chunk, implementation="xla")
    assert_close(found, expected)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.sampled_from([-3, 0, 1, 2, 11]), max_size=4), min_size=1, max_size=3),
    length=st.integers(1, 25),
    chunk=st.sampled_from([1, 3, 5, 8]),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_odd_sizes_and_segments_of_any_length(rows, length, chunk, sizes):
    segment = aligned(rows, chunk, length)
    inputs = make(*segment.shape, **dict(zip("KV", sizes, strict=True)))
    found, expected = (
        value_and_gradients(inputs, segment, chunk=chunk, implementation=form) for form in ("xla", "reference")
    )
    assert_close(found, expected, 1e-5)


def test_gradients_are_differences():
    with jax.enable_x64(True):
        segment = aligned([[5, 2], [-3, 3]], 3, 9)
        inputs = make(*segment.shape, K=3, V=2, dtype="float64")
        f = partial(scan, segment=segment, chunk=3, implementation="xla")
        check_grads(f, (inputs,), order=1, modes=["rev"], atol=1e-7, rtol=1e-7)


def test_bfloat16_errs_at_most_twice_as_much_as_its_reference():
    segment = aligned([[40, 17], [64]], 16, 64)
    wide = make(*segment.shape, K=32, V=32)
    narrow = wide | {name: wide[name].astype(jnp.bfloat16) for name in ("q", "k", "value")}
    run = partial(value_and_gradients, segment=segment, chunk=16)
    exact = run(wide, implementation="reference")
    with jax.numpy_dtype_promotion("strict"):
        naive, got = (run(narrow, implementation=form) for form in ("reference", "xla"))
    for name, x in exact.items():
        error, allowed = (float(jnp.linalg.norm(y[name].astype(jnp.float32) - x)) for y in (got, naive))
        assert got[name].dtype == naive[name].dtype
        assert error <= 2 * allowed, name


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_user_gets_the_same_at_any_offset_beside_any_neighbours(data):
    length, width = data.draw(st.integers(1, 14)), 32
    at = CHUNK * data.draw(st.integers(0, (width - length) // CHUNK))
    alone, among = (make(2, width, seed=seed) for seed in (1, 2))
    numbers = np.zeros((2, width), np.int32)
    numbers[0, :length] = 1
    crowd = np.repeat(data.draw(st.lists(st.integers(0, 3), min_size=16, max_size=16)), CHUNK).reshape(2, width)
    crowd = np.where(crowd > 0, 10 * (1 + np.arange(width)[None] // CHUNK) + crowd, 0).astype(np.int32)
    crowd[1, at : at + -(-length // CHUNK) * CHUNK] = 0
    crowd[1, at : at + length] = 7
    for name, x in among.items():
        if name == "state":
            among[name] = x.at[1].set(alone[name][0])
        else:
            among[name] = x.at[1, at : at + length].set(alone[name][0, :length])
    expected, _ = scan(alone, numbers, chunk=CHUNK)
    found, _ = scan(among, crowd, chunk=CHUNK)
    np.testing.assert_allclose(found[1, at : at + length], expected[0, :length], atol=1e-6)
    assert not np.asarray(found)[crowd == 0].any()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(-5, 9), max_size=3), seed=st.integers(0, 9))
def test_what_stands_at_padding_changes_nothing(lengths, seed):
    segment = aligned([lengths, []], CHUNK, 32)
    inputs, other = make(2, 32), make(2, 32, seed=seed + 1)
    padding = jnp.asarray(segment == 0)
    filled = {
        name: x if name == "state" else jnp.where(padding.reshape(2, 32, *(1,) * (x.ndim - 2)), other[name], x)
        for name, x in inputs.items()
    }
    expected, found = (scan(x, segment, chunk=CHUNK) for x in (inputs, filled))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(found[1][1], inputs["state"][1])  # a row without tokens hands its state on


@pytest.mark.parametrize("form", ["reference", "xla"])
def test_rows_of_padding_have_no_nan_in_gradients(form):
    inputs = make(*SEGMENT.shape)
    found = value_and_gradients(inputs, np.zeros(SEGMENT.shape, np.int32), chunk=CHUNK, implementation=form)
    assert all(np.isfinite(x).all() for x in found.values())
    assert not any(np.any(x) for name, x in found.items() if name not in ("end", "state"))


def test_the_same_key_again_and_again_and_memories_that_fade_at_once():
    inputs = make(*SEGMENT.shape)
    inputs["k"] = jnp.broadcast_to(inputs["k"][:1, :1], inputs["k"].shape)
    inputs |= {"write": jnp.ones(SEGMENT.shape), "log_decay": inputs["log_decay"].at[:, ::3].set(-jnp.inf)}
    expected = value_and_gradients(inputs, SEGMENT, chunk=CHUNK, implementation="reference")
    found = value_and_gradients(inputs, SEGMENT, chunk=CHUNK, implementation="xla")
    assert_close(found, expected, 1e-5)


def test_a_state_is_carried_from_call_to_call():
    inputs, segment = make(2, 16), np.ones((2, 16), np.int32)
    out, end = scan(inputs, segment, chunk=CHUNK)
    columns = {name for name in inputs if name != "state"}
    first, second = (
        {n: x[:, part] if n in columns else x for n, x in inputs.items()} for part in (slice(8), slice(8, 16))
    )
    before, state = scan(first, segment[:, :8], chunk=CHUNK)
    after, last = scan(second | {"state": state}, segment[:, 8:], chunk=CHUNK)
    np.testing.assert_allclose(jnp.concatenate([before, after], axis=1), out, atol=1e-6)
    np.testing.assert_allclose(last, end, atol=1e-6)


def test_there_is_no_decay_by_default_and_the_state_starts_empty():
    inputs = make(*SEGMENT.shape)
    given = inputs | {"log_decay": jnp.zeros(SEGMENT.shape), "state": jnp.zeros_like(inputs["state"])}
    left = {name: x for name, x in inputs.items() if name not in ("log_decay", "state")}
    for x, y in zip(scan(left, SEGMENT, chunk=4), scan(given, SEGMENT, chunk=4), strict=True):
        np.testing.assert_array_equal(x, y)


def test_of_several_segments_in_a_chunk_the_lowest_counts():
    found = places(jnp.asarray([[0, 3, 3, 4, 4, 4, 0, 0, 0, 0, 0, 0, 4, 5, 5, 5]]), 4)
    np.testing.assert_array_equal(found, [[0, 2, 2, 0, 2, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]])


def test_rows_spread_over_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    inputs = make(*SEGMENT.shape)
    specs = {name: P("data") for name in inputs}

    def gradients(inputs, segment):
        return jax.grad(lambda inputs: sum((x**2).sum() for x in scan(inputs, segment, chunk=CHUNK)))(inputs)

    spread = jax.shard_map(gradients, mesh=mesh, in_specs=(specs, P("data")), out_specs=specs, check_vma=False)
    assert_close(jax.jit(spread)(inputs, SEGMENT), jax.jit(gradients)(inputs, SEGMENT))


def test_what_does_not_fit_is_refused():
    inputs = make(2, 8)
    segment = np.ones((2, 8), np.int32)
    for change, message in (
        ({"write": jnp.ones((2, 7))}, r"write must be \[R, T\]"),
        ({"state": jnp.ones((2, 3, 5))}, r"state must be .* \(2, 6, 5\), found \(2, 3, 5\)"),
        ({"log_decay": jnp.zeros((2, 7))}, r"log_decay must be \[R, T\]"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"q": jnp.ones((2, 8, 6), jnp.bfloat16)}, "share a floating type"),
        ({"value": jnp.ones((2, 7, 5))}, r"expected q, k \[R, T, K\]"),
    ):
        with pytest.raises(ValueError, match=message):
            delta_memory_scan(**({"segment": segment} | inputs | change))


def test_shapes_are_what_the_operation_accepts():
    for shape in (*SHAPES, USERS):
        tokens = [jax.ShapeDtypeStruct((shape.R, shape.T, n), jnp.bfloat16) for n in (shape.K, shape.K, shape.V)]
        gate = jax.ShapeDtypeStruct((shape.R, shape.T), jnp.float32)
        f = partial(delta_memory_scan, chunk=shape.chunk)
        out, end = jax.eval_shape(f, *tokens, gate, gate)
        assert out.shape == (shape.R, shape.T, shape.V)
        assert end.shape == (shape.R, shape.K, shape.V)


@pytest.mark.parametrize("size", [1, 7, 16, 24, 64, 90])
def test_inverse_of_linked_rows(size):
    links = np.tril(np.random.default_rng(size).normal(size=(3, 2, size, size)), -1) / np.sqrt(size)
    expected = np.linalg.inv(np.eye(size) + links)
    for given_ in (links, links[0, 0]):  # with leading axes, as in plain XLA, and without, as in a kernel
        found = inverse(jnp.asarray(given_, jnp.float32))
        np.testing.assert_allclose(found, expected if given_ is links else expected[0, 0], rtol=2e-4, atol=2e-5)
