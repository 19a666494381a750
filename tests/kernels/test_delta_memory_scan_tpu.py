"""The kernels for TPUs give what the reference gives, and compile for every TPU with no memory beside operands."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from mdrec_kernels import dispatch, tpu
from mdrec_kernels.delta_memory_scan import delta_memory_scan, tpu_cut
from mdrec_kernels.delta_memory_scan.shapes import USERS, Shape, backward_work, forward_work

from tests.kernels.delta_cases import aligned, assert_close, make, scan, value_and_gradients
from tests.kernels.fetches import moved
from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

CHUNK = 64
ROWS = [[7, 45, -32, 33], [-40, 150], []]
SEGMENT = aligned(ROWS, CHUNK, 250)
"""Two blocks of one piece of two chunks, if blocks are cut short; rows and columns are filled up."""


def test_values_and_gradients_in_the_interpreter(monkeypatch):
    monkeypatch.setattr(tpu_cut, "COLUMNS", 128)
    inputs = make(*SEGMENT.shape, K=16, V=8)
    run = partial(value_and_gradients, inputs, SEGMENT, chunk=CHUNK)
    with tpu.interpreted():
        found = run(implementation="pallas_tpu")
    assert_close(found, run(implementation="reference"), 4e-6)


@pytest.mark.slow
def test_bfloat16_errs_at_most_twice_as_much_as_its_reference():
    segment = aligned([[90], [64, 30]], CHUNK, 128)
    wide = make(*segment.shape, K=32, V=32)
    narrow = wide | {name: wide[name].astype(jnp.bfloat16) for name in ("q", "k", "value")}
    run = partial(value_and_gradients, segment=segment, chunk=CHUNK)
    exact, naive = run(wide, implementation="reference"), run(narrow, implementation="reference")
    with tpu.interpreted():
        got = run(narrow, implementation="pallas_tpu")
    for name, x in exact.items():
        error, allowed = (float(jnp.linalg.norm(y[name].astype(jnp.float32) - x)) for y in (got, naive))
        assert got[name].dtype == naive[name].dtype
        assert error <= 2 * allowed, name


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    before=st.lists(st.sampled_from([-64, 1, 20, 64]), max_size=3),
    length=st.sampled_from([1, 50, 64]),
    after=st.integers(0, 64),
    seed=st.integers(1, 9),
)
def test_a_user_gets_the_same_at_any_offset_beside_any_neighbours_and_padding(before, length, after, seed):
    segment = aligned([[3, 100], [*before, length, after]], CHUNK, 256)
    at = CHUNK * len(before)
    alone, among = (make(2, 256, K=16, V=8, seed=one) for one in (0, seed))
    for name in among.keys() - {"state"}:
        among[name] = among[name].at[1, at : at + length].set(alone[name][0, :length])
    among["state"] = among["state"].at[1].set(alone["state"][0])
    with tpu.interpreted():
        run = partial(scan, chunk=CHUNK, implementation="pallas_tpu")
        expected, _ = run(alone, aligned([[length], []], CHUNK, 256))
        found, _ = run(among, segment)
    np.testing.assert_allclose(found[1, at : at + length], expected[0, :length], atol=1e-6)
    assert not np.asarray(found)[segment == 0].any()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"chunk": 20}, "a multiple of 8, and divide 128 or be one of it; found 20"),
        ({}, {"chunk": 192}, "found 192"),
        ({"K": 7}, {"chunk": 32}, "width that is a multiple of 8, found 7"),
        ({"V": 1 << 18}, {"chunk": 32}, "MiB of VMEM"),
    ],
)
def test_shapes_that_are_not_taken(change, options, message):
    inputs = jax.eval_shape(lambda: make(2, 128, **({"K": 16, "V": 8} | change)))
    with tpu.interpreted(), pytest.raises(NotImplementedError, match=message):
        jax.eval_shape(lambda x: scan(x, np.ones((2, 128), np.int32), implementation="pallas_tpu", **options), inputs)


def arguments(shape: Shape) -> tuple[Any, Any]:
    """Shapes of segments and of the rest, q, k and value in bfloat16."""
    numbers = jax.ShapeDtypeStruct((shape.R, shape.T), jnp.float32)
    rest = {name: jax.ShapeDtypeStruct((shape.R, shape.T, shape.K), jnp.bfloat16) for name in ("q", "k")}
    rest["value"] = jax.ShapeDtypeStruct((shape.R, shape.T, shape.V), jnp.bfloat16)
    rest["state"] = jax.ShapeDtypeStruct((shape.R, shape.K, shape.V), jnp.float32)
    rest |= {"write": numbers, "log_decay": numbers}
    return jax.ShapeDtypeStruct((shape.R, shape.T), jnp.int32), rest


def passes(shape: Shape) -> dict[str, tuple]:
    """Function and arguments: forward, forward with what is kept for the way back, and the way back."""

    def forward(segment, inputs):
        return delta_memory_scan(segment=segment, chunk=shape.chunk, **inputs)

    def keeping(segment, inputs):
        return jax.vjp(partial(forward, segment), inputs)

    with dispatch.compiling_for("tpu"):
        found, back = jax.eval_shape(keeping, *arguments(shape))
    return {
        "forward": (forward, *arguments(shape)),
        "keeping": (keeping, *arguments(shape)),
        "backward": (lambda back, d: back(d), back, found),
    }


FETCHED = {("v5p", "backward"): 5 * USERS.R * USERS.T}
"""One number a token, which v5p's compiler fetches ahead of the kernel."""


@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS)
def test_compiled_with_no_temporary_memory(chip):
    for name, (f, *rest) in passes(USERS).items():
        compiled = compile_for(chip, f, *rest)
        assert compiled.kernels == 1, name
        assert compiled.temporaries <= FETCHED.get((chip, name), 0), name


def test_little_more_is_moved_than_has_to_be():
    shape = USERS
    floor = {"forward": forward_work(shape, 2), "keeping": forward_work(shape, 2), "backward": backward_work(shape, 2)}
    for name, (f, *rest) in passes(shape).items():
        with dispatch.compiling_for("tpu"):
            found = sum(one.bytes for one in moved(f, *rest))
        assert found <= 1.2 * floor[name].bytes, name


@pytest.mark.tpu
def test_sixteen_chips_say_nothing_to_each_other():
    segment, rest = arguments(USERS)
    specs = {name: P("data") for name in rest}

    def gradients(mesh, segment, rest):
        def local(segment, rest):
            def loss(inputs):
                out, end = delta_memory_scan(segment=segment, chunk=USERS.chunk, **inputs)
                return (out.astype(jnp.float32) ** 2).sum() + (end**2).sum()

            return jax.grad(loss)(rest)

        return jax.shard_map(local, mesh=mesh, in_specs=(P("data"), specs), out_specs=specs, check_vma=False)(
            segment, rest
        )

    compiled = compile_spmd(gradients, (segment, P("data")), (rest, P("data")), axes={"data": 16})
    assert compiled.collectives == {}
    assert compiled.kernels == 2
